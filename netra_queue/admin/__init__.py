"""What operators see, read-only; and what they change: policies, breakers. Rows are changed through the store only."""

from . import alerts, breaker, connections, dashboard, groups, letters, messages, policies, queues

__all__ = ["alerts", "breaker", "connections", "dashboard", "groups", "letters", "messages", "policies", "queues"]
