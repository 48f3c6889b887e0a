"""The settings: one dict ``NETRA_QUEUE`` with upper-case keys. All defaults are here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from . import controls
from .core.controls import Controls, Layer, Origin, PatternRule, Source, Values, as_regex, layered
from .core.message import base_of
from .core.policy import Policy
from .core.policy_values import DAY as DAY
from .core.policy_values import LONGEST_SECONDS as LONGEST_SECONDS
from .core.policy_values import POLICY_DEFAULTS as POLICY_DEFAULTS
from .core.policy_values import build
from .core.rate import Rate
from .core.rollout import Standing
from .exceptions import NotConfigured

logger = logging.getLogger(__name__)

SETTING = "NETRA_QUEUE"

DEFAULTS: dict[str, Any] = {
    # Where messages live: dotted path of a class that keeps the contract of netra_queue.stores.base.Store.
    "STORE": "netra_queue.stores.database.DatabaseStore",
    # The channel layer that carries the bells. A second alias keeps them apart from the application's own traffic.
    "CHANNEL_LAYER": "default",
    # How long a message waits at most when its bell was lost: every process asks the store this often, with jitter.
    "POLL_SECONDS": 2.0,
    # How often a server process says that it is alive. Its connections count as gone after three missed times.
    "SERVER_HEARTBEAT_SECONDS": 10.0,
    # Threads, and so database connections, with which one server process talks to the store.
    "STORE_THREADS": 4,
    # A store call that takes longer counts as failed; a hung database connection must not hang the process.
    "STORE_TIMEOUT_SECONDS": 15.0,
    # Calls that take longer count against the store, as those that fail do: half of them open the breaker around it.
    "BREAKER_SLOW_SECONDS": 5.0,
    # More messages than this in the store open the breaker for sends alone, until the clients have taken some: a
    # table that grows without bound ends in a disk that is full. None: no bound.
    "MAX_STORED_MESSAGES": None,
    # A client that does not take a frame within this time is disconnected; what it missed stays in the queue.
    "WRITE_TIMEOUT_SECONDS": 20.0,
    # A queue without messages or connections is forgotten after this time; its idempotency keys have run out by then.
    "IDLE_QUEUE_SECONDS": 30 * DAY,
    # The longest time to live that a send may ask for; without a bound, messages for lost clients stay for ever.
    "MAX_TTL_SECONDS": 30 * DAY,
    # What a Prometheus server says to be shown the metrics page, and whoever wants more than one word on readiness; a
    # scraper cannot log in. None: users with the permission alone are shown the metrics.
    "METRICS_TOKEN": None,
    # Alerts whose thresholds would wake people for what is usual here, or never; None in place of one: it is off.
    "ALERTS": {},
    "POLICIES": {},
    # What one process replays to all of its returning clients together; None: as much as it can beside live messages.
    "PROCESS_REPLAY_RATE": None,
    # Dotted path of a callable that names the policy of a user's queues, or returns None.
    "POLICY_RESOLVER": None,
    # Dotted path of a callable that takes a queue's name and what was sent, and returns what people are shown of it:
    # without it, whoever may look at queues for a repair reads what customers were sent.
    "REDACT": None,
}

LONGEST_NAME = 100  # of a policy


def get(key: str) -> Any:
    """The value in force for one of the keys of ``DEFAULTS``."""
    return user_settings().get(key, DEFAULTS[key])


def user_settings() -> Mapping[str, Any]:
    """The project's dict as it stands. Raises NotConfigured when it is none."""
    given = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise NotConfigured(SETTING, f"expected a dict, got {type(given).__name__}")
    return given


def longest_ttl() -> Any:
    """MAX_TTL_SECONDS, as far as times can be computed with it."""
    return min(get("MAX_TTL_SECONDS"), LONGEST_SECONDS)


def process_replay_rate() -> Rate | None:
    """Raises NotConfigured for what is no rate."""
    given = get("PROCESS_REPLAY_RATE")
    try:
        return None if given is None else Rate.parse(given)
    except ValueError as error:
        raise NotConfigured(f"{SETTING}['PROCESS_REPLAY_RATE']", str(error)) from error


