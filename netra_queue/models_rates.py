"""The table of rates. Beside ``models``, which every query of messages is about."""

from __future__ import annotations

from django.db import models


class RateBucket(models.Model):
    """A token bucket that is not full: of a queue, of a class of senders to it, or of its connections.

    ``id``: computed from its name. ``full_at``: when it is full again, in seconds since 1970; a row that is missing
    stands for a full one.
    """

    id = models.BigIntegerField(primary_key=True)
    full_at = models.FloatField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)
