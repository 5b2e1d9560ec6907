"""Nothing secret leaves by the admin API, however it is nested and spelled."""

from __future__ import annotations

import pytest

from meshproxy.admin.redact import SHOWN, is_secret, redact


@pytest.mark.parametrize(
    "name",
    [
        "password", "db_password", "dbPassword", "passwd", "passphrase", "token", "accessToken", "access_token", "x-auth-token",
        "api_key", "apiKey", "API-KEY", "private_key", "key", "secret", "client_secret", "credentials",
        "authorization", "Proxy-Authorization", "cookie", "set-cookie", "initial_metadata",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["name", "path", "host", "keepalive", "monkey", "route_table", "cluster", "weight", "settings", "tcp_keepalive", "user", "author"],
)
def test_harmless_names(name: str) -> None:
    assert not is_secret(name)


def test_values_are_hidden_at_any_depth() -> None:
    tree = {"metadata": {"zone": "a", "db": {"password": "s3cret"}}, "filters": [{"settings": {"apiKey": "s3cret", "limit": 3}}]}

    shown = redact(tree)
    assert "s3cret" not in str(shown)
    assert shown["metadata"] == {"zone": "a", "db": {"password": SHOWN}}
    assert shown["filters"][0]["settings"] == {"apiKey": SHOWN, "limit": 3}


def test_a_header_is_judged_by_the_name_that_it_carries() -> None:
    assert redact({"name": "Authorization", "value": "Bearer s3cret"}) == {"name": "Authorization", "value": SHOWN}
    assert redact({"name": "authorization", "string": {"kind": "exact", "value": "s3cret"}})["string"] == SHOWN
    assert redact({"name": "x-team", "value": "blue"}) == {"name": "x-team", "value": "blue"}


def test_whole_trees_under_a_secret_name_go() -> None:
    assert redact({"credentials": {"a": {"b": "s3cret"}}, "secrets": ["s3cret"]}) == {"credentials": SHOWN, "secrets": SHOWN}


def test_what_tells_nothing_stays() -> None:
    assert redact({"password": "", "token_required": True, "secret": None}) == {"password": "", "token_required": True, "secret": None}


def test_user_and_password_of_an_url_go() -> None:
    assert redact({"url": "redis://joe:s3cret@10.0.0.1/0"}) == {"url": f"redis://{SHOWN}@10.0.0.1/0"}


def test_bytes_are_shown_as_text() -> None:
    assert redact({"body": b"hello \xff"}) == {"body": "hello �"}
