"""Work grows with what is delivered, not with what is stored: what DatabaseStore's statements look at.

Each operation is done beside tens of thousands of messages of other queues. The database then says, for each statement
of ours, how many rows it examines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from netra_queue.core.actions import ReadRequest
from netra_queue.core.policy import BLIND, Replay
from netra_queue.models import Linger, LiveConnection, Loss, Message, Queue, UsedKey, queue_id
from netra_queue.stores import functions, seen
from netra_queue.stores.base import Returned
from tests.making import HERE, AdvancingDatabaseStore, make_draft, make_policy, make_presence, put

QUEUES = 1000
MESSAGES_EACH = 60  # of other queues, every tenth one expired
MINE = 100
MOST_ROWS = 4 * MINE
FAR = datetime(2100, 1, 1, tzinfo=UTC)
VERBS = ("SELECT", "UPDATE", "DELETE", "(SELECT", "WITH")
EXPLAINING = (
    *("auto_explain.log_min_duration = 0", "auto_explain.log_analyze = on", "auto_explain.log_format = json"),
    *("auto_explain.log_nested_statements = on", "client_min_messages = log"),
)
Operation = Callable[[], object]


@pytest.fixture
def store(concurrent_database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(concurrent_database)


def fill(store: AdvancingDatabaseStore) -> None:
    """What is stored for others, and what the database knows of it."""
    now, using, names = store.now(), store.using, [f"other.{number}" for number in range(QUEUES)]
    old, young = now - timedelta(hours=1), now + timedelta(hours=1)
    ids = [queue_id(name) for name in names]
    queues = [Queue(id=id, name=n, created_at=now, idle_since=now) for id, n in zip(ids, names, strict=True)]
    common = {"priority": 2, "kind": 0, "payload": '{"n":1}', "size": 7, "created_at": now}
    messages = [
        Message(queue_id=id, uid=f"{number:032x}", expires_at=young if number % 10 else old, **common)
        for number in range(MESSAGES_EACH)
        for id in ids
    ]
    keys = [UsedKey(queue_id=id, digest=f"{n:032x}", uid=str(n), expires_at=young) for n in range(20) for id in ids]
    lingers = [Linger(id=f"{id:032x}", queue_id=id, server_id="other", until=young) for id in ids]
    losses = [Loss(queue_id=id, reason="dropped", priority=2, count=1, since=now) for _ in range(10) for id in ids]
    tables = ((Queue, queues), (Message, messages), (UsedKey, keys), (Loss, losses), (Linger, lingers))
    for model, rows in tables:
        model._default_manager.using(using).bulk_create(rows, batch_size=4000)  # type: ignore[arg-type]
        analyze = "ANALYZE" if connections[using].vendor == "postgresql" else "ANALYZE TABLE"
        with connections[using].cursor() as cursor:
            cursor.execute(f"{analyze} {model._meta.db_table}")


def operations(store: AdvancingDatabaseStore) -> dict[str, Operation]:
    """What users wait for; each is done with a queue of MINE messages."""
    policy, full = make_policy(), make_policy(max_messages=MINE)
    few, twice = make_policy(replay=Replay(newest=10)), make_policy(max_deliveries=2)
    presence = make_presence("mine.1")
    positions = [a.position for a in put(store, *(make_draft("mine.1") for _ in range(MINE))) if a.position is not None]
    store.ensure(["mine.1"])
    store.pause(["mine.3"], None, "", "")
    read = [ReadRequest(50, 10**6, frozenset(positions[:10])), ReadRequest(5, 9, frozenset())]
    store.heartbeat(HERE)
    return {
        "send": lambda: put(store, make_draft("mine.1"), policy=policy),
        "send with a key": lambda: put(store, make_draft("mine.1", key=make_draft().id), policy=policy),
        "send to a full queue": lambda: put(store, make_draft("mine.1"), policy=full),
        "read": lambda: store.read(list(zip(["mine.1", "mine.2"], read, strict=True))),
        "waiting": lambda: store.waiting(["mine.1", "mine.2"]),
        "losses": lambda: store.losses(["mine.1", "mine.2"]),
        "attach": lambda: store.attach(presence, policy),
        "holders": lambda: store.holders(["mine.1"]),
        "pause": lambda: store.pause(["mine.3"], None, "", ""),
        "paused": lambda: store.paused(["mine.1"]),
        "read of a paused queue": lambda: store.read([("mine.3", read[1])]),
        "peek": lambda: store.peek("mine.1", 10),
        "send away": lambda: store.send_away("mine.1", 1),
        "sent away": lambda: store.sent_away(HERE.id),
        "returned": lambda: store.returned([Returned("mine.1", tuple(positions[:50]), False, policy)]),
        "returned alone": lambda: store.returned([Returned("mine.1", (positions[90],), True, twice)] * 2),
        "surplus": lambda: store.surplus(presence, few),
        "withhold": lambda: store.withhold({"mine.1": positions[91:93]}),
        "leave out": lambda: store.leave_out("mine.1", positions[93:96], make_draft("mine.1"), policy),
        "requeue": lambda: store.requeue(store.letters(1, queue="mine.1")[0].number),
        "ack one": lambda: store.ack({"mine.1": positions[-1:]}),
        "ack many": lambda: store.ack({"mine.1": positions[10:60]}),
        "linger": lambda: store.linger([(presence, 30)]),
        "lingering": lambda: store.lingering([presence.id]),
        "detach": lambda: store.detach([presence]),
    }


def statements(store: AdvancingDatabaseStore, work: Operation) -> list[str]:
    """With nothing remembered of what queues hold."""
    seen.forget()
    with CaptureQueriesContext(connections[store.using]) as queries:
        work()
    return [query["sql"] for query in queries if "netra_queue_" in query["sql"]]


def examined(using: str, sql: str) -> Iterator[tuple[str, float]]:
    """How many rows of which of our tables the statement examines, by the database's own account."""
    with connections[using].cursor() as cursor:
        if connections[using].vendor == "mysql":
            cursor.execute(f"EXPLAIN {sql}")
            names = [column[0] for column in cursor.description]
            for row in (dict(zip(names, values, strict=True)) for values in cursor.fetchall()):
                yield str(row["table"]), float(row["rows"] or 0)
            return
        for plan in _plans(using, sql):
            yield from _scans(plan)


