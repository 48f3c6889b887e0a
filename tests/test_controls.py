"""The controls in force in a process: when the store is asked, and what is in force when it does not answer."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from netra_queue import conf, controls, operating, policies, wakeup
from netra_queue.core.controls import Controls
from netra_queue.core.message import Priority
from netra_queue.core.policy import Overflow
from netra_queue.exceptions import NotConfigured, StoreUnavailable
from netra_queue.stores.memory import MemoryStore
from tests.making import make_policy, make_presence
from tests.waiting import together, wait_until


class Asked(MemoryStore):
    """Counts what it is asked, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int | None] = []
        self.described = 0
        self.error: Exception | None = None
        self.is_in_transaction = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def controls(self, known: int | None = None) -> Controls | None:
        self.asked.append(known)
        assert self.may_answer.wait(10)
        if self.error is not None:
            raise self.error
        return super().controls(known)

    def describe(self, queues: Any) -> dict[str, str]:
        self.described += 1
        return super().describe(queues)

    def in_transaction(self) -> bool:
        return self.is_in_transaction


@pytest.fixture
def store(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"WINDOW": 64}, "tier": {"MAX_MESSAGES": 7}}}
    store = Asked()
    monkeypatch.setattr(operating, "current_store", lambda: store)
    yield store
    policies.forget()


def change(name: str, **values: Any) -> None:
    operating.carry_out(operating.policy_changed(name, values))


def age(seconds: float) -> None:
    controls._room.asked_at -= seconds


def of(store: Asked, queue: str = "user.1") -> Any:
    return policies.of(store, [queue])[queue]


# --- asking --------------------------------------------------------------------------------------------------------


def test_a_send_in_steady_state_asks_once_in_two_seconds(store: Asked) -> None:
    store.attach(make_presence("user.1", policy="tier"), make_policy())
    for _ in range(5):
        of(store)
        assert policies.remembered(store, ["user.1"]) is not None
    assert store.asked == [None]
    assert store.described == 1
    age(controls.REFRESH_SECONDS)
    assert policies.remembered(store, ["user.1"]) is None, "whoever may not block has it asked elsewhere"
    of(store)
    assert store.asked == [None, 0], "whether anything has changed"
    assert store.described == 1, "what is known of the queue is known as long as before"


def test_a_change_is_in_force_when_the_store_is_asked_next(store: Asked) -> None:
    of(store)
    store.change_controls(operating.policy_changed("default", {"WINDOW": 5}))  # in another process, without a bell
    assert of(store).window == 64
    age(controls.REFRESH_SECONDS)
    assert of(store).window == 5


def test_a_change_in_this_process_is_in_force_at_once(store: Asked) -> None:
    of(store)
    change("default", WINDOW=5)
    assert of(store).window == 5


def test_a_bell_during_an_answer_has_the_store_asked_again(store: Asked) -> None:
    """The answer may be from before what the bell is about."""
    of(store)
    age(controls.REFRESH_SECONDS)
    store.may_answer.clear()
    thread = threading.Thread(target=lambda: controls.refresh(store))
    thread.start()
    wait_until(lambda: len(store.asked) == 2)
    controls.expire()
    store.may_answer.set()
    thread.join(10)
    assert controls.is_stale(store)


def test_nobody_waits_for_an_answer_but_for_the_first(store: Asked) -> None:
    change("default", WINDOW=5)
    store.may_answer.clear()
    thread = threading.Thread(target=lambda: controls.refresh(store))
    thread.start()
    wait_until(lambda: len(store.asked) == 1)
    threading.Timer(0.2, store.may_answer.set).start()
    assert of(store).window == 5, "without the first answer, limits would be other ones"
    thread.join(10)
    age(controls.REFRESH_SECONDS)
    store.may_answer.clear()
    thread = threading.Thread(target=lambda: controls.refresh(store))
    thread.start()
    wait_until(lambda: len(store.asked) == 2)
    age(controls.REFRESH_SECONDS)
    assert of(store).window == 5
    assert len(store.asked) == 2
    store.may_answer.set()
    thread.join(10)


def test_many_threads_ask_once(store: Asked) -> None:
    together(*(lambda: controls.refresh(store) for _ in range(8)))
    assert store.asked == [None]


def test_another_store_is_asked_itself(store: Asked) -> None:
    change("default", WINDOW=5)
    of(store)
    other = Asked()
    assert controls.is_stale(other)
    assert of(other).window == 64


def test_the_settings_changed(store: Asked, settings: Any) -> None:
    change("default", WINDOW=5)
    assert of(store).window == 5
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"WINDOW": 8, "MAX_LINES": 3}}}
    assert conf.policy("default").window == 8, "nothing is known of operators until the store is asked"
    policy = of(store)
    assert (policy.window, policy.max_lines) == (5, 3)


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("no such table")])
def test_without_an_answer_the_last_one_stays_in_force(store: Asked, error: Exception, caplog: Any) -> None:
    change("default", WINDOW=5)
    of(store)
    store.error = error
    for _ in range(3):
        age(controls.REFRESH_SECONDS)
        assert of(store).window == 5
        assert of(store).window == 5
    assert len(store.asked) == 4, "it is not asked for each send"
    assert caplog.text.count("controls not read") == 1
    store.error = None
    store.change_controls(operating.policy_changed("default", {"WINDOW": 6}))
    age(controls.REFRESH_SECONDS)
    assert of(store).window == 6


def test_without_any_answer_the_settings_are_in_force(store: Asked) -> None:
    store.error = StoreUnavailable("away")
    assert of(store).window == 64


