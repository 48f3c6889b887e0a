"""What operators do with queues. Each has a permission of its own, and is carried out by ``operators``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django import forms
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import conf, maintenance, operating, operators
from ..core.controls import Controls, PatternRule
from ..core.message import Priority, base_of, client_of
from ..models import REASON_LENGTH
from ..operators.disconnecting import AFTER_SECONDS, LONGEST_SECONDS
from ..stores import current_store
from .actions import Action, Result, Work
from .figures import DEPTH_LIMIT, depths_of

COUNTED = 300  # queues whose messages are counted for the page that asks
TOGETHER = 500  # queues in one call
LONGEST_MINUTES = 31 * 24 * 60
PIECE = 1 << 16  # characters of an export that are sent together
STEP = 10  # between the places of two patterns


class PurgeForm(forms.Form):
    priorities = forms.MultipleChoiceField(
        choices=[(priority.name.lower(), priority.name.lower()) for priority in Priority],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        label=_("Priorities"),
        help_text=_("None chosen: all."),
    )
    only_expired = forms.BooleanField(
        required=False, label=_("Only expired messages"), help_text=_("They count as expired instead of dropped.")
    )


class Purge(Action):
    name, permission = "purge", "netra_queue.purge_queue"
    title = _("Purge queues")
    question = _(
        "The messages of these queues and of their devices' lines are removed for good. They count as dropped, and the "
        "clients are told."
    )
    done = _("Purged %(count)d messages.")
    refused = _("%(refused)d hold messages that others are at work on: purge them again.")
    form = PurgeForm

    def affected(self, keys: Sequence[Any]) -> str:
        return messages_of(keys)

    def carry_out(self, work: Work) -> Result:
        (queue,) = work.rows
        wanted = sorted(Priority[name.upper()] for name in work.values["priorities"])
        removals = list(_purged(queue.name, wanted, work))
        count = sum(removal.count for removal in removals)
        is_over = all(removal.finished for removal in removals)
        which = f" of priority {', '.join(priority.name.lower() for priority in wanted)}" if wanted else ""
        text = f"Purged {count}{' expired' if work.values['only_expired'] else ''} messages{which}."
        unfinished = () if is_over or not count else (queue.pk,)
        is_refused = not is_over and not count
        return Result(count=count, history={queue.pk: text}, unfinished=unfinished, refused=int(is_refused))


def _purged(queue: str, wanted: Sequence[Priority], work: Work) -> Iterator[maintenance.Removal]:
    """Line by line, within about the time that there is: what does not fit into it is not finished."""
    deadline = time.monotonic() + work.seconds
    for line in current_store().family([queue]):
        for priority in wanted or (None,):
            seconds = max(0.0, deadline - time.monotonic())
            only_expired = work.values["only_expired"]
            yield maintenance.purge(line, priority, only_expired=only_expired, budget_seconds=seconds)


def messages_of(keys: Sequence[Any]) -> str:
    """How many messages these queues themselves hold, as far as that can be counted at once."""
    depths = depths_of(keys[:COUNTED])
    count = sum(min(depth, DEPTH_LIMIT) for depth in depths.values())
    is_exact = len(keys) <= COUNTED and all(depth <= DEPTH_LIMIT for depth in depths.values())
    text = ngettext("%(count)d message.", "%(count)d messages.", count) % {"count": count}
    return text if is_exact else _("More than %(text)s") % {"text": text}


class PauseForm(forms.Form):
    minutes = forms.IntegerField(
        min_value=1,
        max_value=LONGEST_MINUTES,
        required=False,
        label=_("For so many minutes"),
        help_text=_("Empty: until somebody resumes it."),
    )
    reason = forms.CharField(max_length=REASON_LENGTH, required=False, label=_("Reason"))


class Pause(Action):
    name, permission, batch = "pause", "netra_queue.pause_queue", TOGETHER
    title = _("Pause delivery")
    question = _("These queues take messages and give none out, in force within two seconds. Times to live pass on.")
    done = _("Paused %(count)d queues.")
    form = PauseForm

    def carry_out(self, work: Work) -> Result:
        minutes, reason = work.values["minutes"], work.values["reason"]
        until = None if minutes is None else current_store().now() + timedelta(minutes=minutes)
        count = operators.pause([queue.name for queue in work.rows], until=until, reason=reason, by=work.by)
        end = f"for {minutes} minutes" if minutes else "until it is resumed"
        return Result(count=count, history=_same(work, f"Paused {end}{': ' if reason else '.'}{reason}"))


class Resume(Action):
    name, permission, batch = "resume", "netra_queue.pause_queue", TOGETHER
    title = _("Resume delivery")
    question = _("These queues give out again what they hold, at once. What was paused by another name stays paused.")
    done = _("Resumed %(count)d queues.")

    def carry_out(self, work: Work) -> Result:
        return Result(count=operators.resume([queue.name for queue in work.rows]), history=_same(work, "Resumed."))


class Resend(Action):
    name, permission, batch = "resend", "netra_queue.resend_queue", TOGETHER
    title = _("Resend now")
    question = _(
        "The connections of these queues look for messages now. What a client has been sent and has not acknowledged "
        "is left alone: disconnect a client that is stuck."
    )
    done = _("%(count)d queues and lines with connections were told to look.")

    def carry_out(self, work: Work) -> Result:
        return Result(count=operators.resend([queue.name for queue in work.rows]), history=_same(work, "Resent."))


class DisconnectForm(forms.Form):
    after_seconds = forms.FloatField(
        min_value=0,
        max_value=LONGEST_SECONDS,
        initial=AFTER_SECONDS,
        label=_("Come back after so many seconds"),
        help_text=_("Or up to half as long again, so that many do not come at once."),
    )
    connection = forms.CharField(max_length=32, required=False, widget=forms.HiddenInput)


class Disconnect(Action):
    name, permission = "disconnect", "netra_queue.disconnect_queue"
    title = _("Disconnect clients")
    question = _(
        "The servers close the connections within about three seconds, and tell the clients when to come back. What "
        "was not acknowledged is replayed then."
    )
    done = _("%(count)d connections are being closed.")
    form = DisconnectForm

    def carry_out(self, work: Work) -> Result:
        (queue,) = work.rows
        connection, seconds = work.values["connection"] or None, work.values["after_seconds"]
        count = operators.disconnect(queue.name, connection=connection, after_seconds=seconds)
        which = f" ({connection})" if connection else ""
        return Result(count=count, history=_same(work, f"Disconnected {count} connections{which}."))


class Forget(Action):
    name, permission = "forget", "netra_queue.forget_queue"
    title = _("Forget devices")
    question = _(
        "These devices are disconnected, and what waits for them alone is removed for good. It counts as dropped. "
        "There is no way back: a client that returns is a new device."
    )
    done = _("Forgotten, with %(count)d messages.")
    refused = _("%(refused)d are no devices' lines, and are as they were.")

    def affected(self, keys: Sequence[Any]) -> str:
        return messages_of(keys)

    def carry_out(self, work: Work) -> Result:
        (queue,) = work.rows
        if not client_of(queue.name):
            return Result(count=0, history=_same(work, "Not forgotten: it is no device's line."), refused=1)
        count = operators.forget(queue.name)
        return Result(count=count, history=_same(work, f"Forgotten, with {count} messages."))


class Export(Action):
    name, permission, cap, answers = "export", "netra_queue.export_queue", 1000, True
    also = ("netra_queue.view_payload",)
    title = _("Export messages")
    question = _(
        "The messages of these queues and of their devices' lines, as a file of JSON lines. It holds their payloads, "
        "as far as REDACT lets them be shown."
    )

    def affected(self, keys: Sequence[Any]) -> str:
        return messages_of(keys)

    def answer(self, request: HttpRequest, work: Work) -> HttpResponseBase:
        pieces = _pieces([queue.name for queue in work.rows])
        content = _unblocking(pieces) if hasattr(request, "scope") else pieces  # under ASGI, and under WSGI
        disposition = {"Content-Disposition": 'attachment; filename="messages.jsonl"'}
        return StreamingHttpResponse(content, content_type="application/x-ndjson", headers=disposition)


def _pieces(queues: Sequence[str]) -> Iterator[str]:
    gathered: list[str] = []
    size = 0
    for queue in queues:
        for line in operators.export(queue):
            gathered.append(f"{line}\n")
            size += len(line)
            if size >= PIECE:
                yield "".join(gathered)
                gathered, size = [], 0
    yield "".join(gathered)


def _next(pieces: Iterator[str]) -> str | None:
    return next(pieces, None)


async def _unblocking(pieces: Iterator[str]) -> AsyncIterator[str]:
    while (piece := await sync_to_async(_next)(pieces)) is not None:
        yield piece


class PolicyForm(forms.Form):
    policy = forms.ChoiceField(
        required=False, label=_("Policy"), help_text=_("Nothing: whatever other patterns, or the consumer, say.")
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        names = [policy.name for policy in conf.policies()]
        field: Any = self.fields["policy"]
        field.choices = [("", _("nothing")), *((name, name) for name in names)]


class SetPolicy(Action):
    """With a pattern that is the queue's name, before all others."""

    name, permission, cap, batch = "set_policy", "netra_queue.set_policy_queue", 20, 20
    title = _("Change policy")
    question = _("Each of these queues, with its devices, gets a policy pattern of its own, which goes before others.")
    done = _("Changed the policy of %(count)d queues.")
    form = PolicyForm

    def carry_out(self, work: Work) -> Result:
        names, policy = sorted({base_of(queue.name) for queue in work.rows}), work.values["policy"]

        def change(before: Controls) -> Controls:
            after = before
            for name in names:
                after = after.without_rule(name)
            place = min((rule.place for rule in after.rules), default=0) - STEP
            for name in names if policy else ():
                after = after.with_rule(PatternRule(place, name, policy))
            return after

        operating.carry_out(change)
        return Result(count=len(names), history=_same(work, f"Policy: {policy or 'no pattern of its own'}."))


def _same(work: Work, text: str) -> dict[Any, str]:
    return dict.fromkeys([queue.pk for queue in work.rows], text)


ACTIONS: tuple[Action, ...] = (
    Purge(),
    Pause(),
    Resume(),
    Resend(),
    Disconnect(),
    Forget(),
    Export(),
    SetPolicy(),
)