def resolver() -> Callable[[Any], Any] | None:
    """What names the policies of users' queues. Raises ImportError for a path that leads nowhere."""
    path = get("POLICY_RESOLVER")
    return cast(Callable[[Any], Any], import_string(path)) if path else None


def redact() -> Callable[[str, Any], Any] | None:
    """What people are shown of payloads goes through this. Raises ImportError for a path that leads nowhere."""
    path = get("REDACT")
    return cast(Callable[[str, Any], Any], import_string(path)) if path else None


# --- policies ------------------------------------------------------------------------------------------------------


def policy(name: str) -> Policy:
    """The policy with this name, as the settings and operators have it. See ``explain`` for what comes from where.

    Raises NotConfigured for an unknown name or an impossible value. Does not block.
    """
    return _policy(name or "default", controls.generation())


@lru_cache(maxsize=256)
def _policy(name: str, generation: int) -> Policy:
    """``generation``: a name has another policy when operators have changed something."""
    return _layered_policy(name, judged().controls)


def _layered_policy(name: str, given: Controls) -> Policy:
    """Raises NotConfigured."""
    if name not in _names(given):
        raise NotConfigured(f"{SETTING}['POLICIES']", f"there is no policy {name!r}")
    try:
        return build(name, {key: origin.value for key, origin in _origins(name, given).items()}, longest_ttl())
    except (ValueError, TypeError, KeyError) as error:
        raise NotConfigured(f"{SETTING}['POLICIES'][{name!r}]", str(error)) from error


def _origins(name: str, given: Controls) -> dict[str, Origin]:
    """Raises TypeError or ValueError where there is no dict."""
    layers = [Layer(Source.BUILT_IN, "", POLICY_DEFAULTS)]
    for of in dict.fromkeys(("default", name)):
        for source, entries in ((Source.SETTINGS, get("POLICIES")), (Source.DATABASE, given.overrides)):
            layers += [Layer(source, of, entries[of])] if of in entries else []
    return layered(layers)


def _names(given: Controls) -> dict[str, None]:
    return dict.fromkeys(("default", *get("POLICIES"), *given.overrides))


def explain(name: str) -> dict[str, Origin]:
    """Each value of this policy, and where it is from. Raises NotConfigured as ``policy`` does."""
    policy(name)
    return _origins(name or "default", judged().controls)


def inherited(name: str) -> dict[str, Origin]:
    """The same without what operators say of this policy itself. An unknown name has what ``default`` has."""
    return _origins(name, judged().controls.without_policy(name))


def policies() -> list[Policy]:
    """All policies that there are, the default one first."""
    return [policy(name) for name in _names(judged().controls)]


def policy_or_default(name: str) -> Policy:
    """The policy of this name; the default one if there is none of this name (any more)."""
    try:
        return policy(name)
    except NotConfigured as error:
        if name in ("", "default"):
            raise
        logger.warning("%s; using the default policy", error, extra={"action": "policy_missing", "policy": name})
        return policy("default")


def policy_of(queue: str, name: str) -> Policy:
    """The policy in force for a queue (or line) for which ``name`` was chosen: an operator's pattern goes first."""
    now = controls.in_force()
    return _policy_of(base_of(queue) if now.controls.rules else "", name, now.generation)


@lru_cache(maxsize=10_000)
def _policy_of(queue: str, name: str, generation: int) -> Policy:
    """Every send asks this. ``queue``: nothing where its name does not matter."""
    rule = judged().controls.rule_for(queue)
    return policy_or_default(name if rule is None else rule.policy)


def standing_of(queue: str, policy: Policy) -> Standing:
    """What a queue (or line) with this policy is to the store, as operators have it now. Does not block."""
    return Standing.OFF if controls.current().is_off else policy.rollout.standing(queue)


def keeps_everything() -> bool:
    """Whether no queue is outside of the rollout, whatever its policy. Does not block."""
    return not controls.current().is_off and all(policy.rollout.is_everything for policy in policies())


