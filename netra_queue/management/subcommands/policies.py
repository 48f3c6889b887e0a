"""``manage.py netra_queue policies``."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import conf, policies
from ...core.controls import Origin
from ...core.message import base_of
from ...validation import check_address

HELP = "Show the policies in force, where each value is from, and which policy a queue has and why."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "queue", nargs="?", help="Only the policy of this queue, for example user.42, and why it has it."
    )
    parser.add_argument("--policy", help="Only the policy with this name.")
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    policies.fresh_store()
    found = _of_queue(options["queue"]) if options["queue"] else {"queue": None}
    known = [policy.name for policy in conf.policies()]
    if options["policy"] and options["policy"] not in known:
        raise CommandError(f"There is no policy {options['policy']!r}. There are {', '.join(known)}.")
    only = found.get("policy") or options["policy"]
    names: list[str] = [only] if only else known
    document = {
        **found,
        "policies": {name: {key: _as_json(origin) for key, origin in conf.explain(name).items()} for name in names},
        "patterns": [{"pattern": rule.pattern, "policy": rule.policy} for rule in conf.judged().controls.rules],
        "ignored": dict(conf.judged().problems),
    }
    command.stdout.write(json.dumps(document, indent=2, default=str) if options["json"] else _as_text(document))


def _of_queue(queue: str) -> dict[str, Any]:
    """A line has its queue's policy."""
    stat = policies.fresh_store().stat(base_of(check_address(queue)))
    chosen = policies.chosen(queue, stat.policy, is_resolved=stat.is_resolved)
    return {
        "queue": queue,
        "policy": chosen.policy.name,
        "reason": chosen.reason,
        "standing": chosen.standing.value,
    }


def _as_json(origin: Origin) -> dict[str, Any]:
    value = sorted(origin.value) if isinstance(origin.value, set | frozenset) else origin.value
    return {"value": value, "source": origin.source.value, "policy": origin.policy}


def _as_text(document: dict[str, Any]) -> str:
    lines = []
    if document["queue"]:
        why = f"policy {document['policy']}: {document['reason']}"
        lines.append(f"{document['queue']}: {document['standing']}, {why}")
    for name, values in document["policies"].items():
        lines += ["", name]
        for key, value in values.items():
            where = f'{value["source"]}, policy "{value["policy"]}"' if value["policy"] else value["source"]
            lines.append(f"  {key:<22}{json.dumps(value['value'], default=str):<62}  {where}")
    if document["patterns"] and not document["queue"]:
        lines += ["", "patterns, the first to match decides"]
        lines += [f"  {rule['pattern']:<40}{rule['policy']}" for rule in document["patterns"]]
    lines += ["", *(f"ignored: {what}: {problem}" for what, problem in document["ignored"].items())]
    return "\n".join(lines).strip()
