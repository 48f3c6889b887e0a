"""What the benchmarks' servers serve: the same consumer with the mixin and without it.

``/<token>/<consumer>/<policy>/<name>``, as the scenarios' server has it.
"""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db.backends.signals import connection_created

from netra_queue.consumers import AsyncQueueMixin
from netra_queue.management.scenarios.application import CONSUMERS, application

__all__ = ["application"]


statements = 0


def count_statements(*, connection: Any, **kwargs: Any) -> None:
    def execute(execute: Any, sql: str, *arguments: Any) -> Any:
        global statements
        statements += 1
        return execute(sql, *arguments)

    connection.execute_wrappers.append(execute)


connection_created.connect(count_statements)


class SendsOnRequest(AsyncJsonWebsocketConsumer):
    """Sends as many messages of its own as it is asked for, or how many statements this process has carried out."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content.get("statements"):
            await self.send_json({"type": "ready", "statements": statements})
        for number in range(content.get("send", 0)):
            await self.send_json({"number": number, "filling": "x" * content.get("filling", 0)})


class Plain(SendsOnRequest):
    """What Channels has: a group for each recipient."""

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


class Durable(AsyncQueueMixin, SendsOnRequest):
    async def get_queue(self) -> str | None:
        name: str = self.scope["netra_queue_name"]
        return name


consumers: dict[str, Any] = {"plain": Plain, "durable": Durable}
CONSUMERS |= consumers
