"""Which groups of the channel layer a consumer has joined, so that it can join them again, or leave them all."""

from __future__ import annotations

from typing import Any

from channels.layers import BaseChannelLayer


class GroupMemory:
    """A consumer's channel layer that remembers which groups the consumer has joined through it.

    For everything else it is that layer: attributes are read from and set on it, and it is equal to it.
    """

    _layer: Any
    _joined: dict[tuple[str, str], None]

    def __init__(self, layer: Any) -> None:
        vars(self).update(_layer=layer, _joined={})

    @staticmethod
    def of(layer: Any) -> Any:
        """A memory for a channel layer; anything else (None, a test's double) as it is."""
        return GroupMemory(layer) if isinstance(layer, BaseChannelLayer) else layer

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._layer)

    def __getattr__(self, name: str) -> Any:
        if name in ("_layer", "_joined"):  # a copy that is being made has neither yet
            raise AttributeError(name)
        return getattr(self._layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._layer, name, value)

    def __eq__(self, other: object) -> bool:
        return bool(self._layer == (other._layer if type(other) is GroupMemory else other))

    def __hash__(self) -> int:
        return hash(self._layer)

    async def group_add(self, group: str, channel: str) -> None:
        await self._layer.group_add(group, channel)
        self._joined[group, channel] = None

    async def group_discard(self, group: str, channel: str) -> None:
        self._joined.pop((group, channel), None)
        await self._layer.group_discard(group, channel)

    def has_joined(self, channel: str) -> bool:
        """Whether this channel is in any group."""
        return any(member == channel for _, member in self._joined)

    async def leave(self, channel: str) -> None:
        """Have this channel leave its groups; what they sent it before is still to be received. Raises what the layer
        raises."""
        for group, member in list(self._joined):
            if member == channel:
                await self.group_discard(group, channel)

    async def rejoin(self) -> None:
        """Join them again. Raises what the layer raises."""
        for group, channel in list(self._joined):
            await self._layer.group_add(group, channel)
