"""What people are shown of payloads: in the admin, by ``inspect`` and in exports. REDACT has the last word.

Searching looks at what is shown, and at nothing else: it would otherwise tell what is hidden.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from . import conf
from .core.message import Payload
from .core.wire import decoded

logger = logging.getLogger(__name__)

HIDDEN = "[nothing is shown: REDACT failed]"


def shown_data(queue: str, payload: Payload) -> Any:
    """What is shown of a payload of this queue (or line), as data that JSON can hold. Raises nothing.

    With REDACT, what that returns for the data, text or bytes that were sent. Nothing of the payload when it raises, or
    returns what is no JSON.
    """
    try:
        hook = conf.redact()
        data = decoded(payload)
        found = data if hook is None else hook(queue, data)
        if isinstance(found, bytes):
            found = repr(found)
        json.dumps(found)
        return found
    except Exception as error:  # whatever the project's code raises
        # Neither the error's text nor a traceback: both may quote the payload.
        extra = {"action": "redact_failed", "queue": queue}
        logger.error("REDACT failed for a message of %s: %s", queue, type(error).__name__, extra=extra)
        return HIDDEN


def shown_text(queue: str, payload: Payload) -> str:
    """The same for people to read: a text as it is, everything else as indented JSON."""
    found = shown_data(queue, payload)
    return found if isinstance(found, str) else json.dumps(found, indent=2, ensure_ascii=False)
