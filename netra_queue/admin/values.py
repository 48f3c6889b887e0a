"""A policy's values in a form: one field for each key, as JSON. An empty field is inherited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils.html import format_html_join
from django.utils.translation import gettext_lazy as _

from .. import conf
from ..core.controls import Origin
from ..core.policy import Exceeded, Overflow, WhileUnavailable
from ..core.policy_values import DURATIONS, RATES, WHOLE_NUMBERS


class Inherited:
    """No value: what the settings, or another policy, say."""

    def __str__(self) -> str:
        return "inherited"


INHERITED: Final = Inherited()


class Typed(str):
    """What somebody has typed into a field."""


EXAMPLES = {
    "TTL": '86400, {"normal": 259200}',
    "UNDELIVERED_SECONDS": 'null, 600, {"critical": 60}',
    "DEAD_LETTERS": '["dead", "expired"], []',
    "REPLAY": '{}, {"NEWEST": 100}, {"SECONDS": 3600}',
    "ROLLOUT": '{}, {"PERCENT": 10, "ALLOW": ["user.1"], "DENY": ["room.*"]}, {"SHADOW": true}',
    **dict.fromkeys(RATES, 'null, "100/s", "6000/m burst 500"'),
    "SENDER_RATES": '{}, {"import": "10/s"}',
}


MODES: dict[str, type[Enum]] = {
    "OVERFLOW": Overflow,
    "RATE_EXCEEDED": Exceeded,
    "WHILE_UNAVAILABLE": WhileUnavailable,
}
CHOSEN = (*MODES, "ON_UNDELIVERED")


def shown(value: object) -> str:
    """As a value is written in a form, in the history, in tables and by the command."""
    if value is INHERITED:
        return str(value)
    plain = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(sorted(plain) if isinstance(plain, set | frozenset) else plain, default=str)


class ValueField(forms.Field):
    """JSON; or nothing, which is INHERITED."""

    def __init__(self, key: str) -> None:
        super().__init__(required=False, label=key, initial=INHERITED, widget=_widget(key))
        self.key = key

    def to_python(self, value: Any) -> Any:
        text = (value or "").strip()
        try:
            return json.loads(text, parse_constant=_refuse) if text else INHERITED
        except (ValueError, RecursionError) as error:
            example = EXAMPLES.get(self.key, "100")
            raise ValidationError(_("Expected JSON, for example %(example)s") % {"example": example}) from error

    def bound_data(self, data: Any, initial: Any) -> Typed:
        return Typed(data or "")

    def prepare_value(self, value: Any) -> str:
        if isinstance(value, Typed):
            return value
        return "" if value is INHERITED else shown(value)

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except ValidationError:
            return True

    def explain(self, origin: Origin) -> None:
        """Say what it would be without a value here."""
        example = f" For example {EXAMPLES[self.key]}." if self.key in EXAMPLES else ""
        self.help_text = f"Inherited: {shown(origin.value)} ({origin.where}).{example}"


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _widget(key: str) -> forms.Widget:
    if key in CHOSEN:
        return forms.Select(choices=_choices(key))
    if key in WHOLE_NUMBERS:
        return forms.NumberInput(attrs={"min": 1})
    if key in DURATIONS:
        return forms.NumberInput(attrs={"min": 0, "step": "any"})
    return forms.TextInput(attrs={"class": "vTextField"})


def _choices(key: str) -> list[tuple[str, Any]]:
    """Code is named by the settings alone; operators choose among that."""
    if key in MODES:
        named: list[tuple[str, Any]] = [(shown(mode.value), mode.value) for mode in MODES[key]]
    else:
        paths = sorted(conf.callables_in_settings())
        named = [("null", _("the signal message_undelivered")), *((shown(path), path) for path in paths)]
    return [("", _("inherited")), *named]


def renew_choices(fields: Mapping[str, forms.Field]) -> None:
    """A form's class outlives the settings that it was made with."""
    widget = fields["ON_UNDELIVERED"].widget
    if isinstance(widget, forms.Select):
        widget.choices = _choices("ON_UNDELIVERED")


def table(origins: Mapping[str, Origin]) -> str:
    """Each value, and where it is from."""
    rows = format_html_join(
        "",
        "<tr><th>{}</th><td>{}</td><td>{}</td></tr>",
        ((key, shown(origin.value), origin.where) for key, origin in origins.items()),
    )
    return format_html_join("", "<table><tbody>{}</tbody></table>", [(rows,)])
