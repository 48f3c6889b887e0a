"""The figures over a WebSocket: the page asks for the next ones when it has drawn the last.

    client: {"range": "1h"}      server: the figures of it; for the same range again, PUSH_SECONDS later

A client that reads nothing asks for nothing, so that nothing piles up for it. Figures that do not arrive are no loss:
the next ones take their place. Hence no queue, and a plain consumer.

    from netra_queue.dashboard.consumer import websocket_urlpatterns
"""

from __future__ import annotations

import asyncio
import json
import logging
from importlib import import_module
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.urls import path
from django.utils.crypto import constant_time_compare

from ..complaints import complain
from ..core.wire import CloseCode
from ..exceptions import StoreUnavailable
from . import asking
from .figures import Range, range_named
from .views import SOCKET_PATH, may_view

logger = logging.getLogger(__name__)

PUSH_SECONDS = 10.0
SHORTEST_SECONDS = 0.5  # between two answers, whatever the client asks
MOST_BYTES = 1000  # of what a client says


class DashboardConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """For staff with the permission ``netra_queue.view_dashboard``: looked up again for each answer."""

    _task: asyncio.Task[None] | None = None
    _range: Range | None = None
    _sent_at = float("-inf")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Channels does not call ``disconnect`` when it is cancelled."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._forget()

    async def connect(self) -> None:
        await self.accept()  # before anything is refused, so that the browser is told the code
        refused = await self._refusal()
        if refused is not None:
            await self._end(refused)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            wanted = _read(text_data)
        except ValueError:
            await self._end(CloseCode.MALFORMED)
            return
        pause = PUSH_SECONDS if wanted is self._range else SHORTEST_SECONDS
        self._forget()
        self._range = wanted
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._answer(wanted, max(0.0, self._sent_at + pause - loop.time())))

    async def disconnect(self, code: int) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _answer(self, wanted: Range, pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            refused = await self._refusal()
            if refused is not None:
                await self._end(refused)
                return
            text = await database_sync_to_async(_text, thread_sensitive=False)(wanted)
            self._sent_at = asyncio.get_running_loop().time()
            await self.send(text_data=text)
        except Exception as error:
            complain(logger, "figures of the dashboard not sent", "dashboard_failed", error)
            await self._end(CloseCode.STORE_UNAVAILABLE)

    async def _end(self, code: CloseCode) -> None:
        await self.close(int(code))  # Daphne takes nothing but a plain number

    async def _refusal(self) -> CloseCode | None:
        """Why this client may not see the figures (any more); None: it may. Blocks no event loop."""
        refused: CloseCode | None = await database_sync_to_async(_refusal, thread_sensitive=False)(self.scope)
        return refused


def _read(text: str | None) -> Range:
    """Which range a client asks for. Raises ValueError for anything else."""
    if text is None or len(text) > MOST_BYTES:
        raise ValueError("expected a short text")
    asked = json.loads(text)
    return range_named(asked.get("range") if isinstance(asked, dict) else asked)


def _text(wanted: Range) -> str:
    try:
        return json.dumps(asking.answer(wanted), separators=(",", ":"))
    except StoreUnavailable as error:
        return json.dumps(asking.excuse(error))


def _refusal(scope: Any) -> CloseCode | None:
    """By the user and the session as the database has them now: a logout or a new password ends the connection."""
    known = scope.get("user")
    if known is None or not known.is_authenticated:
        return CloseCode.NOT_AUTHENTICATED
    user = get_user_model()._default_manager.filter(pk=known.pk).first()
    if user is None or not user.is_active or not _is_logged_in(scope, user):
        return CloseCode.NOT_AUTHENTICATED
    return None if may_view(user) else CloseCode.NOT_YOUR_QUEUE


def _is_logged_in(scope: Any, user: Any) -> bool:
    """Whether the session that came with the connection still has this user; True where no session did (a token)."""
    key = getattr(scope.get("session"), "session_key", None)
    if key is None:
        return True
    session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    given = session.get(HASH_SESSION_KEY, "")
    return session.get(SESSION_KEY) == str(user.pk) and any(constant_time_compare(given, each) for each in hashes)


websocket_urlpatterns = [path(SOCKET_PATH, DashboardConsumer.as_asgi())]
