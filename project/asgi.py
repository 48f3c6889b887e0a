"""HTTP goes to Django, WebSockets to the consumers. Cookies come with any site's WebSocket: hence the origin check."""

from __future__ import annotations

import gc
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()  # before the imports below: it loads the apps and their models

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

from netra_queue.dashboard.consumer import websocket_urlpatterns as dashboard  # noqa: E402
from project.urls import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        # As runserver does: with DEBUG, Daphne itself serves the static files.
        "http": ASGIStaticFilesHandler(django_application) if settings.DEBUG else django_application,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([*websocket_urlpatterns, *dashboard]))),
    }
)

gc.freeze()  # what has been imported stays, and the garbage collector need not look at it again: see docs/deployment.md
