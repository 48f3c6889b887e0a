"""How a server's connections adopt what operators change, within two seconds: for one hub, on its event loop.

A bell says when; without one, the store is asked every ``POLL_SECONDS``, for the whole process (see ``controls``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial

from . import conf, controls
from .acks import Call
from .core.actions import Action
from .exceptions import StoreUnavailable
from .link import Link
from .stores.base import Store

POLL_SECONDS = 1.5  # before a sender of this process finds that it is time to ask
SHORTEST_SECONDS = 0.1  # between two looks, while another thread waits for a store that does not answer


class Adopting:
    """``carry_out`` does what a connection decides. ``links`` gives the connections that are there. ``obey`` is called
    each time that they have what is in force."""

    def __init__(
        self,
        store: Store,
        call: Call,
        carry_out: Callable[[Link, Iterable[Action]], None],
        links: Callable[[], Iterable[Link]],
        obey: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self._call, self._carry_out, self._links = store, call, carry_out, links
        self._obey = obey
        self._rung = asyncio.Event()
        self._adopted = controls.generation()

    def ring(self) -> None:
        """An operator has changed something."""
        controls.expire()
        self._rung.set()

    async def refresh(self, seconds: float = controls.REFRESH_SECONDS) -> None:
        """Return when the controls in force are no older than this, or the store does not say."""
        if controls.is_stale(self._store, seconds):
            with suppress(StoreUnavailable):  # what was in force stays so
                await self._call(partial(controls.refresh, self._store, seconds))

    async def watch(self) -> None:
        """Wait for a bell, or until it is time to ask, and see to it that the connections have what is in force."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(SHORTEST_SECONDS, controls.due_in(self._store, POLL_SECONDS))):
                await self._rung.wait()
        self._rung.clear()
        await self.refresh(POLL_SECONDS)
        if self._adopted != controls.generation():
            self._adopted = controls.generation()
            for link in list(self._links()):
                self.adopt(link)
        await self._obey()

    def adopt(self, link: Link) -> None:
        """Have a connection take the policy that is in force for its queue."""
        policy = conf.policy_of(link.queue, link.presence.policy)
        standing = conf.standing_of(link.queue, policy)
        if (policy, standing) != (link.connection.policy, link.connection.standing):
            self._carry_out(link, link.adopt(policy, standing))
