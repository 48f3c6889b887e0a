"""``manage.py netra_queue inspect <queue>``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import details, letters, maintenance, policies, redaction
from ...core.message import Message, Priority, client_of
from ...stores.base import QueueStat, Store
from ...validation import check_address
from .pause import as_json as pause_as_json
from .sweep import positive_int

HELP = "Show one queue: its policy and why, its devices, what waits, what was lost. Changes nothing."
MOST_BYTES = 1 << 20  # of messages that are read to be shown
READ_TOGETHER = 20
COUNTED_LETTERS = 1000
MOST_CONNECTIONS = 100


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", help="The queue's name, for example user.42, or that of one device's line.")
    parser.add_argument("--messages", type=positive_int, default=10, help="How many of each line (%(default)s).")
    parser.add_argument(
        "--payload", action="store_true", help="Show what the messages carry, too, as REDACT lets it be shown."
    )
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    queue, store = check_address(options["queue"]), policies.fresh_store()
    if not maintenance.is_known(queue):
        raise CommandError(f"There is no queue {queue!r}.")
    stat = store.stat(queue)
    chosen = policies.chosen(queue, stat.policy, is_resolved=stat.is_resolved)
    lines = [queue, *([] if client_of(queue) else [line.name for line in store.lines(queue)])]
    document = {
        "queue": queue,
        "policy": chosen.policy.name,
        "reason": chosen.reason,
        "standing": chosen.standing.value,
        "dead_letters": len(letters.letters(queue=queue, limit=COUNTED_LETTERS)),
        "connections": [_connection(each) for each in details.described(store, lines, MOST_CONNECTIONS)],
        "lines": [_line(store, line, options["messages"], options["payload"]) for line in lines],
    }
    command.stdout.write(json.dumps(document, indent=2) if options["json"] else _as_text(document))


def _connection(described: details.Described) -> dict[str, Any]:
    """``told_at``: when its server said the last three; null: it never did."""
    found, detail = described.connection, described.detail
    return {
        "id": found.id,
        "line": found.queue,
        "server": found.place,
        "is_alive": found.is_alive,
        "client": found.client,
        "since": _as_text_time(found.since),
        "is_answer": described.is_answer,
        "told_at": _as_text_time(detail.told_at if detail else None),
        "window": detail and detail.window,
        "unacked": detail and detail.unacked,
        "acked_at": _as_text_time(detail.acked_at if detail else None),
    }


def _line(store: Store, line: str, limit: int, has_payload: bool) -> dict[str, Any]:
    """What a line holds, the next messages first. Nobody takes them for transmitted."""
    messages = _next(store, line, limit)
    return {**_figures(store.stat(line)), "next": [_message(line, message, has_payload) for message in messages]}


def _next(store: Store, line: str, limit: int) -> list[Message]:
    found: list[Message] = []
    last: tuple[Priority, int] | None = None
    while len(found) < limit and sum(message.payload.size for message in found) < MOST_BYTES:
        step = store.peek(line, min(READ_TOGETHER, limit - len(found)), last)
        if not step:
            break
        found += step
        last = step[-1].priority, step[-1].position
    return found


def _figures(stat: QueueStat) -> dict[str, Any]:
    lost = {f"{reason.value} {priority.name.lower()}": n for (reason, priority), n in stat.losses.counts.items()}
    return {
        "line": stat.queue,
        "waiting": stat.messages,
        "bytes": stat.size,
        "by_priority": {priority.name.lower(): count for priority, count in sorted(stat.by_priority.items())},
        "oldest_at": _as_text_time(stat.oldest_at),
        "connections": stat.connections,
        "seen_at": _as_text_time(stat.seen_at),
        "acked_at": _as_text_time(stat.acked_at),
        "lost": lost,
        "superseded": stat.superseded,
        "pause": pause_as_json(stat.pause) if stat.pause else None,
    }


def _message(line: str, message: Message, has_payload: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": message.id,
        "priority": message.priority.name.lower(),
        "sent_at": _as_text_time(message.created_at),
        "bytes": message.payload.size,
        "deliveries": message.deliveries,
    }
    if has_payload:
        shown["data"] = redaction.shown_data(line, message.payload)
    return shown


def _as_text_time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds") if moment else None


def _as_text(document: Mapping[str, Any]) -> str:
    head = f"{document['queue']}: {document['standing']}, policy {document['policy']}: {document['reason']}"
    found = [head, f"dead letters: {document['dead_letters']}"]
    for line in document["lines"]:
        mine = [each for each in document["connections"] if each["line"] == line["line"]]
        found += ["", *_line_as_text(line), *map(_connection_as_text, mine)]
    return "\n".join(found)


def _connection_as_text(each: Mapping[str, Any]) -> str:
    head = (
        f"  connection {each['id']} on {each['server']}{'' if each['is_alive'] else ' (silent)'} since {each['since']}"
    )
    if each["told_at"] is None:
        return f"{head}: not answered"
    answer = "" if each["is_answer"] else f"not answered; as of {each['told_at']}: "
    acked = f"last acknowledged {each['acked_at'] or 'never'}"
    return f"{head}: {answer}{each['unacked']} not acknowledged of a window of {each['window']}, {acked}"


def _line_as_text(line: Mapping[str, Any]) -> Iterable[str]:
    counts = ", ".join(f"{name} {count}" for name, count in line["by_priority"].items())
    yield f"{line['line']}: {line['waiting']} waiting ({line['bytes']} bytes){': ' if counts else ''}{counts}"
    yield f"  connections {line['connections']}, last seen {line['seen_at'] or 'never'}"
    if line["acked_at"]:
        yield f"  last acknowledged by one that has left {line['acked_at']}"
    if pause := line["pause"]:
        until = f" until {pause['until']}" if pause["until"] else ""
        by = f" by {pause['by']}" if pause["by"] else ""
        yield f"  paused since {pause['since']}{until}{by}{': ' if pause['reason'] else ''}{pause['reason']}"
    if line["oldest_at"]:
        yield f"  oldest {line['oldest_at']}"
    if line["lost"]:
        yield "  lost, client not told yet: " + ", ".join(f"{what} {n}" for what, n in sorted(line["lost"].items()))
    for message in line["next"]:
        text = f"  {message['id']}  {message['priority']:<8} {message['sent_at']}  {message['bytes']:>8} bytes"
        times = f", delivered {message['deliveries']} times" if message["deliveries"] else ""
        yield text + times + (f"  {json.dumps(message['data'])}" if "data" in message else "")
