"""What waits in a queue, as text that can be kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

from .. import conf, policies, redaction
from ..core.message import Message, PayloadKind
from ..core.wire import PAYLOAD_KEY, timestamp
from ..validation import check_address

STEP = 50  # messages in memory at a time: each may be as large as its policy lets it be


def export(queue: str) -> Iterator[str]:
    """One JSON document for each message that waits in a queue and its lines, without a line break in it: the line, id,
    priority, when it was sent, how often it was delivered, and the payload as on the wire: ``data``, ``text`` or
    ``data_base64``; with REDACT instead ``shown``, what that lets be shown of it.

    In the order of delivery within each line; a message that several lines hold comes once for each. Nothing changes,
    and nobody is waited for: what comes or goes meanwhile may be in it or not. Raises InvalidMessage when it is called.
    """
    return _export(check_address(queue))


def _export(queue: str) -> Iterator[str]:
    store = policies.fresh_store()
    for line in store.family([queue]):
        last: tuple[Message, ...] = ()
        while messages := store.peek(line, STEP, (last[0].priority, last[0].position) if last else None):
            yield from (_entry(line, message) for message in messages)
            last = (messages[-1],)


def _entry(line: str, message: Message) -> str:
    head = {
        "queue": line,
        "id": message.id,
        "priority": message.priority.name.lower(),
        "sent_at": timestamp(message.created_at),
        "deliveries": message.deliveries,
    }
    if conf.get("REDACT"):
        return json.dumps({**head, "shown": redaction.shown_data(line, message.payload)}, separators=(",", ":"))
    text, kind = message.payload.text, message.payload.kind
    if kind is PayloadKind.BYTES:
        text = f'"{text}"'
    elif kind is PayloadKind.JSON:
        text = text.replace("\r", " ").replace("\n", " ")  # they can only be between tokens
    return f'{json.dumps(head, separators=(",", ":"))[:-1]},"{PAYLOAD_KEY[kind]}":{text}}}'
