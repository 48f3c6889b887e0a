"""The connections of one hub, by line and by queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from .core.message import base_of
from .link import Link

Item = TypeVar("Item")


class Links:
    """All methods are for the hub's event loop."""

    def __init__(self) -> None:
        # Tuples: most queues have one line with one connection, and a set takes 0.2 KB.
        self._by_line: dict[str, tuple[Link, ...]] = {}
        self._lines: dict[str, tuple[str, ...]] = {}

    def add(self, link: Link) -> None:
        """Idempotent."""
        _put_in(self._by_line, link.queue, link)
        _put_in(self._lines, base_of(link.queue), link.queue)

    def discard(self, link: Link) -> None:
        """Idempotent."""
        _take_out(self._by_line, link.queue, link)
        if link.queue not in self._by_line:
            _take_out(self._lines, base_of(link.queue), link.queue)

    def of(self, line: str) -> list[Link]:
        """Those that this is the line of."""
        return list(self._by_line.get(line, ()))

    def addressed(self, name: str) -> list[Link]:
        """Those that a message to this queue, or to this line, is for."""
        if base_of(name) != name:
            return self.of(name)
        return [link for line in self._lines.get(name, ()) for link in self._by_line[line]]

    def lines(self) -> list[str]:
        """Those that are read."""
        return [line for line, links in self._by_line.items() if any(link.connection.reads for link in links)]

    def __iter__(self) -> Iterator[Link]:
        return iter([link for links in self._by_line.values() for link in links])


def _put_in(table: dict[str, tuple[Item, ...]], name: str, item: Item) -> None:
    there = table.get(name, ())
    if item not in there:
        table[name] = (*there, item)


def _take_out(table: dict[str, tuple[Item, ...]], name: str, item: Item) -> None:
    left = tuple(other for other in table.get(name, ()) if other != item)
    if left:
        table[name] = left
    else:
        table.pop(name, None)
