"""What operators set, in the store in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..core.controls import Controls
from .memory_state import MemoryState


class MemoryControls(MemoryState):
    """See ``Store``."""

    _controls = Controls()

    def controls(self, known: int | None = None) -> Controls | None:
        with self._lock:
            return None if self._controls.version == known else self._controls

    def change_controls(self, change: Callable[[Controls], Controls]) -> Controls:
        with self._lock:
            before = self._controls
            after = change(before)
            if after != before:
                self._controls = replace(after, version=before.version + 1)
            return self._controls

    def servers(self) -> list[str]:
        with self._lock:
            return sorted(server for server in self._heartbeats if self._is_alive(server))
