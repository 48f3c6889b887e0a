"""Queues: who waits for what, in the order of their names or of what they have most of; and a page for each."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.core.paginator import InvalidPage, Paginator
from django.db import connections, router
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import OrderBy
from django.http import HttpRequest
from django.urls import reverse
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from .. import conf, policies
from ..core.message import client_of
from ..core.rollout import Standing
from ..models import Queue
from ..stores import current_store, pausing
from ..stores.base import Pause
from .actions import ActingAdmin
from .base import BoundedChangeList
from .figures import figures
from .queue_actions import ACTIONS, Disconnect, Forget
from .ranking import MEASURES, Measure, Ranking, ranking
from .recipient import recipient
from .values import table

STANDINGS = {
    Standing.DURABLE: _("durable: messages are kept until they are acknowledged"),
    Standing.SHADOW: _("shadow: messages are kept, and none is replayed"),
    Standing.OUTSIDE: _("outside of the rollout: what waits is replayed, nothing new is kept"),
    Standing.OFF: _("off: the kill switch is pulled; nothing is kept or replayed"),
}


class MeasureFilter(admin.SimpleListFilter):
    """The choices of one measure. Which queues they leave is found for all measures together (``ranking``)."""

    measure: Measure

    def __init__(self, *arguments: Any) -> None:
        self.title, self.parameter_name = self.measure.title, self.measure.name
        super().__init__(*arguments)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(self.measure.choices.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Queue]) -> QuerySet[Queue]:
        return queryset


def _filter_by(name: str) -> type[MeasureFilter]:
    return type(f"{name.title()}Filter", (MeasureFilter,), {"measure": MEASURES[name], "parameter_name": name})


class QueueChangeList(BoundedChangeList):
    """By name; or those that have most of a measure, which is the descending order in any case."""

    ranking: Ranking | None = None

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Queue]:
        """Of what was chosen by hand in a list, nothing is left out, however the list has changed since."""
        found = super().get_queryset(request, exclude_parameters)
        if request.method == "POST" and request.POST.get("select_across") != "1":
            return found
        choices = {name: value for name, value in self._choices() if value in MEASURES[name].choices}
        if not choices and self._measure() is None:
            return found
        self.ranking = ranking(self._measure(), choices, found if self.query.strip() else None)
        return found.filter(pk__in=self.ranking.ids)

    def _choices(self) -> list[tuple[str, Any]]:
        return [(spec.measure.name, spec.value()) for spec in self.filter_specs if isinstance(spec, MeasureFilter)]

    def _column(self) -> int | None:
        """The number of the column that the address sorts by."""
        text = str(self.params.get(ORDER_VAR, "")).partition(".")[0].removeprefix("-")
        return int(text) if text.isascii() and text.isdigit() and int(text) < len(self.list_display) else None

    def _measure(self) -> str | None:
        column = self._column()
        field = None if column is None else self.get_ordering_field(self.list_display[column])
        return field if field in MEASURES else None

    def get_ordering_field_columns(self) -> dict[int, str]:  # type: ignore[override]
        column = self._column()
        return {} if column is None or self._measure() is None else {column: "desc"}

    def get_results(self, request: HttpRequest) -> None:
        if self.ranking is None:
            super().get_results(request)
            return
        self.paginator = Paginator(self.ranking.ids, self.list_per_page)
        try:
            ids = list(self.paginator.page(self.page_num).object_list)
        except InvalidPage as error:
            raise IncorrectLookupParameters from error
        found = self.root_queryset.in_bulk(ids)
        self.result_list = [found[id] for id in ids if id in found]
        self.result_count = self.paginator.count
        self.full_result_count, self.show_full_result_count, self.show_admin_actions = None, False, True
        self.can_show_all, self.multi_page = False, self.result_count > self.list_per_page
        cast(QueueAdmin, self.model_admin).complete(self.result_list)


def _chosen(queue: Queue) -> policies.Chosen:
    """Which policy is in force, and why."""
    return policies.chosen(queue.name, queue.policy, is_resolved=queue.is_resolved)


@admin.register(Queue)
class QueueAdmin(ActingAdmin):
    list_display = (
        "name",
        "policy_name",
        "depth",
        "size",
        "oldest_message",
        "connections",
        "lost",
        "lost_since",
        "last_seen",
        "paused",
        "policy_reason",
        "message_list",
    )
    list_filter = tuple(_filter_by(name) for name in ("depth", "age", "lost", "connected", "paused"))
    sortable_by: ClassVar[Any] = ("depth", "oldest_message", "connections", "lost", "last_seen")
    ordering = ("name",)
    search_fields = ("name",)
    search_help_text = _("A queue's name, or its beginning; or a user's name.")
    fieldsets = (
        (None, {"fields": ("name", "standing", "created_at", "seen_at", "paused", "message_list")}),
        (_("Policy"), {"fields": ("policy_name", "policy_reason", "policy_values"), "classes": ("collapse",)}),
    )
    readonly_fields = (
        "name",
        "standing",
        "created_at",
        "seen_at",
        "paused",
        "message_list",
        "policy_name",
        "policy_reason",
        "policy_values",
    )
    change_list_template = "netra_queue/admin/queues.html"
    change_form_template = "netra_queue/admin/queue.html"
    acts = ACTIONS

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return QueueChangeList

    def complete(self, rows: list[Queue]) -> None:
        policies.fresh_store()
        found, paused = figures([queue.pk for queue in rows]), _pauses(rows)
        for queue in rows:
            queue.figures = found[queue.pk]  # type: ignore[attr-defined]
            queue.pause = paused.get(queue.name)  # type: ignore[attr-defined]

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        policies.fresh_store()
        return super().get_object(request, object_id, from_field)

    def shown_beside(self, request: HttpRequest, object_id: str) -> dict[str, Any]:
        queue = self.get_object(request, object_id) if self.has_view_permission(request) else None
        if queue is None:
            return {}
        acts = {act["name"]: act for act in self.acts_on(request, queue.pk)}
        if not client_of(queue.name):
            acts.pop(Forget.name, None)
        shown = {"recipient": recipient(queue), "acts": acts.values()}
        return {**shown, "disconnect_url": acts[Disconnect.name]["url"] if Disconnect.name in acts else ""}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Queue], search_term: str
    ) -> tuple[QuerySet[Queue], bool]:
        """Names that begin so; without any, the queue and the lines of the user who is called so."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if connections[queryset.db].vendor == "postgresql":
            queryset = queryset.order_by(ByBytes(F("name")))
        named = queryset.filter(_begins(queryset.db, term))
        if not named.order_by()[:1].exists() and (user := _user(term)) is not None:
            base = f"user.{user.pk}"
            return queryset.filter(Q(name=base) | _begins(queryset.db, f"{base}/")), False
        return named, False

    # --- columns -----------------------------------------------------------------------------------------------

    @admin.display(description=_("policy"))
    def policy_name(self, queue: Queue) -> str:
        return _chosen(queue).policy.name

    @admin.display(description=_("why this policy"))
    def policy_reason(self, queue: Queue) -> str:
        return _chosen(queue).reason

    @admin.display(description=_("standing"))
    def standing(self, queue: Queue) -> str:
        return str(STANDINGS[_chosen(queue).standing])

    @admin.display(description=_("depth"), ordering="depth")
    def depth(self, queue: Any) -> str:
        return str(queue.figures.depth_text)

    @admin.display(description=_("bytes"))
    def size(self, queue: Any) -> str:
        return str(queue.figures.size_text)

    @admin.display(description=_("oldest message"), ordering="age")
    def oldest_message(self, queue: Any) -> Any:
        return queue.figures.oldest_at

    @admin.display(description=_("connections"), ordering="connected")
    def connections(self, queue: Any) -> int:
        return int(queue.figures.connections)

    @admin.display(description=_("lost"), ordering="lost")
    def lost(self, queue: Any) -> int:
        return int(queue.figures.lost)

    @admin.display(description=_("lost since"))
    def lost_since(self, queue: Any) -> Any:
        return queue.figures.lost_since

    @admin.display(description=_("last seen"), ordering="seen")
    def last_seen(self, queue: Queue) -> Any:
        return queue.seen_at

    @admin.display(description=_("paused"))
    def paused(self, queue: Any) -> str:
        if not hasattr(queue, "pause"):
            queue.pause = _pauses([queue]).get(queue.name)
        pause: Pause | None = queue.pause
        if pause is None:
            return str(_("No"))
        end = formats.localize(timezone.localtime(pause.until)) if pause.until else _("it is resumed")
        words = [_("until %(end)s") % {"end": end}, *(f"({text})" for text in (pause.by, pause.reason) if text)]
        return " ".join(words)

    @admin.display(description=_("messages"))
    def message_list(self, queue: Queue) -> str:
        url = reverse("admin:netra_queue_message_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?queue={}">{}</a>', url, queue.pk, _("Show"))

    @admin.display(description=_("the policy's values"))
    def policy_values(self, queue: Queue) -> str:
        return table(conf.explain(_chosen(queue).policy.name))


class ByBytes(OrderBy):
    """The order of the index that PostgreSQL looks beginnings up in. By any other it would walk through all names."""

    template = "%(expression)s USING ~<~ /* ASC */"  # Django looks for one of its two words


def _pauses(rows: list[Queue]) -> dict[str, Pause]:
    return pausing.paused(router.db_for_read(Queue), [row.name for row in rows], current_store().now())


def _begins(using: str, text: str) -> Q:
    """Names that begin so. Databases use their index for one of two ways to say that."""
    if connections[using].vendor == "postgresql":
        return Q(name__startswith=text)
    return Q(name__gte=text, name__lt=text + "\x7f")


def _user(name: str) -> Any:
    users: Any = get_user_model()._default_manager
    try:
        return users.get_by_natural_key(name)
    except (ObjectDoesNotExist, AttributeError):
        return None
