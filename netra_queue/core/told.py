"""What one client was told of losses, and whether it has heard (protocol: "The server forgets these counts")."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Word:
    """One frame's loss records, and the first delivery that came after it (0: any)."""

    records: tuple[int, ...]
    following: int


@dataclass(slots=True)
class Told:
    """Belongs to one connection. Acks may have been on their way when a frame with losses left."""

    _unheard: list[Word] = field(default_factory=list)
    _acked_seq: int = 0

    def tell(self, records: Collection[int], following: int) -> None:
        if records:
            self._unheard.append(Word(tuple(records), following))

    def tell_new(self, records: Collection[int], following: int) -> bool:
        """``tell`` of those that are not being told yet. Whether there are any."""
        known = self.records()
        new = [record for record in records if record not in known]
        self.tell(new, following)
        return bool(new)

    def records(self) -> list[int]:
        """Those that the client was told of and has not acked yet."""
        return [record for word in self._unheard for record in word.records]

    def acked(self, seq: int) -> tuple[int, ...]:
        """The records that an ack shows to have been heard: those before a delivery that it is for. One for nothing
        new is what a client sends to say so, for one frame: the first of those it has not answered."""
        is_new, self._acked_seq = seq > self._acked_seq, max(seq, self._acked_seq)
        heard = [word for word in self._unheard if seq >= word.following] if is_new else self._unheard[:1]
        del self._unheard[: len(heard)]
        return tuple(record for word in heard for record in word.records)
