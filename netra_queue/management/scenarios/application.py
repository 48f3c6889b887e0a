"""The ASGI application of the scenarios' server."""

from __future__ import annotations

import hmac
import os
from typing import Any

from channels.exceptions import DenyConnection
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)

from ...consumers import AsyncQueueMixin, QueueMixin
from .server import TOKEN


class Echo(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    """Sends back what it is sent; the client's {"send": n} makes it send n numbered messages of its own."""

    async def get_queue(self) -> str | None:
        queue: str = self.scope["netra_queue_name"]
        return queue

    async def connect(self) -> None:
        self.queue_policy = self.scope["netra_policy"]
        await super().connect()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        for number in range(content.get("send", 0)):
            await self.send_json({"own": number})
        if "echo" in content:
            await self.send_json(content)


class AlwaysEcho(Echo):
    queue_persist = "always"


class SyncEcho(QueueMixin, JsonWebsocketConsumer):
    def get_queue(self) -> str | None:
        queue: str = self.scope["netra_queue_name"]
        return queue

    def connect(self) -> None:
        self.queue_policy = self.scope["netra_policy"]
        super().connect()

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        for number in range(content.get("send", 0)):
            self.send_json({"own": number})
        if "echo" in content:
            self.send_json(content)


class AsyncText(AsyncQueueMixin, AsyncWebsocketConsumer):
    async def get_queue(self) -> str | None:
        queue: str = self.scope["netra_queue_name"]
        return queue

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data, bytes_data=bytes_data)


class SyncText(QueueMixin, WebsocketConsumer):
    def get_queue(self) -> str | None:
        queue: str = self.scope["netra_queue_name"]
        return queue

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=text_data, bytes_data=bytes_data)


class UsersOnly(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    """With the default queue, for clients that nobody logged in."""


CONSUMERS: dict[str, Any] = {
    "async": Echo,
    "always": AlwaysEcho,
    "sync": SyncEcho,
    "text": AsyncText,
    "synctext": SyncText,
    "users": UsersOnly,
}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Sockets under the run's token only; everything else is refused."""
    token, consumer, policy, queue = (scope["path"].strip("/").split("/") + [""] * 4)[:4]
    if scope["type"] != "websocket" or not hmac.compare_digest(token, os.environ[TOKEN]):
        raise DenyConnection
    scope = {**scope, "netra_queue_name": queue, "netra_policy": policy}
    await CONSUMERS[consumer].as_asgi()(scope, receive, send)
