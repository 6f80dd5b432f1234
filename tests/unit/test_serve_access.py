"""Who may ask a served line: token, cookie, Host and Origin."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serving import served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from edgead.errors import ConfigError
from edgead.integrations.serve import Served
from edgead.integrations.serve.access import COOKIE, check_token, is_loopback

TOKEN = "a-token-for-this-test"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def line() -> Iterator[tuple[Served, httpx.Client]]:
    with served(token=TOKEN) as found:
        yield found


@pytest.mark.parametrize(
    "path", ["/api/v1/state", "/readyz", "/metrics", "/api/openapi.json", "/static/page.js"]
)
def test_a_token_is_needed(line: tuple[Served, httpx.Client], path: str) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"cookie": f"{COOKIE}=x"},
    ):
        answer = line[1].get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json() == {
            "code": "UNAUTHORIZED",
            "message": "a token is needed.",
            "hint": "Send Authorization: Bearer TOKEN, or log in at /login.",
        }
    assert line[1].get(path, headers=BEARER).status_code in (200, 503)


def test_alive_needs_none(line: tuple[Served, httpx.Client]) -> None:
    assert line[1].get("/healthz").status_code == 200


def test_a_websocket_needs_one_too(line: tuple[Served, httpx.Client]) -> None:
    url = line[0].url.replace("http", "ws") + "api/v1/live"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, open_timeout=60)
    assert refused.value.response.status_code == 403
    with connect(url, additional_headers=BEARER, open_timeout=60) as viewer:
        assert viewer.recv(60)


def test_the_page_leads_to_the_login_and_back(line: tuple[Served, httpx.Client]) -> None:
    with httpx.Client(base_url=line[0].url, timeout=60) as browser:
        sent = browser.get("/")
        assert (sent.status_code, sent.headers["location"]) == (303, "/login")
        assert browser.get("/login").status_code == 200
        wrong = browser.post("/login", data={"token": "wrong"})
        assert (wrong.status_code, COOKIE in wrong.cookies) == (401, False)
        entered = browser.post("/login", data={"token": TOKEN})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert browser.get("/").status_code == 200
        assert browser.get("/api/v1/state").status_code == 200


def test_a_page_of_another_site_is_refused(line: tuple[Served, httpx.Client]) -> None:
    answer = line[1].post(
        "/api/v1/detect", content=b"", headers={**BEARER, "origin": "https://evil.example"}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "ORIGIN")


def test_another_name_for_localhost_is_refused() -> None:
    with served() as (line, client):
        ours = client.get("/healthz", headers={"host": f"localhost:{line._server.port}"})
        evil = client.get("/api/v1/state", headers={"host": "evil.example"})
        with pytest.raises(InvalidStatus):
            connect(
                line.url.replace("http", "ws") + "api/v1/live",
                origin="http://evil.example",  # type: ignore[arg-type]
                open_timeout=60,
            )
    assert ours.status_code == 200
    assert (evil.status_code, evil.json()["code"]) == (421, "HOST")


def test_headers_that_hold_a_browser_back(line: tuple[Served, httpx.Client]) -> None:
    headers = line[1].get("/healthz").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_other_machines_need_a_token() -> None:
    with pytest.raises(ConfigError) as error:
        check_token("0.0.0.0", "")
    assert str(error.value) == (
        "[TOKEN] --host 0.0.0.0 can be reached from other machines; want a token in EDGEAD_TOKEN or "
        "--token. Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'."
    )


def test_a_short_token_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as error:
        check_token("127.0.0.1", "hunter2")
    assert str(error.value) == (
        "[TOKEN] the token has 7 characters; want 16 or more, ASCII. Make one: "
        "python3 -c 'import secrets; print(secrets.token_urlsafe(24))'."
    )


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.5", False),
        ("line3.plant", False),
    ],
)
def test_what_is_this_machine_only(host: str, local: bool) -> None:
    assert is_loopback(host) is local
