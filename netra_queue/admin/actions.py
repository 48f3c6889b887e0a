"""Actions on many rows: a page that asks and names the count, and steps that each answer soon, until all is done.

What is still to be done travels with the page, signed: nothing is kept on the server, and who closes the page ends the
action after the step that runs. A step that is repeated does no harm: what is done already is found done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.translation import gettext_lazy as _

from ..exceptions import NetraQueueError
from .base import ReadOnlyAdmin

CAP = 10_000  # rows in one action
STEP_SECONDS = 2.0  # of work between two pages
NAMED = 20  # rows that the page which asks names
LONGEST_SECONDS = 24 * 3600  # an action that was begun can be carried on so long
SALT = "netra_queue.admin.actions"


@dataclass(frozen=True, slots=True)
class Work:
    """One batch of rows that an action is to be done with, within about so many ``seconds``. ``by``: who wants it."""

    rows: Sequence[Any]
    values: Mapping[str, Any]
    seconds: float
    by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of a batch. ``history``: a text for each row, by primary key. ``unfinished``: keys of rows with which
    there is more to do. ``refused``: how many rows it was refused for."""

    count: int
    history: Mapping[Any, str]
    unfinished: tuple[Any, ...] = ()
    refused: int = 0


class Action:
    """Something that operators do with rows. Texts may have ``%(count)d``, of what was done, and ``%(refused)d``."""

    name: ClassVar[str]
    title: ClassVar[Any]
    question: ClassVar[Any]  # what will happen
    done: ClassVar[Any]
    refused: ClassVar[Any] = _("Refused for %(refused)d.")
    permission: ClassVar[str]
    also: ClassVar[tuple[str, ...]] = ()  # other permissions that it takes
    cap: ClassVar[int] = CAP
    batch: ClassVar[int] = 1  # rows that are worked on together
    form: ClassVar[type[forms.Form]] = forms.Form
    answers: ClassVar[bool] = False  # it does nothing but answer

    def affected(self, keys: Sequence[Any]) -> Any:
        """How much it is about, besides the number of rows, as a sentence; "": nothing that could be said."""
        return ""

    def carry_out(self, work: Work) -> Result:
        """Raises NetraQueueError when nothing more can be done now."""
        raise NotImplementedError

    def answer(self, request: HttpRequest, work: Work) -> HttpResponseBase:
        """Of an action that ``answers``: all its answer, for all rows at once."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Job:
    """An action under way. ``keys``: of the rows that are still to come. ``back``: the list's query."""

    keys: list[Any]
    total: int
    back: str = ""
    only: str = ""  # the one row whose page it was begun on
    is_cut: bool = False  # more rows were chosen
    count: int = 0
    refused: int = 0
    given: dict[str, list[str]] = field(default_factory=dict)  # what was filled in

    @property
    def done(self) -> int:
        return self.total - len(self.keys)

    @property
    def percent(self) -> int:
        return 100 * self.done // max(1, self.total)


