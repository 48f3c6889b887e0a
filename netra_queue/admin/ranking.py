"""Which queues have the most of something, or something at all, without looking at all queues.

No row says how much a queue holds: a counter there would be one that all its senders wait for. So each measure knows
where to look for candidates, at no more than ``SCAN`` rows of its table, and its values are those of now. What was not
looked at is said: a ranking that is not complete may miss queues.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connections, router
from django.db.models import Count, Max, Min, QuerySet, Sum
from django.utils.translation import gettext_lazy as _

from ..models import Loss, Message, Queue
from ..stores import current_store
from ..stores.pausing import in_force
from . import figures

SCAN = 10_000  # rows that are looked at for candidates
LONGEST = 2000  # queues in a ranking
JUDGED = 1000  # candidates of one measure of which others are asked
COUNTED = 60  # candidates of each kind whose messages are counted
BLOCKS, NEIGHBOURS = 100, 40  # places all over the table, and messages that are looked at from each on


@dataclass(frozen=True, slots=True)
class Top:
    """Values by queue id, largest first. ``is_complete``: no other queue has any."""

    values: Mapping[int, Any]
    is_complete: bool


Test = Callable[[Any], bool]


class Measure:
    """What queues are compared by."""

    name: str
    title: Any
    choices: Mapping[str, Any] = {}  # of its filter, by their word in the address

    def top(self) -> Top:
        """The queues that have the most, as far as ``SCAN`` rows show."""
        raise NotImplementedError

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        """The values of these queues; those that have nothing are left out."""
        raise NotImplementedError

    def test(self, choice: str) -> Test:
        """Whether a queue with a value (None: it has nothing) is one that this choice shows."""
        raise NotImplementedError


class Depth(Measure):
    """The number of messages. Of a table with more than ``SCAN``, candidates are the queues of messages from all over
    it, those that have lost most, and those that PostgreSQL's statistics name as frequent.
    """

    name, title = "depth", _("depth")
    choices = {str(least): _("at least %d") % least for least in (1, 10, 100, 1000)}

    def top(self) -> Top:
        if (found := all_depths()) is not None:
            return Top(dict(found.most_common(LONGEST)), len(found) <= LONGEST)
        sampled = sampled_queues()
        most = [id for id, _count in sampled.most_common(COUNTED)]
        depths = figures.depths_of({*most, *frequent_queues(), *list(Lost().top().values)[:COUNTED]})
        # Counts end at a limit; beyond it, the sample says who has more.
        order = sorted(depths, key=lambda id: (depths[id], sampled[id]), reverse=True)
        return Top({id: depths[id] for id in order if depths[id]}, False)

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        return figures.depths_of(queues)

    def test(self, choice: str) -> Test:
        return lambda value: (value or 0) >= int(choice)


class Age(Measure):
    """How long the oldest message has waited. Messages lie in the order in which they came."""

    name, title = "age", _("oldest message")
    choices = {
        "60": _("older than a minute"),
        "3600": _("older than an hour"),
        "86400": _("older than a day"),
    }

    def top(self) -> Top:
        oldest = Message.objects.order_by("pk")
        beyond = oldest.values_list("pk", flat=True)[SCAN : SCAN + 1]
        rows = oldest.filter(pk__lt=beyond[0]) if (is_cut := bool(beyond)) else oldest
        found = rows.order_by().values("queue_id").annotate(oldest=Min("created_at"), first=Min("pk"))
        return _longest(found.order_by("oldest", "first").values_list("queue_id", "oldest"), not is_cut)

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        return figures.oldest_of(queues)

    def test(self, choice: str) -> Test:
        before = current_store().now() - timedelta(seconds=int(choice))
        return lambda value: value is not None and value <= before


class Lost(Measure):
    """How many messages were lost that no client was told of; the newest records are looked at."""

    name, title = "lost", _("lost")
    choices = {"yes": _("Yes")}

    def top(self) -> Top:
        newest = Loss.objects.order_by("-pk")
        beyond = newest.values_list("pk", flat=True)[SCAN : SCAN + 1]
        rows = newest.filter(pk__gt=beyond[0]) if (is_cut := bool(beyond)) else newest
        sums = rows.order_by().values_list("queue_id").annotate(total=Sum("count")).order_by("-total")
        return _longest(sums, not is_cut)

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        return {id: count for id, (count, _since) in figures.losses_of(queues).items()}

    def test(self, choice: str) -> Test:
        return bool


class Connected(Measure):
    """The number of connections that living server processes hold."""

    name, title = "connected", _("connected")
    choices = {"yes": _("Yes"), "no": _("No")}

    def top(self) -> Top:
        ids = list(figures.living_connections().order_by("pk").values_list("queue_id", flat=True)[: SCAN + 1])
        return _longest(Counter(ids[:SCAN]).most_common(), len(ids) <= SCAN)

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        return figures.connections_of(queues)

    def test(self, choice: str) -> Test:
        return bool if choice == "yes" else lambda value: not value


class Paused(Measure):
    """Since when operators have paused it, by its own name."""

    name, title = "paused", _("paused")
    choices = {"yes": _("Yes")}

    def top(self) -> Top:
        rows = Queue.objects.filter(in_force(current_store().now()))
        return _longest(rows.order_by("-paused_at", "pk").values_list("pk", "paused_at"), True)

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        rows = Queue.objects.filter(in_force(current_store().now()), pk__in=queues)
        return dict(rows.values_list("pk", "paused_at"))

    def test(self, choice: str) -> Test:
        return bool


class Seen(Measure):
    """When a client came or left for the last time."""

    name, title = "seen", _("last seen")

    def top(self) -> Top:
        return _longest(Queue.objects.order_by("-idle_since").values_list("pk", "idle_since"), True)

    def of(self, queues: Collection[int]) -> Mapping[int, Any]:
        return dict(Queue.objects.filter(pk__in=queues).values_list("pk", "idle_since"))


MEASURES: dict[str, Measure] = {each.name: each for each in (Depth(), Age(), Lost(), Connected(), Paused(), Seen())}


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ids of queues, first ones first. ``note``: what may be missing; "": nothing."""

    ids: tuple[int, ...]
    note: Any = ""


