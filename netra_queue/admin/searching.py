"""Text in the payloads of one queue: in what is shown of them, so that a search tells nothing that REDACT hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from ..core.message import Payload, PayloadKind
from ..models import Body, Message, Queue
from ..redaction import shown_text
from ..stores.rows import chunks

MOST_MESSAGES = 1000
MOST_BYTES = 4 << 20  # of payloads: they are decoded here


@dataclass(frozen=True, slots=True)
class Found:
    """``keys``: of the messages that have the text. ``note``: what was not looked at; "": nothing."""

    keys: list[int]
    note: Any = ""


def search(messages: QuerySet[Message], text: str) -> Found:
    """Of these messages, all of one queue, those whose shown payloads have the text, whatever its case."""
    columns = messages.values_list("pk", "queue_id", "kind", "size", "body_id")
    rows: list[tuple[int, int, int, int, int | None]] = list(columns[: MOST_MESSAGES + 1])
    wanted: list[tuple[int, int, int, int, int | None]] = []
    size = 0
    for row in rows[:MOST_MESSAGES]:
        size += row[3]
        if size > MOST_BYTES and wanted:
            break
        wanted.append(row)
    is_all = len(wanted) == len(rows)
    note = "" if is_all else _("Only the first %d messages of the queue were searched.") % len(wanted)
    if not wanted:
        return Found([])
    id = wanted[0][1]
    name = Queue.objects.filter(pk=id).values_list("name", flat=True).first() or f"#{id}"
    stored, needle = _stored(wanted), text.casefold()
    keys = [
        pk
        for pk, _queue, kind, size, _body in wanted
        if pk in stored and needle in shown_text(name, Payload(PayloadKind(kind), stored[pk], size)).casefold()
    ]
    return Found(keys, note)


def _stored(rows: list[tuple[int, int, int, int, int | None]]) -> dict[int, str]:
    """The payloads as they are stored, by the message's key, without those that have gone meanwhile."""
    own: dict[int, str] = {}
    shared: dict[int, str] = {}
    for chunk in chunks([pk for pk, *_rest, body in rows if body is None]):
        own |= dict(Message.objects.filter(pk__in=chunk).values_list("pk", "payload"))
    for chunk in chunks(sorted({body for *_rest, body in rows if body is not None})):
        shared |= dict(Body.objects.filter(pk__in=chunk).values_list("pk", "payload"))
    return own | {pk: shared[body] for pk, *_rest, body in rows if body is not None and body in shared}
