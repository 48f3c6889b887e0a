"""What one connection's writer makes of what waits to be written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from netra_queue.core import wire
from netra_queue.core.actions import Transmit
from netra_queue.core.connection import FRAME_BYTES, Connection
from netra_queue.core.wire import Mode
from netra_queue.link import Link
from netra_queue.stores.base import Presence, Server
from tests.making import make_message, make_policy


def delivery(seq: int, text: str = "1") -> Transmit:
    message = make_message(seq, id=f"m{seq}", text=text)
    return Transmit(wire.messages(seq, [(message, False)]), seq)


def written(transmits: Sequence[Transmit], mode: Mode = Mode.PROTOCOL) -> tuple[list[str | bytes], list[int]]:
    """The frames, and the deliveries of which it was said that they are written."""
    frames: list[str | bytes] = []
    seqs: list[int] = []

    async def write(frame: str | bytes) -> None:
        await asyncio.sleep(0)
        frames.append(frame)

    async def play() -> None:
        presence = Presence(id="c1", queue="user.1", server=Server(id="s1", host="", pid=1), policy="")
        link = Link(
            Connection("user.1", make_policy(), mode, 0.0),
            presence,
            write=write,
            timeout_seconds=5,
            on_end=lambda code, reason: None,
            on_broken=lambda: None,
        )
        for transmit in transmits:
            assert link.put(transmit)
        link.start(seqs.append)
        await asyncio.wait_for(link.drained(), 5)
        link.stop()

    asyncio.run(play())
    return frames, seqs


def ids(frame: str | bytes) -> list[str]:
    return [message["id"] for message in json.loads(frame)["messages"]]


def test_deliveries_that_wait_go_out_in_one_frame() -> None:
    frames, seqs = written([delivery(1), delivery(2, '"[]}],"'), delivery(3)])
    (frame,) = map(json.loads, frames)
    assert (frame["type"], frame["seq"]) == ("netra.messages", 1)
    assert [(some["id"], some["data"]) for some in frame["messages"]] == [
        ("m1", 1),
        ("m2", "[]}],"),
        ("m3", 1),
    ]
    assert seqs == [3]


def test_a_control_frame_keeps_its_place() -> None:
    frames, seqs = written([delivery(1), delivery(2), Transmit(wire.live()), Transmit(wire.pong()), delivery(3)])
    assert [json.loads(frame)["type"] for frame in frames] == [
        "netra.messages",
        "netra.live",
        "netra.pong",
        "netra.messages",
    ]
    assert (ids(frames[0]), ids(frames[3])) == (["m1", "m2"], ["m3"])
    assert seqs == [2, 3]


def test_a_frame_has_its_size() -> None:
    text = json.dumps("x" * (FRAME_BYTES // 3))
    frames, _ = written([delivery(seq, text) for seq in range(1, 6)])
    assert [ids(frame) for frame in frames] == [["m1", "m2"], ["m3", "m4"], ["m5"]]


def test_plain_frames_stay_what_they_are() -> None:
    """Also one that looks like ours: the application's frames are its own."""
    ours = wire.messages(1, [(make_message(1), False)])
    frames, seqs = written([Transmit(ours, 1), Transmit(ours, 2), Transmit(b"\x00", 3)], Mode.RAW)
    assert frames == [ours, ours, b"\x00"]
    assert seqs == [1, 2, 3]
