"""A sender in a process of its own: ``python -m tests.chaos.sender NAME SECONDS GROUP DIE_AT QUEUE…``.

Sends numbered messages, and prints a line of JSON for each that was accepted. Now and then it sends to the group of all
the queues: a line for each. A message whose send raised is sent again with the same key until it is accepted, so that
"accepted" has no doubtful cases; what was sent again is marked, because a queue whose messages live for seconds may
have forgotten the key by then. A process that is killed leaves at most one message that was accepted and not printed.

With the number DIE_AT (0: never) it is killed after the commit of its message and before the bell.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any

PAUSE_SECONDS = 0.01
RETRY_SECONDS = 0.2
GROUP_SHARE, TRACKED_SHARE, COLLAPSE_SHARE = 0.1, 0.1, 0.1


def main(name: str, seconds: float, group: str, die_at: int, queues: list[str]) -> None:
    import django

    from netra_queue.management.scenarios import server

    django.setup()
    server.configure()
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline:
        number += 1
        kind = random.random()
        if number == die_at:
            die_before_the_bell(name, group, queues, number)
        elif kind < GROUP_SHARE:
            send(name, group, queues, number)
        else:
            queue = random.choice(queues)
            send(name, queue, [queue], number, **options(name, kind - GROUP_SHARE))
        time.sleep(random.uniform(0, 2 * PAUSE_SECONDS))


def options(name: str, kind: float) -> dict[str, Any]:
    if kind < TRACKED_SHARE:
        return {"track": True}
    return {"collapse": f"{name}-state"} if kind < TRACKED_SHARE + COLLAPSE_SHARE else {}


def send(name: str, to: str, queues: list[str], number: int, **wanted: Any) -> None:
    """``to``: a queue, or the group of these queues."""
    import netra_queue
    from netra_queue import Priority, StoreUnavailable

    priority = random.choice(list(Priority))
    payload: dict[str, Any] = {"sender": name, "number": number, "filling": "x" * random.choice([0, 100, 2000])}
    tries = 0
    while True:
        tries += 1
        try:
            verb: Any = netra_queue.send if to in queues else netra_queue.group_send
            receipt = verb(to, payload, priority=priority, key=f"{name}-{number}", **wanted)
        except StoreUnavailable:
            time.sleep(RETRY_SECONDS)
        else:
            say(name, queues, number, tries=tries, id=receipt.id, **wanted)
            return


def say(name: str, queues: list[str], number: int, **more: Any) -> None:
    lines = [json.dumps({"sender": name, "queue": queue, "number": number, **more}) for queue in queues]
    print("\n".join(lines), flush=True)  # noqa: T201  this is how it answers


def die_before_the_bell(name: str, group: str, queues: list[str], number: int) -> None:
    """The message is committed when the ring is called: it counts as accepted."""
    from netra_queue import wakeup

    queue = random.choice(queues)

    def die(*_: Any) -> None:
        say(name, [queue], number, tries=1)
        os.kill(os.getpid(), signal.SIGKILL)

    wakeup.ring = die
    send(name, queue, [queue], number)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:])
