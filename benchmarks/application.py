"""What the benchmarks' servers serve: the same consumer with the mixin and without it.

``/<token>/<consumer>/<policy>/<name>``, as the scenarios' server has it.
"""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from netra_queue.consumers import AsyncQueueMixin
from netra_queue.management.scenarios.application import CONSUMERS, application

__all__ = ["application"]


class Plain(AsyncJsonWebsocketConsumer):
    """What Channels has: a group for each recipient. Sends ``n`` messages of its own when asked to."""

    async def connect(self) -> None:
        await self.accept()
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.send_json({"type": "ready"})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    @property
    def group(self) -> str:
        name: str = self.scope["netra_queue_name"]
        return name

    async def bench_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["data"])

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        for number in range(content.get("send", 0)):
            await self.send_json({"number": number, "filling": "x" * content.get("filling", 0)})


class Durable(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    async def get_queue(self) -> str | None:
        name: str = self.scope["netra_queue_name"]
        return name

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        for number in range(content.get("send", 0)):
            await self.send_json({"number": number, "filling": "x" * content.get("filling", 0)})


consumers: dict[str, Any] = {"plain": Plain, "durable": Durable}
CONSUMERS |= consumers