class ActingAdmin(ReadOnlyAdmin):
    """A list with actions, as ``acts`` has them. Each is offered to those who have its permission."""

    acts: Sequence[Action] = ()

    # --- what is offered ---

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        found: dict[str, Any] = dict(super().get_actions(request))
        for action in self.acts:
            if self._may(request, action):
                found[action.name] = (_asking(action), action.name, action.title)
        return found

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.act_view)
        name = f"{self.opts.app_label}_{self.opts.model_name}_act"
        return [path("act/<str:name>/", view, name=name), *super().get_urls()]

    def acts_on(self, request: HttpRequest, key: Any) -> list[dict[str, Any]]:
        """Links to the actions on one row, for its page."""
        acts = [act for act in self.acts if self._may(request, act)]
        return [{"name": act.name, "title": act.title, "url": f"{self._act_url(act)}?only={key}"} for act in acts]

    def _may(self, request: HttpRequest, action: Action) -> bool:
        return self.has_view_permission(request) and request.user.has_perms((action.permission, *action.also))

    # --- asking ---

    def ask(self, request: HttpRequest, action: Action, queryset: QuerySet[Any]) -> HttpResponse:
        """The page that names what was chosen in the list."""
        keys = list(queryset.values_list("pk", flat=True)[: action.cap + 1])
        job = Job(keys[: action.cap], len(keys[: action.cap]), request.GET.urlencode(), is_cut=len(keys) > action.cap)
        return self._question(request, action, job, action.form())

    def act_view(self, request: HttpRequest, name: str) -> HttpResponseBase:
        """GET, with ``only``: ask about one row. POST: do a step of what was confirmed."""
        action = next((each for each in self.acts if each.name == name), None)
        if action is None or not self._may(request, action):
            raise PermissionDenied
        if request.method != "POST":
            row = self.get_object(request, request.GET.get("only", ""))
            if row is None:
                return HttpResponseRedirect(self._back_url(Job([], 0)))
            initial = {name: value for name, value in request.GET.items() if name in action.form.base_fields}
            return self._question(request, action, Job([row.pk], 1, only=str(row.pk)), action.form(initial=initial))
        try:
            job = self._job(request)
        except signing.BadSignature:
            self.message_user(request, _("This page is too old. Choose again."), messages.ERROR)
            return HttpResponseRedirect(self._back_url(Job([], 0)))
        given = {**job.given, **{name: request.POST.getlist(name) for name in action.form.base_fields}}
        job = job if job.given else replace(job, given=given)
        form = action.form(_as_data(job.given))
        return self._step(request, action, job, form) if form.is_valid() else self._question(request, action, job, form)

    def _question(self, request: HttpRequest, action: Action, job: Job, form: forms.Form) -> TemplateResponse:
        rows = self._rows(request, job.keys[:NAMED])
        context = {
            **self._context(request, action, job),
            "form": form,
            "rows": rows,
            "unnamed": job.total - len(rows),
            "affected": action.affected(job.keys),
            "cap": action.cap,
            "job": replace(job, given={}),
            "token": self._token(request, replace(job, given={})),
        }
        return TemplateResponse(request, "netra_queue/admin/action.html", context)

    def _context(self, request: HttpRequest, action: Action, job: Job) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "title": action.title,
            "action": action,
            "opts": self.opts,
            "act_url": self._act_url(action),
            "back_url": self._back_url(job),
            "job": job,
        }

    # --- doing ---

    def _step(self, request: HttpRequest, action: Action, job: Job, form: forms.Form) -> HttpResponseBase:
        by = request.user.get_username()
        if action.answers:
            rows = self._rows(request, job.keys)
            self._log(request, rows, {row.pk: f"{action.title}." for row in rows})
            return action.answer(request, Work(rows, form.cleaned_data, STEP_SECONDS, by))
        deadline, error = time.monotonic() + STEP_SECONDS, None
        while job.keys and error is None and (seconds := deadline - time.monotonic()) > 0:
            work = Work(self._rows(request, job.keys[: action.batch]), form.cleaned_data, seconds, by)
            job, error = self._batch(request, action, job, work)
        if not job.keys:
            return self._end(request, action, job)
        context = {**self._context(request, action, job), "error": error, "token": self._token(request, job)}
        context["done_text"] = action.done % {"count": job.count}
        return TemplateResponse(request, "netra_queue/admin/progress.html", context)

    def _batch(self, request: HttpRequest, action: Action, job: Job, work: Work) -> tuple[Job, NetraQueueError | None]:
        """The job without what is done, and why there is nothing to be done now; rows that are gone count as done."""
        left = job.keys[action.batch :]
        if not work.rows:
            return replace(job, keys=left), None
        try:
            result = action.carry_out(work)
        except NetraQueueError as error:
            text = f"{action.title}: failed, perhaps after it was done: {error}"
            self._log(request, work.rows, {row.pk: text for row in work.rows})
            return job, error
        self._log(request, work.rows, result.history)
        count, refused = job.count + result.count, job.refused + result.refused
        return replace(job, keys=[*result.unfinished, *left], count=count, refused=refused), None

    def _end(self, request: HttpRequest, action: Action, job: Job) -> HttpResponseRedirect:
        self.message_user(request, action.done % {"count": job.count}, messages.SUCCESS)
        if job.refused:
            self.message_user(request, action.refused % {"refused": job.refused}, messages.WARNING)
        return HttpResponseRedirect(self._back_url(job))

    def _log(self, request: HttpRequest, rows: Iterable[Any], history: Mapping[Any, str]) -> None:
        by_text: dict[str, list[Model]] = {}
        for row in rows:
            if row.pk in history:
                by_text.setdefault(history[row.pk], []).append(row)
        for text, some in by_text.items():
            LogEntry.objects.log_actions(request.user.pk, some, CHANGE, text)  # type: ignore[arg-type]

    # --- where it is kept ---

    def _rows(self, request: HttpRequest, keys: Sequence[Any]) -> list[Any]:
        """In this order, without those that are gone."""
        found = self.get_queryset(request).in_bulk(list(keys))
        return [found[key] for key in keys if key in found]

    def _token(self, request: HttpRequest, job: Job) -> str:
        return signing.dumps(asdict(job), salt=self._salt(request), compress=True)

    def _job(self, request: HttpRequest) -> Job:
        """Raises BadSignature."""
        text = request.POST.get("job", "")
        return Job(**signing.loads(text, salt=self._salt(request), max_age=LONGEST_SECONDS))

    def _salt(self, request: HttpRequest) -> str:
        return f"{SALT}.{self.opts.model_name}.{request.user.pk}"

    def _act_url(self, action: Action) -> str:
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_act"
        return reverse(name, args=[action.name], current_app=self.admin_site.name)

    def _back_url(self, job: Job) -> str:
        prefix = f"admin:{self.opts.app_label}_{self.opts.model_name}"
        if job.only:
            return reverse(f"{prefix}_change", args=[job.only], current_app=self.admin_site.name)
        url = reverse(f"{prefix}_changelist", current_app=self.admin_site.name)
        return f"{url}?{job.back}" if job.back else url


def _asking(action: Action) -> Callable[[ActingAdmin, HttpRequest, QuerySet[Any]], HttpResponse]:
    return lambda model_admin, request, queryset: model_admin.ask(request, action, queryset)


def _as_data(given: Mapping[str, list[str]]) -> QueryDict:
    data = QueryDict(mutable=True)
    for name, values in given.items():
        data.setlist(name, values)
    return data
