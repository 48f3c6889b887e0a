"""``manage.py netra_queue rollout``."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import conf, controls, operating, policies
from ...core.policy import Policy
from ...core.shadow import ShadowReport
from ...core.statistics import Figures
from ...stores.base import Store
from .sweep import positive_int

HELP = (
    "Show which queues are durable, and what shadow mode has shown; or pull the kill switch (off), or put it back (on)."
)
STEP_SECONDS = 3600


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("word", nargs="?", choices=["off", "on"], help="Without it: nothing is changed.")
    parser.add_argument("--hours", type=positive_int, default=24, help="Of what shadow mode has shown (%(default)s).")
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    store = policies.fresh_store()
    if options["word"] is not None:
        operating.carry_out(operating.switched(is_off=options["word"] == "off"))
        controls.refresh(store)
    is_off, found = controls.current().is_off, conf.policies()
    shadow = _shadow(store, options["hours"]) if any(policy.rollout.is_shadow for policy in found) else None
    if options["json"]:
        document = {"is_off": is_off, "policies": {policy.name: _as_json(policy) for policy in found}}
        command.stdout.write(json.dumps({**document, "shadow": shadow and asdict(shadow)}, indent=2))
        return
    command.stdout.write(
        "The kill switch is pulled: every queue is plain Channels." if is_off else "The kill switch is not pulled."
    )
    for policy in found:
        command.stdout.write(f"  {policy.name:<24}{_described(policy)}")
    if shadow is not None:
        command.stdout.write(_as_text(shadow, options["hours"]))


def _shadow(store: Store, hours: int) -> ShadowReport:
    now, total = store.now(), Figures()
    for bucket in store.statistics(now - timedelta(hours=hours), now, STEP_SECONDS):
        total.add(bucket.figures)
    return ShadowReport.of(total)


def _as_json(policy: Policy) -> dict[str, Any]:
    rollout = policy.rollout
    return {
        "percent": rollout.percent,
        "allow": list(rollout.allow),
        "deny": list(rollout.deny),
        "shadow": rollout.is_shadow,
    }


def _described(policy: Policy) -> str:
    rollout = policy.rollout
    parts = ["all queues" if rollout.percent >= 100 else f"{rollout.percent:g} % of the queues"]
    parts += [f"and {', '.join(rollout.allow)}"] if rollout.allow and rollout.percent < 100 else []
    parts += [f"without {', '.join(rollout.deny)}"] if rollout.deny else []
    parts += ["in shadow mode"] if rollout.is_shadow else []
    return ", ".join(parts)


def _as_text(shadow: ShadowReport, hours: int) -> str:
    lines = {
        "kept": shadow.accepted,
        "acked while the client was connected": shadow.acked,
        "would have been replayed": shadow.would_replay,
        "  no connection had been sent it: missed": shadow.missed,
        "  transmitted without an ack: perhaps missed": shadow.unconfirmed,
        "expired before the client came back": shadow.expired,
        "dropped, the queue was full": shadow.dropped,
    }
    return "\n".join(
        [f"Shadow mode, the last {hours} hours, messages:", *(f"  {k:<46}{v:>10}" for k, v in lines.items())]
    )
