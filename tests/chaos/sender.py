"""A sender in a process of its own: ``python -m tests.chaos.sender NAME SECONDS GROUP QUEUE…``.

Sends numbered messages, and prints a line for each that was accepted: queue, priority, number, message id. Now and
then it sends to the group of all the queues: a line for each. A message whose send raised is sent again with the same
key until it is accepted, so that "accepted" has no doubtful cases. A process that is killed leaves at most one message
that was accepted and not printed.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

PAUSE_SECONDS = 0.01
RETRY_SECONDS = 0.2
GROUP_SHARE = 0.1


def main(name: str, seconds: float, group: str, queues: list[str]) -> None:
    import django

    from netra_queue.management.scenarios import server

    django.setup()
    server.configure()
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline:
        number += 1
        if random.random() < GROUP_SHARE:
            send(name, group, queues, number)
        else:
            queue = random.choice(queues)
            send(name, queue, [queue], number)
        time.sleep(random.uniform(0, 2 * PAUSE_SECONDS))


def send(name: str, to: str, queues: list[str], number: int) -> None:
    """``to``: a queue, or the group of these queues."""
    import netra_queue
    from netra_queue import Priority, StoreUnavailable

    priority = random.choice(list(Priority))
    payload: dict[str, Any] = {"sender": name, "number": number, "filling": "x" * random.choice([0, 100, 2000])}
    while True:
        try:
            verb: Any = netra_queue.send if to in queues else netra_queue.group_send
            receipt = verb(to, payload, priority=priority, key=f"{name}-{number}")
        except StoreUnavailable:
            time.sleep(RETRY_SECONDS)
        else:
            lines = [f"{queue} {priority.name} {number} {receipt.id}" for queue in queues]
            print("\n".join(lines), flush=True)  # noqa: T201  this is how it answers
            return


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4:])
