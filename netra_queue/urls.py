"""``path("netra_queue/", include("netra_queue.urls"))``"""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "netra_queue"
urlpatterns = [
    path("metrics/", views.metrics, name="metrics"),
    path("health/live/", views.live, name="live"),
    path("health/ready/", views.ready, name="ready"),
]
