"""Asks and tells the storm's store in a process of its own: ``python -m tests.chaos.clerk subscribe|statuses|stats``.

Input and output are JSON: for ``subscribe`` pairs of queue and group, for ``statuses`` ids of messages, answered with
a state for each that is known, for ``stats`` names of lines, answered with what the store holds of each.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CHUNK = 500


def subscribe(pairs: list[list[str]]) -> None:
    import netra_queue

    for queue, group in pairs:
        netra_queue.subscribe(queue, group)


def statuses(ids: list[str]) -> dict[str, str]:
    from netra_queue.stores import current_store

    store, found = current_store(), {}
    for start in range(0, len(ids), CHUNK):
        for id, tracked in store.tracked(ids[start : start + CHUNK]).items():
            found[id] = tracked.status(store.now()).state.value
    return found


def stats(lines: list[str]) -> dict[str, str]:
    from netra_queue.stores import current_store

    return {line: str(current_store().stat(line)) for line in lines}


def main(verb: str) -> None:
    import django

    from netra_queue.management.scenarios import server

    django.setup()
    server.configure()
    works: dict[str, Any] = {"subscribe": subscribe, "statuses": statuses, "stats": stats}
    json.dump(works[verb](json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