def test_a_failure_within_a_transaction_reaches_the_caller(store: Asked) -> None:
    """It has failed, and what is sent in it is not kept."""
    of(store)
    age(controls.REFRESH_SECONDS)
    store.error, store.is_in_transaction = StoreUnavailable("away"), True
    with pytest.raises(StoreUnavailable):
        of(store)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_asks(store: Asked) -> None:
    change("default", WINDOW=5)
    of(store)
    with controls._room.asking:
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            os._exit(3 if controls.is_stale(store) and of(store).window == 5 else 4)
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), "the child hung"
    assert os.WEXITSTATUS(status) == 3


# --- what is in force ----------------------------------------------------------------------------------------------


def where(name: str) -> dict[str, str]:
    return {key: origin.where for key, origin in conf.explain(name).items()}


def test_an_operators_row_goes_over_the_settings_for_the_same_name(store: Asked) -> None:
    change("default", MAX_MESSAGES=100, MAX_LINES=5)
    change("tier", TTL={"low": 60})
    change("new", OVERFLOW="reject")
    policy = of(store)
    assert (policy.max_messages, policy.max_lines, policy.window) == (100, 5, 64)
    tier = conf.policy("tier")
    assert (tier.max_messages, tier.max_lines, tier.window) == (7, 5, 64), "named in the settings goes over default"
    assert tier.ttl_for(Priority.LOW) == 60
    new = conf.policy("new")
    assert (new.overflow, new.max_messages, new.window) == (Overflow.REJECT, 100, 64)
    assert [policy.name for policy in conf.policies()] == ["default", "tier", "new"]
    found = where("tier")
    assert found["MAX_MESSAGES"] == 'settings, policy "tier"'
    assert found["MAX_LINES"] == 'database, policy "default"'
    assert found["WINDOW"] == 'settings, policy "default"'
    assert found["TTL"] == 'database, policy "tier"'
    assert found["OVERFLOW"] == "built in"
    assert found.keys() == conf.POLICY_DEFAULTS.keys()


def test_a_pattern_goes_over_what_was_chosen(store: Asked, caplog: Any) -> None:
    store.attach(make_presence("user.1", policy="tier"), make_policy())
    operating.carry_out(operating.pattern_set("user.?", "default", 5))
    assert of(store).name == "default"
    operating.carry_out(operating.policy_changed("gone", {}))
    operating.carry_out(operating.pattern_set("user.*", "gone", 1))
    assert of(store).name == "gone"
    assert of(store, "user.1/phone").name == "gone", "a line has its queue's policy"
    store.change_controls(operating.policy_removed("gone"))
    age(controls.REFRESH_SECONDS)
    assert of(store).name == "default"
    assert "there is no policy 'gone'" in caplog.text
    operating.carry_out(operating.pattern_removed("user.*"))
    operating.carry_out(operating.pattern_removed("user.?"))
    assert of(store).name == "tier"


def test_what_is_impossible_is_refused(store: Asked) -> None:
    before = store.controls()
    for wrong, text in [
        (operating.policy_changed("default", {"WINDOW": 0}), "WINDOW"),
        (operating.policy_changed("default", {"MAX_BYTES": 10}), "larger than MAX_BYTES"),
        (operating.policy_changed("", {}), "1 to 100 characters"),
        (operating.pattern_set("user.(", "tier", 1), "expected letters"),
        (operating.pattern_set("user.*", "tear", 1), "there is no policy 'tear'"),
    ]:
        assert text in (operating.problem_with(wrong) or "")
        with pytest.raises(NotConfigured, match=text.replace("(", "\\(")):
            operating.carry_out(wrong)
    assert store.controls() == before
    assert operating.problem_with(operating.policy_changed("default", {"WINDOW": 1})) is None


def test_what_is_impossible_all_the_same_is_ignored_and_complained_of_once(store: Asked, caplog: Any) -> None:
    """A newer release, or somebody's SQL, has written it."""
    rows = {"default": {"WINDOW": 5, "NEW_KEY": 1}, "tier": "{", "large": {"MAX_LINES": 9}}
    store.change_controls(lambda before: Controls(overrides=rows))
    for count in (1, 2, 3):
        store.change_controls(operating.policy_changed("large", {"MAX_LINES": count}))
        age(controls.REFRESH_SECONDS)
        assert of(store).window == 64
    assert conf.policy("large").max_lines == 3, "what is possible is in force"
    assert conf.policy("tier").max_messages == 7
    assert caplog.text.count("NEW_KEY") == 1
    assert caplog.text.count("expected a JSON object") == 1
    assert set(conf.judged().problems) == {conf.policy_row("default"), conf.policy_row("tier")}
    operating.carry_out(operating.policy_changed("large", {"WINDOW": 3}))  # others can be changed all the same


def test_a_default_row_that_breaks_another_policy_of_the_settings_is_ignored(store: Asked, settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"wide": {"MAX_MESSAGE_BYTES": 8_000_000}, "broken": {"WINDOW": -1}}}
    store.change_controls(lambda before: Controls(overrides={"default": {"MAX_BYTES": 1_000_000}}))
    assert of(store).max_bytes == 8_388_608
    assert "policy 'wide' in the settings" in conf.judged().problems[conf.policy_row("default")]


def test_changes_ring_for_all_living_servers(store: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(wakeup, "ring_controls", lambda find: found.append(find()))
    store.heartbeat(make_presence().server)
    change("default", WINDOW=5)
    assert found == [["server-1"]]