def rule_for(queue: str) -> PatternRule | None:
    """The operator's pattern that decides about this queue (or line)."""
    return judged().controls.rule_for(base_of(queue))


# --- what operators have set ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """``controls``: without what is impossible. ``problems``: what that is, and why. ``unknown``: rules whose policy
    nobody knows; their queues have the default one."""

    controls: Controls
    problems: Mapping[str, str]
    unknown: Mapping[str, str]


def judged() -> Judged:
    """The controls in force. What is ignored is in the log, once."""
    return _judged(controls.generation())


@lru_cache(maxsize=4)
def _judged(generation: int) -> Judged:
    found = judge(controls.current())
    for what, problem in found.problems.items():
        if (what, problem) not in _complained:
            logger.error("%s ignored: %s", what, problem, extra={"action": "controls_ignored"})
        _complained.add((what, problem))
    return found


_complained: set[tuple[str, str]] = set()


def policy_row(name: str) -> str:
    """What an operator's policy is called in ``Judged``."""
    return f"policy {name!r} in the database"


def pattern_row(pattern: str) -> str:
    """What an operator's pattern is called in ``Judged``."""
    return f"pattern {pattern!r} in the database"


def judge(given: Controls) -> Judged:
    """Which of these controls can come into force beside the settings: ``default`` first, each with those before it."""
    accepted, problems = replace(given, overrides={}, rules=()), {}
    for name in sorted(given.overrides, key=lambda name: (name != "default", name)):
        after = replace(accepted, overrides={**accepted.overrides, name: given.overrides[name]})
        if (problem := _override_problem(name, accepted, after)) is None:
            accepted = after
        else:
            problems[policy_row(name)] = problem
    sound = tuple(rule for rule in given.rules if _rule_problem(rule) is None)
    broken = {pattern_row(rule.pattern): _rule_problem(rule) for rule in given.rules}
    unknown = {
        pattern_row(rule.pattern): f"there is no policy {rule.policy!r}"
        for rule in sound
        if rule.policy not in _names(accepted)
    }
    problems |= {what: problem for what, problem in broken.items() if problem is not None}
    return Judged(replace(accepted, rules=sound), problems, unknown)


def _override_problem(name: str, before: Controls, after: Controls) -> str | None:
    """Why this row cannot come into force; that it breaks another policy, which inherits from it, is one reason."""
    values = after.overrides[name]
    if not 0 < len(name) <= LONGEST_NAME:
        return f"expected a name of 1 to {LONGEST_NAME} characters"
    if not isinstance(values, Mapping):
        return f"expected a JSON object, got {values!r:.80}"
    if foreign := sorted(set(map(str, _paths(values))) - callables_in_settings()):
        return f"{foreign[0]!r} is not among the callables that the settings name"
    for of in [name, *(get("POLICIES") if name == "default" else ())]:
        try:
            _layered_policy(of, after)
        except NotConfigured as error:
            if of == name:
                return error.problem
            if _can_be_used(of, before):
                return f"policy {of!r} in the settings: {error.problem}"
    return None


def _can_be_used(name: str, given: Controls) -> bool:
    try:
        return bool(_layered_policy(name, given))
    except NotConfigured:
        return False


def _rule_problem(rule: PatternRule) -> str | None:
    try:
        as_regex(rule.pattern)
    except ValueError as error:
        return str(error)
    return None


def callables_in_settings() -> set[str]:
    """The dotted paths that policies in the settings name. Operators choose among them: they may not name code."""
    named = [path for values in get("POLICIES").values() if isinstance(values, Mapping) for path in _paths(values)]
    return {path for path in named if isinstance(path, str)}


def _paths(values: Values) -> Iterator[Any]:
    replay = values.get("REPLAY")
    for path in (values.get("ON_UNDELIVERED"), replay.get("DIGEST") if isinstance(replay, Mapping) else None):
        if path is not None:
            yield path


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        controls.forget()
        _complained.clear()


setting_changed.connect(_forget, dispatch_uid="netra_queue.conf")
