"""The part of the database store that deals with what was not delivered: returned, withheld, left out, set aside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from ..core.message import Draft, Losses, LossReason
from ..core.policy import Policy
from . import letters, returning
from .base import Appended, Letter, Presence, Returned, Store, Surplus
from .connecting import run


class DatabaseLetters(Store):
    """See ``Store``."""

    using: str

    def returned(self, returns: Sequence[Returned]) -> int:
        now = self.now()
        return run(self.using, lambda: returning.returned(self.using, returns, now))

    def withhold(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        now = self.now()
        return run(self.using, lambda: returning.withhold(self.using, positions, now))

    def surplus(self, presence: Presence, policy: Policy, before: datetime | None = None) -> Surplus:
        now = self.now()
        return run(self.using, lambda: returning.surplus(self.using, presence, policy, now, before or now))

    def leave_out(
        self, queue: str, positions: Collection[int], digest: Draft | None, policy: Policy
    ) -> tuple[int, Losses]:
        now = self.now()
        return run(self.using, lambda: returning.leave_out(self.using, queue, positions, digest, policy, now))

    def letters(
        self, limit: int, *, queue: str | None = None, reason: LossReason | None = None, since: datetime | None = None
    ) -> list[Letter]:
        return run(self.using, lambda: letters.letters(self.using, limit, queue, reason, since))

    def requeue(self, number: int) -> Appended | None:
        now = self.now()
        return run(self.using, lambda: letters.requeue(self.using, number, now))

    def delete_letters(self, numbers: Collection[int]) -> int:
        return run(self.using, lambda: letters.delete_letters(self.using, numbers))

    def forget_letters(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: letters.forget_letters(self.using, limit, now))
