from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from project import views
from project.consumers import Notifications

urlpatterns = [
    path("", views.home, name="home"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("agent/start/", views.start_run, name="start-run"),
    path("agent/urgent/", views.send_urgent, name="send-urgent"),
    path("restart/", views.restart, name="restart"),
    path("queue/", views.queue_state, name="queue-state"),
    path("netra_queue/", include("netra_queue.urls")),
    path("admin/", admin.site.urls),
]

websocket_urlpatterns = [path("ws/notifications/", Notifications.as_asgi())]
