"""The page and its JSON: who may see them, and what they say to what is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles import finders
from django.test import Client

from netra_queue.dashboard import asking, charts
from netra_queue.dashboard.figures import RANGES
from netra_queue.stores import current_store
from tests.making import force_breaker, make_draft, put
from tests.test_docs import ROOT

pytestmark = pytest.mark.django_db(transaction=True)
PAGE = "/admin/netra_queue/dashboard/"
FIGURES = f"{PAGE}figures/"
STATIC = ROOT / "netra_queue/static/netra_queue/dashboard"
Login = Callable[..., Client]


@pytest.fixture(autouse=True)
def _anew(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    monkeypatch.setattr(asking, "SHORT", 0)
    monkeypatch.setattr(asking, "LONG", 0)


@pytest.fixture
def login() -> Login:
    def login_(*codenames: str, is_staff: bool = True) -> Client:
        user = User.objects.create_user("clerk", is_staff=is_staff)
        user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
        client = Client()
        client.force_login(user)
        return client

    return login_


def test_staff_with_the_permission(login: Login) -> None:
    client = login("view_dashboard")
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "no-store" in page.headers["Cache-Control"]
    text = page.content.decode()
    assert [chart.id for chart in charts.CHARTS if f'id="netra-chart-{chart.id}"' not in text] == []
    assert 'data-figures="/admin/netra_queue/dashboard/figures/"' in text
    assert 'data-socket="/ws/netra_queue/dashboard/"' in text
    answer = client.get(FIGURES)
    assert (answer.status_code, answer.json()["range"]) == (200, "1h")
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("permissions", "is_staff"),
    [([], True), (["view_statistics", "view_queue", "view_message"], True), (["view_dashboard"], False)],
    ids=["none", "others", "no staff"],
)
def test_others_see_nothing(login: Login, permissions: list[str], is_staff: bool) -> None:
    client = login(*permissions, is_staff=is_staff)
    assert client.get(FIGURES).status_code == 403
    assert client.get(FIGURES).json() == {"error": "not allowed"}
    page = client.get(PAGE)
    assert page.status_code == (403 if is_staff else 302)
    assert b"netra-dashboard" not in page.content
    assert b"/netra_queue/dashboard/" not in client.get("/admin/").content


def test_without_a_login() -> None:
    assert Client().get(FIGURES).status_code == 401
    assert Client().get(PAGE).headers["Location"].startswith("/admin/login/")


def test_where_a_login_is_asked_of_everybody(login: Login, settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert Client().get(FIGURES).status_code == 401
    assert login("view_dashboard").get(FIGURES).status_code == 200


def test_the_admin_has_a_link(login: Login) -> None:
    assert f'href="{PAGE}"' in login("view_dashboard").get("/admin/").content.decode()


def test_it_is_for_reading(login: Login) -> None:
    client = login("view_dashboard")
    assert client.post(PAGE).status_code == client.post(FIGURES).status_code == 405
    assert client.get(f"{PAGE}add/").status_code == client.get(f"{PAGE}1/change/").status_code == 404


@pytest.mark.parametrize("name", RANGES)
def test_ranges(login: Login, name: str) -> None:
    client = login("view_dashboard")
    assert client.get(FIGURES, {"range": name}).json()["range"] == name
    assert f'data-range="{name}" aria-pressed="true"' in client.get(PAGE, {"range": name}).content.decode()


@pytest.mark.parametrize("name", ["", "2h", "1h ", "<script>", "1h\x00", "x" * 5000])
def test_another_range_is_400(login: Login, name: str) -> None:
    client = login("view_dashboard")
    answer = client.get(FIGURES, {"range": name})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("range: expected one of 15m, 1h, 6h, 24h, 7d, 30d, got ")
    assert 'data-range="1h" aria-pressed="true"' in client.get(PAGE, {"range": name}).content.decode()


def test_the_store_is_away(login: Login) -> None:
    client = login("view_dashboard")
    force_breaker(current_store(), True)
    answer = client.get(FIGURES)
    assert answer.status_code == 503
    assert answer.json()["breaker"]["state"] == "open"
    assert client.get(PAGE).status_code == 200, "and says so"
    force_breaker(current_store(), None)
    assert client.get(FIGURES).status_code == 200


def test_links_to_queues_are_for_those_who_may_see_them(login: Login) -> None:
    client = login("view_dashboard")
    assert 'data-queues=""' in client.get(PAGE).content.decode()
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_queue"))
    assert 'data-queues="/admin/netra_queue/queue/"' in client.get(PAGE).content.decode()


def test_no_payload_is_in_it(login: Login) -> None:
    put(current_store(), make_draft(text='"s3cr3t"'))
    assert "s3cr3t" not in login("view_dashboard").get(FIGURES).content.decode()


def test_nothing_inline_and_nothing_from_elsewhere(login: Login) -> None:
    import re

    text = login("view_dashboard").get(PAGE).content.decode()
    inline = [tag for tag in re.findall(r"<script[^>]*>", text) if "src=" not in tag and "application/json" not in tag]
    assert inline == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", text) == []
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text) == []
    for name in re.findall(r'(?:src|href)="/static/(netra_queue/[^"]+)"', text):
        assert finders.find(name) is not None


def test_uplot_is_what_it_says_it_is() -> None:
    folder = STATIC / "uplot"
    version = (folder / "VERSION.txt").read_text().split()[1].rstrip(",")
    assert f"uPlot (v{version})" in (folder / "uPlot.iife.min.js").read_text()[:200]
    assert "The MIT License" in (folder / "LICENSE.txt").read_text()
