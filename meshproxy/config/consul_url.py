"""`consul://host:port/prefix` in the place of a file's name: a whole configuration that is in Consul.

What an address cannot say is asked of the environment, under the names that Consul's own command has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from meshproxy.config.document import Document
from meshproxy.errors import ConfigError, Problem

SCHEME = "consul://"
_ENVIRONMENT = {
    "token": "CONSUL_HTTP_TOKEN",
    "token_file": "CONSUL_HTTP_TOKEN_FILE",
    "ca_file": "CONSUL_CACERT",
    "cert_file": "CONSUL_CLIENT_CERT",
    "key_file": "CONSUL_CLIENT_KEY",
    "server_name": "CONSUL_TLS_SERVER_NAME",
}
_QUERY = ("scheme", "token_file", "ca_file", "cert_file", "key_file", "server_name")


def is_consul(path: str) -> bool:
    """Whether it names no file."""
    return path.startswith(SCHEME)


def document_of(url: str, env: Mapping[str, str]) -> Document:
    """The native document that says the same: `consul: {address, ..., config: prefix}`. Raises ConfigError."""
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    if "@" in parts.netloc:
        raise _refused(url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1),
                       "a token in an address is seen by everybody. Put it into CONSUL_HTTP_TOKEN or name a file with ?token_file=.")
    if not prefix:
        raise _refused(url, "the prefix of the keys is missing. Write consul://host:port/prefix.")
    consul: dict[str, Any] = {name: env[variable] for name, variable in _ENVIRONMENT.items() if env.get(variable)}
    if env.get("CONSUL_HTTP_SSL", "").lower() in ("1", "true"):
        consul["scheme"] = "https"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _QUERY:
            raise _refused(url, f'there is no setting "{name}". Use {", ".join(_QUERY)}.')
        consul[name] = value
    if "token_file" in consul:
        consul.pop("token", None)
    address = parts.netloc or env.get("CONSUL_HTTP_ADDR", "")
    scheme, _, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        consul.setdefault("scheme", scheme)
    if rest:
        consul["address"] = rest if ":" in rest else f"{rest}:8500"
    return Document(url, "", {"consul": {**consul, "config": prefix}}, None)


def _refused(url: str, message: str) -> ConfigError:
    return ConfigError([Problem(message, file=url)])
