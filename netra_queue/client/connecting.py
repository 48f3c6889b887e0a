"""From an address to a queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.typing import Origin, Subprotocol

from ..core.message import CLIENT_ID
from ..core.wire import SUBPROTOCOL
from .link import CLOSE_SECONDS
from .queue import NetraQueue
from .storage import Storage

FIXED: dict[str, Any] = {
    "subprotocols": [Subprotocol(SUBPROTOCOL)],
    "ping_interval": None,
    "close_timeout": CLOSE_SECONDS,
}
# The server's window bounds what comes; the protocol bounds how long opening takes.
DEFAULTS: dict[str, Any] = {"max_size": None, "open_timeout": None, "compression": None}


def connect(
    url: str,
    *,
    client: str = "",
    headers: Mapping[str, str] | None = None,
    storage: Storage | None = None,
    **options: Any,
) -> NetraQueue:
    """A connection to one queue that lasts: ``async with connect(url) as queue``.

    It is opened again for ever, with growing random pauses, until the block ends or the server closes with 44xx.

    - ``url``: ``ws://`` or ``wss://`` (``http://`` and ``https://`` will do).
    - ``client``: the id of a line of its own (docs/devices.md), stable over restarts, and used by no other process.
    - ``headers``: of the handshake, such as a cookie or an authorization.
    - ``storage``: remembers over a restart what was handled; see FileStorage.
    - ``options``: further arguments of ``websockets.connect``, such as ``ssl`` or ``proxy``. ``origin``: the URL's own
      host unless given.

    Raises ValueError for a URL or an id that cannot be.
    """
    address = _address(url, client)
    origin = Origin(f"{'https' if address.scheme == 'wss' else 'http'}://{address.netloc.rpartition('@')[2]}")
    if headers is not None:
        options["additional_headers"] = headers
    return NetraQueue(urlunsplit(address), {**DEFAULTS, "origin": origin, **options, **FIXED}, storage)


def _address(url: str, client: str) -> SplitResult:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"url: expected ws://host/path or wss://host/path, got {url!r}")
    query = parts.query
    if client:
        if CLIENT_ID.fullmatch(client) is None:
            raise ValueError(f"client: expected 1 to 64 of A-Z a-z 0-9 _ -, got {client!r}")
        others = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] != "client"]
        query = urlencode([*others, ("client", client)])
    return parts._replace(scheme=scheme, query=query, fragment="")
