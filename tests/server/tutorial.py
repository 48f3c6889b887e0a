"""The chat consumers of Channels' tutorial, asynchronous and synchronous, as they are there but for the mixin.

/<token>/async/<user>/ws/chat/<room>/     the tutorial's routing, below what stands for its AuthMiddlewareStack
"""

from __future__ import annotations

import hmac
import json
import os
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import URLRouter
from django.contrib.auth.models import User
from django.urls import re_path

from netra_queue.consumers import AsyncQueueMixin, QueueMixin
from netra_queue.management.scenarios.server import TOKEN


class AsyncChatConsumer(AsyncQueueMixin, AsyncWebsocketConsumer):
    async def connect(self):  # type: ignore[no-untyped-def]
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{self.room_name}"

        # Join room group
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)

        await self.accept()

    async def disconnect(self, close_code):  # type: ignore[no-untyped-def]
        # Leave room group
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    # Receive message from WebSocket
    async def receive(self, text_data):  # type: ignore[no-untyped-def]
        text_data_json = json.loads(text_data)
        message = text_data_json["message"]

        # Send message to room group
        await self.channel_layer.group_send(self.room_group_name, {"type": "chat.message", "message": message})

    # Receive message from room group
    async def chat_message(self, event):  # type: ignore[no-untyped-def]
        message = event["message"]

        # Send message to WebSocket
        await self.send(text_data=json.dumps({"message": message}))


class ChatConsumer(QueueMixin, WebsocketConsumer):
    def connect(self):  # type: ignore[no-untyped-def]
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{self.room_name}"

        # Join room group
        async_to_sync(self.channel_layer.group_add)(self.room_group_name, self.channel_name)

        self.accept()

    def disconnect(self, close_code):  # type: ignore[no-untyped-def]
        # Leave room group
        async_to_sync(self.channel_layer.group_discard)(self.room_group_name, self.channel_name)

    # Receive message from WebSocket
    def receive(self, text_data):  # type: ignore[no-untyped-def]
        text_data_json = json.loads(text_data)
        message = text_data_json["message"]

        # Send message to room group
        async_to_sync(self.channel_layer.group_send)(self.room_group_name, {"type": "chat.message", "message": message})

    # Receive message from room group
    def chat_message(self, event):  # type: ignore[no-untyped-def]
        message = event["message"]

        # Send message to WebSocket
        self.send(text_data=json.dumps({"message": message}))


ROUTERS = {
    "async": URLRouter([re_path(r"ws/chat/(?P<room_name>\w+)/$", AsyncChatConsumer.as_asgi())]),
    "sync": URLRouter([re_path(r"ws/chat/(?P<room_name>\w+)/$", ChatConsumer.as_asgi())]),
}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Under the run's token only. The path names the user; that it is who it says is this test's affair."""
    token, kind, user, path = (scope["path"].strip("/").split("/", 3) + [""] * 3)[:4]
    if scope["type"] != "websocket" or not hmac.compare_digest(token, os.environ[TOKEN]):
        raise DenyConnection
    scope = {**scope, "path": f"/{path}/", "user": User(pk=int(user))}
    await ROUTERS[kind](scope, receive, send)