def ranking(order: str | None, choices: Mapping[str, str], base: QuerySet[Queue] | None = None) -> Ranking:
    """The queues for which all the choices are right (of measures, by name), those with most of ``order`` first.

    ``base``: only these, of which the first ``JUDGED`` are looked at; None: all queues. Without an order, or a base,
    it is that of the first choice. Two choices or more are asked of the ``JUDGED`` first of those that the first finds.
    """
    leading = order or next((name for name in choices if choices[name] != "no"), None)
    if base is not None or leading is None:
        return _of_these(order, choices, Queue.objects.order_by("name") if base is None else base)
    top = MEASURES[leading].top()
    is_right = MEASURES[leading].test(choices[leading]) if leading in choices else lambda value: True
    chosen = [id for id, value in top.values.items() if is_right(value)]
    ids: Sequence[int] = chosen
    others = [name for name in choices if name != leading]
    if others:
        ids = _judged(ids[:JUDGED], others, choices)
    is_complete = top.is_complete and (not others or len(chosen) <= JUDGED)
    return Ranking(tuple(ids), "" if is_complete else _incomplete(leading))


def _of_these(order: str | None, choices: Mapping[str, str], base: QuerySet[Queue]) -> Ranking:
    found = list(base.values_list("pk", flat=True)[: JUDGED + 1])
    ids = _judged(found[:JUDGED], list(choices), choices)
    if order is not None:
        values = MEASURES[order].of(ids)
        is_reverse = order != Age.name
        ids = sorted((id for id in ids if id in values), key=lambda id: values[id], reverse=is_reverse)
    note = _("Of the first %d queues only: there are more.") % JUDGED if len(found) > JUDGED else ""
    return Ranking(tuple(ids), note)


def _judged(ids: Sequence[int], names: Sequence[str], choices: Mapping[str, str]) -> list[int]:
    """Those of these queues for which the choices of these measures are right, in the same order."""
    left = list(ids)
    for name in names:
        values, is_right = MEASURES[name].of(left), MEASURES[name].test(choices[name])
        left = [id for id in left if is_right(values.get(id))]
    return left


def _incomplete(name: str) -> Any:
    if name == Depth.name:
        return _("There are too many messages to look at all of them: a queue with few may be missing.")
    return _("There are too many to look at all of them: queues with less may be missing.")


def _longest(pairs: Any, is_complete: bool) -> Top:
    """``pairs``: a list or a query, largest value first."""
    found = list(pairs[: LONGEST + 1])
    return Top(dict(found[:LONGEST]), is_complete and len(found) <= LONGEST)


# --- where messages are many ---------------------------------------------------------------------------------------


def all_depths() -> Counter[int] | None:
    """How many messages each queue has; None: there are more than ``SCAN`` to be looked at."""
    if Message.objects.order_by("pk").values_list("pk", flat=True)[SCAN : SCAN + 1]:
        return None
    return Counter(dict(Message.objects.order_by().values_list("queue_id").annotate(Count("pk"))))


def sampled_queues() -> Counter[int]:
    """The queues of some messages from all over the table, each with its number of them."""
    using = router.db_for_read(Message)
    ends = Message.objects.using(using).aggregate(first=Min("pk"), last=Max("pk"))
    places = range(ends["first"], ends["last"] + 1)
    starts = random.sample(places, min(BLOCKS, len(places)))
    table = connections[using].ops.quote_name(Message._meta.db_table)
    block = f"SELECT queue_id FROM {table} WHERE id >= %s ORDER BY id LIMIT {NEIGHBOURS}"
    with connections[using].cursor() as cursor:
        if (
            connections[using].vendor == "postgresql"
        ):  # which would plan a large union for longer than it carries it out
            blocks = f"CROSS JOIN LATERAL ({block % 'start.id'}) AS block"
            cursor.execute(f"SELECT block.queue_id FROM unnest(%s::bigint[]) AS start(id) {blocks}", [starts])
        else:
            parts = (f"SELECT queue_id FROM ({block % int(start)}) AS b{n}" for n, start in enumerate(starts))
            cursor.execute(" UNION ALL ".join(parts))
        return Counter(queue for (queue,) in cursor.fetchall())


def frequent_queues() -> list[int]:
    """Queues with many messages, by the statistics that PostgreSQL keeps of the table; none on other databases."""
    using = router.db_for_read(Message)
    if connections[using].vendor != "postgresql":
        return []
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT unnest(most_common_vals::text::bigint[]) FROM pg_stats "
            "WHERE schemaname = ANY(current_schemas(false)) AND tablename = %s AND attname = 'queue_id'",
            [Message._meta.db_table],
        )
        return [queue for (queue,) in cursor.fetchall()][:COUNTED]
