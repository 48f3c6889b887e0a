"""Policies and patterns: what operators change without a deploy, and who changed what from what to what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import DELETION, LogEntry
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext_lazy as _

from .. import conf, operating, policies
from ..exceptions import NetraQueueError
from ..models import PolicyPattern, QueuePolicy
from ..stores import current_store
from .values import INHERITED, ValueField, renew_choices, shown

STEP = 10  # between the places of two patterns, so that others go between them


class ControlAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows are changed through the store, which tells all processes."""

    actions = None
    show_facets = admin.ShowFacets.NEVER

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._answered(request, lambda: super(ControlAdmin, self).changeform_view(request, *args, **kwargs))

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._answered(request, lambda: super(ControlAdmin, self).delete_view(request, *args, **kwargs))

    def _answered(self, request: HttpRequest, view: Callable[[], HttpResponse]) -> HttpResponse:
        """What is refused only when it is written: somebody else has changed something since the form was checked."""
        policies.fresh_store()
        try:
            return view()
        except NetraQueueError as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        operating.carry_out(form.change())

    def construct_change_message(  # type: ignore[override]
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> str:
        """For the history: Django would say which fields, and not from what to what."""
        changes = [f"{key}: {old} → {new}" for key, old, new in form.changes()]
        return "; ".join(changes) or "Nothing was changed."

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """With what was there."""
        user = cast(int, request.user.pk)
        return [
            LogEntry.objects.log_actions(user, [row], DELETION, f"Deleted; it was {self.described(row)}.")
            for row in queryset
        ]

    def described(self, row: Any) -> str:
        raise NotImplementedError


class ControlForm(forms.ModelForm):  # type: ignore[type-arg]
    """What cannot come into force is refused with the reason."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if not self.errors and (problem := operating.problem_with(self.change())) is not None:
            raise forms.ValidationError(problem)
        return cleaned

    def change(self) -> operating.Change:
        raise NotImplementedError


# --- policies ------------------------------------------------------------------------------------------------------


class _PolicyForm(ControlForm):
    class Meta:
        model = QueuePolicy
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = self.instance.name or str(self.initial.get("name") or self.data.get("name") or "").strip()
        inherited = conf.inherited(name)
        renew_choices(self.fields)
        for key, value in _values(self.instance.name).items():
            self.initial[key] = value
        for key, field in self.fields.items():
            if isinstance(field, ValueField):
                self.initial.setdefault(key, INHERITED)
                field.explain(inherited[key])

    def change(self) -> operating.Change:
        """Of what was changed in this form alone: another operator's change of another key stays."""
        new = {key: self.cleaned_data[key] for key, _, _ in self.changes()}
        changes = {key: value for key, value in new.items() if value is not INHERITED}
        name = self.instance.name or self.cleaned_data["name"]
        return operating.policy_changed(name, changes, new.keys() - changes.keys())

    def changes(self) -> list[tuple[str, str, str]]:
        """Each value that was changed: its key, what it was, and what it is."""
        keys = [key for key in self.changed_data if isinstance(self.fields[key], ValueField)]
        return [(key, shown(self.initial[key]), shown(self.cleaned_data[key])) for key in keys]


PolicyForm = type("PolicyForm", (_PolicyForm,), {key: ValueField(key) for key in conf.POLICY_DEFAULTS})


def _values(name: str) -> Mapping[str, Any]:
    """What the row of this policy says, as far as a form has a field for it."""
    controls = current_store().controls() if name else None
    found = controls.overrides.get(name) if controls is not None else None
    if not isinstance(found, Mapping):
        return {}
    return {key: value for key, value in found.items() if key in conf.POLICY_DEFAULTS}


@admin.register(QueuePolicy)
class QueuePolicyAdmin(ControlAdmin):
    form = PolicyForm
    list_display = ("name", "sets", "is_in_force", "changed_at")
    ordering = ("name",)
    fields = ("name", "problem", *conf.POLICY_DEFAULTS)
    readonly_fields = ("problem",)
    change_list_template = "netra_queue/admin/policies.html"

    def get_readonly_fields(self, request: HttpRequest, obj: QueuePolicy | None = None) -> tuple[str, ...]:
        return ("problem",) if obj is None else ("name", "problem")

    def get_fields(self, request: HttpRequest, obj: QueuePolicy | None = None) -> tuple[str, ...]:
        has_problem = obj is not None and _problem(obj) is not None
        return ("name", *(("problem",) if has_problem else ()), *conf.POLICY_DEFAULTS)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """A link may name the policy, and nothing else."""
        return {"name": request.GET.get("name", "")}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With all policies as they are in force, those of the settings included."""
        policies.fresh_store()
        found = [(policy.name, _rows(policy.name)) for policy in conf.policies()]
        return super().changelist_view(request, {**(extra_context or {}), "policies": found})

    def delete_model(self, request: HttpRequest, obj: QueuePolicy) -> None:
        operating.carry_out(operating.policy_removed(obj.name))

    def described(self, row: QueuePolicy) -> str:
        return str(row.values)

    @admin.display(description=_("sets"))
    def sets(self, policy: QueuePolicy) -> str:
        return str(policy.values)

    @admin.display(description=_("in force"), boolean=True)
    def is_in_force(self, policy: QueuePolicy) -> bool:
        return _problem(policy) is None

    @admin.display(description=_("Not in force"))
    def problem(self, policy: QueuePolicy) -> str | None:
        return _problem(policy)


def _problem(policy: QueuePolicy) -> str | None:
    return conf.judged().problems.get(conf.policy_row(policy.name))


def _rows(name: str) -> Iterable[tuple[str, str, str]]:
    return [(key, shown(origin.value), origin.where) for key, origin in conf.explain(name).items()]


# --- patterns ------------------------------------------------------------------------------------------------------


class PatternForm(ControlForm):
    class Meta:
        model = PolicyPattern
        fields = ("pattern", "place", "policy")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = dict.fromkeys([policy.name for policy in conf.policies()])
        known |= {self.instance.policy: None} if self.instance.policy else {}
        self.fields["policy"] = forms.ChoiceField(choices=[(name, name) for name in known], label=_("policy"))
        self.fields["place"].help_text = _("Of several patterns that match, the one with the lowest place decides.")
        if "pattern" in self.fields:
            self.fields["pattern"].help_text = _("Of a queue's name: * is any text, ? any letter, [ab] and [!ab] too.")
        if not self.instance.pattern:
            last = PolicyPattern.objects.order_by("place").last()
            self.initial.setdefault("place", last.place + STEP if last else STEP)

    def change(self) -> operating.Change:
        pattern = self.instance.pattern or self.cleaned_data["pattern"]
        return operating.pattern_set(pattern, self.cleaned_data["policy"], self.cleaned_data["place"])

    def changes(self) -> list[tuple[str, str, str]]:
        """Each value that was changed: its name, what it was, and what it is."""
        is_new = self.instance._state.adding
        names = [name for name in self.fields if name != "pattern" and (is_new or name in self.changed_data)]
        return [(name, "none" if is_new else str(self.initial[name]), str(self.cleaned_data[name])) for name in names]


@admin.register(PolicyPattern)
class PolicyPatternAdmin(ControlAdmin):
    form = PatternForm
    list_display = ("pattern", "place", "policy", "changed_at")
    ordering = ("place", "pattern")
    sortable_by = ()
    fields = ("pattern", "place", "policy")

    def get_readonly_fields(self, request: HttpRequest, obj: PolicyPattern | None = None) -> tuple[str, ...]:
        return () if obj is None else ("pattern",)

    def delete_model(self, request: HttpRequest, obj: PolicyPattern) -> None:
        operating.carry_out(operating.pattern_removed(obj.pattern))

    def described(self, row: PolicyPattern) -> str:
        return f"place {row.place}, policy {row.policy}"
