"""What operators see. Everything is read-only: rows are changed through the store only."""

from . import connections, groups, letters, messages, queues

__all__ = ["connections", "groups", "letters", "messages", "queues"]
