"""What the example remembers of its senders. netra_queue needs none of it."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class Agent(models.Model):
    """An agent in one run, and how many steps it has sent: what the page compares with what has arrived."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    run = models.CharField(max_length=8)
    name = models.CharField(max_length=16)
    sent = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "run", "name"], name="project_agent_once_a_run")]

    def __str__(self) -> str:
        return f"{self.run}/{self.name}"
