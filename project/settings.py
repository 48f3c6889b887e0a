"""The example project: embedded defaults; DATABASE_URL, REDIS_URL and CELERY_BROKER_URL bring servers in."""

from __future__ import annotations

from project import environment
from project.environment import BASE_DIR

SECRET_KEY = environment.get("SECRET_KEY", "only-for-the-example-and-the-tests")
DEBUG = environment.get("DEBUG", "1") == "1"
ALLOWED_HOSTS = environment.get("ALLOWED_HOSTS", "127.0.0.1,localhost,testserver").split(",")

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "django_celery_beat",
    "netra_queue",
    "project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.middleware.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
DATABASES = {"default": environment.database(environment.get("DATABASE_URL"))}
CHANNEL_LAYERS = environment.channel_layers(environment.get("REDIS_URL"))

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

CELERY_BROKER_URL = environment.get("CELERY_BROKER_URL", "memory://")
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_TASK_IGNORE_RESULT = True

# The page shows connections that break: a server that notices within 10 seconds is better to watch.
NETRA_QUEUE = {"POLICIES": {"page": {"HEARTBEAT_SECONDS": 5, "ACK_TIMEOUT_SECONDS": 10}}}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"netra_queue": {"handlers": ["console"], "level": environment.get("LOG_LEVEL", "INFO")}},
}
