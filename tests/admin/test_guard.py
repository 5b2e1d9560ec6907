"""A web page must not reach the admin API through somebody's browser."""

from __future__ import annotations

import pytest

from meshproxy.admin.guard import host_of, refusal
from meshproxy.admin.http import Request


def asked(method: str = "GET", **headers: str) -> Request:
    return Request(method=method, path="/", headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:9901", "LOCALHOST:9901", "127.0.0.1:9901", "10.1.2.3", "[::1]:9901", "node.localhost:1", "vm-7:9901",
        "localhost.",
    ],
)
def test_our_own_names_and_addresses_are_let_in(host: str) -> None:
    assert refusal(asked(host=host), names={"vm-7"}, over_unix=False) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example", "vm-8", "", "[evil]:1"]
)
def test_a_rebound_name_is_refused(host: str) -> None:
    refused = refusal(asked(host=host), names={"vm-7"}, over_unix=False)

    assert refused is not None
    assert refused.status == 403
    assert b"localhost" in refused.body


def test_over_a_unix_socket_any_host_is_fine() -> None:
    assert refusal(asked(host="whatever"), names=(), over_unix=True) is None


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({}, True),
        ({"origin": "http://localhost:9901"}, True),
        ({"origin": "HTTP://LOCALHOST:9901"}, True),
        ({"origin": "https://localhost:9901"}, False),
        ({"origin": "http://localhost:8080"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
    ],
)
def test_only_the_own_page_may_post(headers: dict[str, str], let_in: bool) -> None:
    refused = refusal(asked("POST", host="localhost:9901", **headers), names=(), over_unix=False)

    assert (refused is None) is let_in
    assert refusal(asked("GET", host="localhost:9901", **headers), names=(), over_unix=False) is None


@pytest.mark.parametrize(
    ("authority", "host"), [("a:1", "a"), ("a", "a"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("A.", "a")]
)
def test_host_of(authority: str, host: str) -> None:
    assert host_of(authority) == host
