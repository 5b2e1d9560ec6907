"""`consul://host:port/prefix` and the environment of Consul's own command."""

from __future__ import annotations

import pytest

from meshproxy.config.consul_url import document_of, is_consul
from meshproxy.config.load import load_with_warnings
from meshproxy.errors import ConfigError


def test_an_address_and_a_prefix() -> None:
    assert is_consul("consul://a:1/x")
    assert not is_consul("/etc/consul.yaml")
    assert document_of("consul://10.0.0.1:8500/mesh/edge/", {}).data == {"consul": {"address": "10.0.0.1:8500", "config": "mesh/edge"}}
    assert document_of("consul://c:8501/m?ca_file=/ca.pem&token_file=/t", {"CONSUL_HTTP_TOKEN": "x"}).data == {
        "consul": {"address": "c:8501", "ca_file": "/ca.pem", "token_file": "/t", "config": "m"}
    }


def test_the_environment_says_the_rest() -> None:
    env = {"CONSUL_HTTP_ADDR": "https://c.example:8501", "CONSUL_HTTP_TOKEN": "t", "CONSUL_CACERT": "/ca.pem", "CONSUL_HTTP_SSL": "true"}

    assert document_of("consul:///m", env).data == {
        "consul": {"address": "c.example:8501", "scheme": "https", "token": "t", "ca_file": "/ca.pem", "config": "m"}
    }
    assert document_of("consul://c/m", {}).data["consul"]["address"] == "c:8500"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("consul://c:1", "the prefix of the keys is missing"),
        ("consul://c:1/m?x=1", 'there is no setting "x"'),
        ("consul://secret@c:1/m", "a token in an address is seen by everybody"),
        ("consul://c:1/m?token_file=t", "token_file"),
        ("consul://c:x/m", "address"),
        ("consul://127.0.0.1:1/m", "Connection refused"),
    ],
)
def test_what_is_refused(url: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as refused:
        load_with_warnings(url, {})
    assert "secret" not in str(refused.value)
