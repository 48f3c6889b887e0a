"""What the dashboard asks of the store: seldom, whoever looks, and never of more rows than there is a limit for.

A range is asked for once in a while for the whole process, and only while somebody looks at it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

from .. import conf, controls
from ..exceptions import StoreUnavailable
from ..known import Known
from ..maintenance import COUNT_LIMIT
from ..stores.base import Store
from ..stores.guarded import current_guard
from ..sweeps import LastSweep
from .figures import AGE_BOUNDS, MONTH, RANGES, History, Range, State, assembled, breaker

LARGEST_QUEUES = 10
MOST_SERVERS = 100
SHORT, LONG = 5.0, 60.0  # seconds for which an answer does


def answer(range: Range) -> dict[str, Any]:
    """All figures of a range. Blocks. Raises StoreUnavailable when the store does not answer in time."""
    state = _state.require()
    return assembled(_histories[range.name].require(), _histories[MONTH].require().total(), state)


def excuse(error: StoreUnavailable) -> dict[str, Any]:
    """What can be shown in place of it: why there is nothing, and the breaker."""
    found = breaker(current_guard().state, controls.current(), datetime.now(UTC))
    return {"error": str(error), "breaker": found}


def _history(range: Range, store: Store) -> History:
    since, until = History.span(range, store.now())
    return History(range, since, until, store.statistics(since, until, range.step))


def _ask_state(last_sweep: LastSweep, store: Store) -> State:
    controls.refresh(store)
    overview = store.overview(LARGEST_QUEUES, COUNT_LIMIT)
    ages, loads = store.ages(AGE_BOUNDS, COUNT_LIMIT), store.loads(MOST_SERVERS, COUNT_LIMIT)
    return State(
        at=store.now(),
        overview=overview,
        ages=ages,
        loads=loads,
        swept_at=last_sweep.ask(store),
        controls=controls.current(),
        breaker=current_guard().state,
        policies=conf.policies(),
    )


def _seconds(range: Range) -> float:
    return SHORT if range.step < 60 else LONG


_state = Known(partial(_ask_state, LastSweep()), lambda: SHORT)
_histories = {range.name: Known(partial(_history, range), partial(_seconds, range)) for range in RANGES.values()}
