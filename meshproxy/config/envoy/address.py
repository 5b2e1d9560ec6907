"""Addresses, and small messages that every resource kind has: data sources, string matchers."""

from __future__ import annotations

import os
from typing import Any

from meshproxy.config import rules, tls_rules
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.native.address import pipe_mode, pipe_path
from meshproxy.config.problems import Path
from meshproxy.model import Address, PipeAddress, SocketAddress, StringMatch

_CORE = "envoy.config.core.v3."
_MATCHER = "envoy.type.matcher.v3."

TAKES: Table = {
    _CORE + "Address": takes("socket_address pipe"),
    _CORE + "SocketAddress": takes("address port_value ipv4_compat", only={"protocol": ("TCP",)}),
    _CORE + "Pipe": takes("path mode"),
    _CORE + "DataSource": takes("filename inline_bytes inline_string environment_variable"),
    _MATCHER + "StringMatcher": takes("exact prefix suffix safe_regex contains ignore_case"),
    _MATCHER + "RegexMatcher": takes("regex", google_re2="is the engine anyway"),
    _MATCHER + "RegexMatchAndSubstitute": takes("pattern substitution"),
    "envoy.type.v3.Int64Range": takes("start end"),
    _CORE + "CidrRange": takes("address_prefix prefix_len"),
}


def address(message: Any, path: Path, translation: Translation, names: bool = False, udp: bool = False) -> Address | None:
    """A place to listen (`names` False: an IP address in numbers) or an endpoint (a host name is for DNS clusters)."""
    given = translation.fields(message, path)
    if "pipe" in given:
        place = (path, "pipe")
        pipe = translation.fields(given["pipe"], place)
        if wrong := pipe_path(pipe.get("path", "")):
            translation.error((place, "path"), wrong)
            return None
        if wrong := pipe_mode(pipe["path"], pipe.get("mode", 0)):
            translation.error((place, "mode"), wrong)
        return PipeAddress(pipe["path"], pipe.get("mode", 0))
    if "socket_address" not in given:
        return None
    place = (path, "socket_address")
    if udp and given["socket_address"].protocol == 1:
        given["socket_address"].protocol = 0
    socket = translation.fields(given["socket_address"], place)
    host = socket.get("address", "")
    if not host:
        # Told by the API's own rule.
        return None
    if not rules.ip(host) and not (names and rules.host_name(host)):
        remedy = "an IP address, or a host name in a STRICT_DNS cluster" if names else "an IPv4 or IPv6 address in numbers"
        translation.error((place, "address"), f'"{host}" is no address. Write {remedy}.')
        return None
    if "ipv4_compat" in socket and host != "::":
        translation.error((place, "ipv4_compat"), f'only "::" can take IPv4 too, and the address is "{host}". Remove it.')
    return SocketAddress(host, socket.get("port_value", 0))


def cidr(message: Any, path: Path, translation: Translation) -> str:
    """A CidrRange as `address/length`; "" after a problem was told. Without a length it is the whole (Envoy: 0 bits, all addresses)."""
    given = translation.fields(message, path)
    text = f"{given.get('address_prefix', '')}/{given['prefix_len'].value if 'prefix_len' in given else 0}"
    if wrong := tls_rules.cidr(text):
        if given.get("address_prefix"):
            translation.error(path, wrong)
        return ""
    return text


def cidrs(messages: Any, path: Path, translation: Translation) -> tuple[str, ...]:
    """Several of them."""
    made = [cidr(message, (path, index), translation) for index, message in enumerate(messages)]
    return tuple(text for text in made if text)


def data_source(message: Any, path: Path, translation: Translation) -> bytes:
    """What a DataSource stands for, read now."""
    given = translation.fields(message, path)
    if "inline_string" in given:
        return given["inline_string"].encode()
    if "filename" in given:
        try:
            with open(given["filename"], "rb") as opened:
                return opened.read()
        except OSError as error:
            wrong = f'cannot read "{given["filename"]}": {error.strerror}. Correct the path or its permissions.'
            translation.error((path, "filename"), wrong)
    if "environment_variable" in given:
        name = given["environment_variable"]
        if name not in os.environ:
            translation.error((path, "environment_variable"), f"environment variable {name} is not set. Set it.")
        return os.environ.get(name, "").encode()
    return given.get("inline_bytes", b"")


def regex(message: Any, path: Path, translation: Translation) -> str:
    """A RegexMatcher's pattern."""
    pattern = translation.fields(message, path).get("regex", "")
    if wrong := rules.regex(pattern):
        translation.error((path, "regex"), wrong)
    return pattern


def rewrite(message: Any, path: Path, translation: Translation) -> tuple[str, str]:
    """A RegexMatchAndSubstitute."""
    given = translation.fields(message, path)
    pattern = regex(given["pattern"], (path, "pattern"), translation) if "pattern" in given else ""
    substitution = given.get("substitution", "")
    if not rules.regex(pattern) and (wrong := rules.substitution(pattern, substitution)):
        translation.error((path, "substitution"), wrong)
    return pattern, substitution


def string_match(message: Any, path: Path, translation: Translation) -> StringMatch | None:
    """A StringMatcher."""
    given = translation.fields(message, path)
    ignore_case = given.get("ignore_case", False)
    if "safe_regex" in given:
        if ignore_case:
            translation.error((path, "ignore_case"), 'it has no effect with safe_regex. Write "(?i)" in front of the pattern.')
        return StringMatch("regex", regex(given["safe_regex"], (path, "safe_regex"), translation))
    for kind in ("exact", "prefix", "suffix", "contains"):
        if kind in given:
            return StringMatch(kind, given[kind], ignore_case)
    return None