def _plans(using: str, sql: str) -> list[dict[str, Any]]:
    """PostgreSQL's, as it carries the statement out, and those within functions. What it does is taken back."""
    notices: list[str] = []

    def note(notice: Any) -> None:
        notices.append(notice.message_primary)

    with transaction.atomic(using=using), connections[using].cursor() as cursor:
        connection = connections[using].connection
        cursor.execute("LOAD 'auto_explain'")
        cursor.execute("".join(f"SET LOCAL {setting};" for setting in EXPLAINING))
        connection.add_notice_handler(note)
        cursor.execute(sql)
        connection.remove_notice_handler(note)
        transaction.set_rollback(True, using=using)
    return [json.loads(notice.partition("plan:")[2])["Plan"] for notice in notices if "plan:" in notice]


def _scans(node: dict[str, Any]) -> Iterator[tuple[str, float]]:
    if "Scan" in node["Node Type"]:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        name = node.get("Relation Name") or node.get("Index Name", "")
        yield name, (node["Actual Rows"] + removed) * node["Actual Loops"]
    for inner in node.get("Plans", []):
        yield from _scans(inner)


def test_no_statement_looks_at_other_queues_messages(store: AdvancingDatabaseStore) -> None:
    fill(store)
    plans = 0
    for name, work in operations(store).items():
        for sql in statements(store, work):
            if not sql.lstrip().startswith(VERBS):
                continue
            for table, rows in examined(store.using, sql):
                assert rows <= MOST_ROWS, f"{name} examines {rows:g} rows of {table}: {sql[:300]}"
                plans += "message" in table
    assert plans >= 10, "the plans were understood"


