"""The login of `make demo`."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

NAME = PASSWORD = "demo"


class Command(BaseCommand):
    help = "Creates the login demo/demo, a superuser; with DEBUG only. May be repeated: it resets the login."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("demo_user makes a superuser with a known password: only with DEBUG")
        users = get_user_model().objects
        user, _ = users.get_or_create(username=NAME)
        user.is_active = user.is_staff = user.is_superuser = True
        if not user.check_password(PASSWORD):
            user.set_password(PASSWORD)
        user.save()
        self.stdout.write(f"Login: {NAME}, password: {PASSWORD}")
