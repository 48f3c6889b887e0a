"""One way to log what failed and is made again."""

from __future__ import annotations

import logging

from .exceptions import NetraQueueError


def complain(logger: logging.Logger, what: str, action: str, error: Exception) -> None:
    """A warning; with a traceback unless it is an error of ours, which says all there is to say."""
    is_expected = isinstance(error, NetraQueueError)
    logger.warning("%s: %s", what, error, exc_info=None if is_expected else error, extra={"action": action})
