"""What tasks wait for: nothing is lost by a cancellation, and nobody waits for what has come."""

from __future__ import annotations

import asyncio

import pytest

from netra_queue.mailbox import Mailbox, Pulse


async def begun(*tasks: asyncio.Task[object]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


def test_first_in_first_out_whether_somebody_waits_or_not() -> None:
    async def play() -> list[int]:
        mailbox: Mailbox[int] = Mailbox()
        mailbox.put(1)
        mailbox.put(2)
        found = [await mailbox.get(), await mailbox.get()]
        waiting = asyncio.create_task(mailbox.get())
        await begun(waiting)
        mailbox.put(3)
        mailbox.put(4)
        return [*found, await waiting, await mailbox.get()]

    assert asyncio.run(play()) == [1, 2, 3, 4]


@pytest.mark.parametrize("has_come", [False, True])
def test_a_get_that_is_cancelled_takes_nothing(has_come: bool) -> None:
    async def play() -> int:
        mailbox: Mailbox[int] = Mailbox()
        waiting = asyncio.create_task(mailbox.get())
        await begun(waiting)
        if has_come:
            mailbox.put(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not has_come:
            mailbox.put(1)
        return await asyncio.wait_for(mailbox.get(), 5)

    assert asyncio.run(play()) == 1


def test_each_of_several_gets_one() -> None:
    async def play() -> list[int]:
        mailbox: Mailbox[int] = Mailbox()
        waiting = [asyncio.create_task(mailbox.get()) for _ in range(3)]
        await begun(*waiting)
        mailbox.put(0)
        await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert sum(task.done() for task in waiting) == 1
        mailbox.put(1)
        mailbox.put(2)
        return await asyncio.wait_for(asyncio.gather(*waiting), 5)

    assert sorted(asyncio.run(play())) == [0, 1, 2]


def test_a_beat_wakes_all_who_wait_and_is_not_remembered() -> None:
    async def play() -> None:
        pulse = Pulse()
        pulse.beat()
        early = [asyncio.create_task(pulse.next()) for _ in range(2)]
        gone = asyncio.create_task(pulse.next())
        await begun(*early, gone)
        gone.cancel()
        pulse.beat()
        late = asyncio.create_task(pulse.next())
        await asyncio.wait_for(asyncio.gather(*early), 5)
        await begun(late)
        late.cancel()
        await asyncio.wait([late, gone])

    asyncio.run(play())
