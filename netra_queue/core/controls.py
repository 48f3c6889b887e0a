"""What operators set in the store, without a deploy, and how it lies over the settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any

Values = Mapping[str, Any]
PATTERN = re.compile(r"(?:[A-Za-z0-9._:@+=*?-]|\[!?[A-Za-z0-9._:@+=-]+\])+")
TOKEN = re.compile(r"\[(?P<negated>!?)(?P<members>[^]]+)\]|(?P<other>.)")
SPECIAL = {"?": ".", ".": "\\.", "+": "\\+"}


class Source(Enum):
    """Where a value is from. A later one wins over an earlier one, for policies of one name."""

    BUILT_IN = "built in"
    SETTINGS = "settings"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place says of one policy, keys as in the settings. What is built in belongs to no policy (``""``)."""

    source: Source
    policy: str
    values: Values


@dataclass(frozen=True, slots=True)
class Origin:
    """A value in force, where it is from, and which policy's entry there has it."""

    value: Any
    source: Source
    policy: str

    @property
    def where(self) -> str:
        return f'{self.source.value}, policy "{self.policy}"' if self.policy else self.source.value


def layered(layers: Iterable[Layer]) -> dict[str, Origin]:
    """The value of each key, as the last layer that has it says. Raises TypeError or ValueError for what is no dict."""
    return {
        key: Origin(value, layer.source, layer.policy) for layer in layers for key, value in dict(layer.values).items()
    }


@dataclass(frozen=True, slots=True, order=True)
class PatternRule:
    """Queues whose names match ``pattern`` have this policy, unless a rule of a lower ``place`` matches as well."""

    place: int
    pattern: str
    policy: str

    def matches(self, queue: str) -> bool:
        return matches(self.pattern, queue)


def matches(pattern: str, queue: str) -> bool:
    """Whether a queue's name is as the pattern says (see ``as_regex``)."""
    return re.search(as_regex(pattern), queue) is not None


@lru_cache(maxsize=1024)
def as_regex(pattern: str, *, is_atomic: bool = True) -> str:
    """A shell pattern (``*``, ``?``, ``[a-z]``, ``[!a-z]``) over the letters of queues' names, as a regular expression.

    With atomic groups, for engines that search by trying (Python's, PCRE): without them, many stars take them for ever.
    PostgreSQL does not know these, and needs none. Raises ValueError for any other text.
    """
    if PATTERN.fullmatch(pattern) is None:
        raise ValueError(f"expected letters of a queue's name, *, ?, [a-z] and [!a-z], got {pattern!r}")
    first, *others = _between_stars(pattern)
    if not is_atomic or not others:
        return _compiled(pattern, ".*".join((first, *others)))
    *middle, last = others
    return _compiled(pattern, f"{first}{''.join(f'(?>.*?{part})' for part in middle if part)}.*{last}")


def _compiled(pattern: str, regex: str) -> str:
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f"{pattern!r}: {error}") from error
    return f"^{regex}$"


def _between_stars(pattern: str) -> list[str]:
    """The parts of a pattern that match so many letters as they say, translated."""
    parts = [""]
    for token in TOKEN.finditer(pattern):
        if token["other"] == "*":
            parts.append("")
        elif token["other"] is None:
            parts[-1] += f"[{'^' if token['negated'] else ''}{token['members']}]"
        else:
            parts[-1] += SPECIAL.get(token["other"], token["other"])
    return parts


@dataclass(frozen=True, slots=True)
class ForcedBreaker:
    """An operator's word on the breakers of all processes: open or closed, until then, whatever the store does."""

    is_open: bool
    until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Controls:
    """Everything operators have set, as it stands in the store. ``version`` differs whenever anything else does.

    ``overrides``: by policy name, what the database says of it; what no store has written may be anything.
    ``rules``: which queues have which policy, the first to match first. ``is_off``: the kill switch. ``breaker``: how
    operators have forced it; None, or with its time over: it does what the store shows.
    """

    version: int = field(default=0, compare=False)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[PatternRule, ...] = ()
    is_off: bool = False
    breaker: ForcedBreaker | None = None

    def with_policy(self, name: str, changes: Values, removed: Iterable[str] = ()) -> Controls:
        """``changes`` are set, and the keys in ``removed`` inherited again. What cannot be read is replaced."""
        before = self.overrides.get(name)
        values = {**(before if isinstance(before, Mapping) else {}), **changes}
        kept = {key: value for key, value in values.items() if key not in set(removed)}
        return replace(self, overrides={**self.overrides, name: kept})

    def without_policy(self, name: str) -> Controls:
        return replace(self, overrides={other: values for other, values in self.overrides.items() if other != name})

    def with_rule(self, rule: PatternRule) -> Controls:
        """It takes the place of one with the same pattern."""
        return replace(self, rules=tuple(sorted([*self.without_rule(rule.pattern).rules, rule])))

    def without_rule(self, pattern: str) -> Controls:
        return replace(self, rules=tuple(rule for rule in self.rules if rule.pattern != pattern))

    def rule_for(self, queue: str) -> PatternRule | None:
        """The first rule that matches this queue's name."""
        return next((rule for rule in self.rules if rule.matches(queue)), None)