def test_functions_planned_for_empty_tables_look_at_no_other_queues(store: AdvancingDatabaseStore) -> None:
    """Their plans are kept: a server's may be from just after a deploy, when nobody was connected yet."""
    if store.using != "postgresql":
        pytest.skip("functions are for PostgreSQL")
    presence, read = make_presence("mine.1"), [("mine.1", ReadRequest(50, 10**6, frozenset()))]
    store.heartbeat(HERE)
    tables = ", ".join(model._meta.db_table for model in (Queue, Message, LiveConnection))
    with connections[store.using].cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {tables}")
    with CaptureQueriesContext(connections[store.using]) as queries:
        for _ in range(8):  # the sixth plan is the one that is kept
            put(store, make_draft("mine.1"))
            store.read(read)
    sent, given = (query["sql"] for query in queries.captured_queries[-2:])
    assert functions.PUT_ONE in sent
    assert functions.READ in given
    fill(store)
    connected = [make_presence(f"other.{number}") for number in range(QUEUES)]
    store.attach_all([(presence, make_policy()) for presence in (*connected, presence)])
    for sql in (sent, given):
        plans = list(examined(store.using, sql))
        assert len(plans) >= 3, "also those within the function"
        for table, rows in plans:
            assert rows <= MOST_ROWS, f"examines {rows:g} rows of {table}: {sql[:300]}"


def test_a_sweep_looks_at_what_it_removes(store: AdvancingDatabaseStore) -> None:
    """Also where thousands have expired at the same moment, as what was sent to a group does."""
    if store.using != "postgresql":
        pytest.skip("EXPLAIN does not say there how much LIMIT saves")
    fill(store)
    for sql in statements(store, lambda: store.sweep(50)):
        for table, rows in examined(store.using, sql):
            assert rows <= MOST_ROWS, f"examines {rows:g} rows of {table}: {sql[:300]}"


def test_the_planner_knows_how_little_is_read_of_a_long_queue(
    store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a cost of 100,000 PostgreSQL compiles a statement (its JIT), which takes longer than any read of ours.

    Its functions have that switched off.
    """
    if store.using != "postgresql":
        pytest.skip("its planner's costs are meant")
    monkeypatch.setattr(functions, "are_in", lambda using: False)
    fill(store)
    long, now = queue_id("mine.2"), store.now()
    rows = [
        Message(queue_id=long, uid=f"{n:032x}", priority=2, kind=0, payload="1", size=1, created_at=now, expires_at=FAR)
        for n in range(10_000)
    ]
    Message.objects.using(store.using).bulk_create(rows, batch_size=4000)
    with connections[store.using].cursor() as cursor:
        cursor.execute(f"ANALYZE {Message._meta.db_table}")
        for sql in statements(store, lambda: store.read([("mine.2", ReadRequest(256, 10**6, frozenset()))])):
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
            assert cursor.fetchone()[0][0]["Plan"]["Total Cost"] < 1_000, sql


def test_the_number_of_statements_does_not_depend_on_what_is_stored(store: AdvancingDatabaseStore) -> None:
    alone = {name: len(statements(store, work)) for name, work in operations(store).items()}
    store.purge("mine.1", 10**4)
    store.settle("mine.1", store.losses(["mine.1"])["mine.1"].records)
    fill(store)
    assert {name: len(statements(store, work)) for name, work in operations(store).items()} == alone
    assert alone["send"] == (2 if store.using == "postgresql" else 3)  # the totals, its lines, the row
    assert (
        alone["read"] == alone["read of a paused queue"] == alone["waiting"] == alone["holders"] == alone["losses"] == 1
    )
    assert alone["ack many"] == alone["ack one"] == (1 if store.using == "postgresql" else 2)


def test_a_queue_that_is_far_from_full_is_not_counted_for_each_send(store: AdvancingDatabaseStore) -> None:
    roomy, tight = make_policy(), make_policy(max_messages=4 * BLIND)
    put(store, make_draft("mine.1"), policy=roomy)
    for policy, is_counted in ((roomy, False), (tight, True)):
        with CaptureQueriesContext(connections[store.using]) as queries:
            put(store, make_draft("mine.1"), policy=policy)
        assert any("COUNT" in query["sql"] for query in queries) == is_counted, policy


def test_what_this_process_has_added_since_it_counted_is_counted_on(store: AdvancingDatabaseStore) -> None:
    policy = make_policy(max_messages=100)
    for _ in range(150):
        put(store, make_draft("mine.1"), policy=policy)
    assert store.stat("mine.1").messages == 100
