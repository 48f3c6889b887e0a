"""A consumer's own sends, on their way into a store that answers late."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from netra_queue import own_sends
from netra_queue.core.rollout import Standing
from netra_queue.exceptions import StoreUnavailable
from netra_queue.own_sends import OwnSends
from tests.making import make_message


def test_a_failure_that_comes_after_the_deadline_is_nobodys_surprise(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender has been told StoreUnavailable: asyncio is not to log it once more, as never retrieved."""
    settings.NETRA_QUEUE = {"STORE_TIMEOUT_SECONDS": 0.01}
    answers: list[Future[Any]] = [Future()]
    monkeypatch.setattr(own_sends, "current_writer", lambda: SimpleNamespace(submit=lambda *_: answers[0]))
    connection = SimpleNamespace(standing=Standing.DURABLE)
    link: Any = SimpleNamespace(drafts=lambda messages: [], policies={}, queue="user.1", connection=connection)
    surprises: list[dict[str, Any]] = []

    async def send() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: surprises.append(context))
        with pytest.raises(StoreUnavailable, match="not written in time"):
            await OwnSends(loop, lambda *_: None, lambda *_: None).append(link, make_message())
        answers.pop().set_exception(StoreUnavailable("the database is away"))
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(send())
    assert not surprises
