"""What looks at a connection before a chain is chosen, in native YAML."""

from __future__ import annotations

from typing import Any

from meshproxy.config.native.kinds import Definitions, Flag, ListOf, Text, Whole
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems
from meshproxy.model import HttpInspector, OriginalDst, ProxyProtocol, TlsInspector

TLVS = ListOf(Whole(0, 255))


class Tlvs:
    """Types of TLVs, or `all` (None in the model)."""

    label = f"all, or {TLVS.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return None if value == "all" else TLVS.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return "all" if value is None else TLVS.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"const": "all"}, *TLVS.schema(definitions)["anyOf"]]}


TLS_INSPECTOR = Section(
    "tls_inspector",
    (
        Row("ja3", Flag(), "Make JA3 fingerprints of clients."),
        Row("ja4", Flag(), "Make JA4 fingerprints of clients."),
    ),
    TlsInspector,
    help="Finds TLS, the name and the protocols asked for, without decryption.",
)
PROXY_PROTOCOL = Section(
    "proxy_protocol",
    (
        Row("allow_without_header", Flag(), "Take connections that do not begin with a header."),
        Row("versions", ListOf(Whole(1, 2), least=1), "Which are taken.", shown_default="1, 2"),
        Row("pass_tlvs", Tlvs(), "Types of TLVs that are kept for the cluster's header.", shown_default="none"),
        Row("stat_prefix", Text(), "The name in metrics (`proxy_proto.<name>.`).", shown_default="none"),
    ),
    ProxyProtocol,
    help="Takes the client's address from a PROXY header.",
    short=lambda value: {} if value is True else None,
    shorten=lambda written: written or True,
    short_schemas=({"const": True},),
    short_label="true",
    title="proxy_protocol",
)
_LISTENER_FILTERS: dict[str, Any] = {
    "tls_inspector": TlsInspector(), "http_inspector": HttpInspector(), "proxy_protocol": ProxyProtocol(), "original_dst": OriginalDst(),
}


def _make_listener_filter(values: Values, path: Path, problems: Problems) -> Any:
    if len(values) != 1:
        problems.error(path, f"listener filter: give one of {', '.join(_LISTENER_FILTERS)}.")
        return WRONG
    (word, made), = values.items()
    return _LISTENER_FILTERS[word] if isinstance(made, bool) else made


def one_key(kinds: dict[str, Any]) -> Any:
    """Splits a thing into `{word: thing}`; one without settings is `True`."""

    def split(item: Any) -> Values:
        word = next(word for word, plain in kinds.items() if (plain if isinstance(plain, type) else type(plain)) is type(item))
        return {word: item if type(item).__struct_fields__ else True}

    return split


def shorten_word(written: dict[str, Any]) -> Any:
    """A thing without settings is its word alone."""
    (word, value), = written.items()
    return word if value in ({}, True) else written


def _short(value: Any) -> dict[str, Any] | None:
    known = isinstance(value, str) and value in _LISTENER_FILTERS
    return {value: {} if value == "tls_inspector" else True} if known else None


LISTENER_FILTER = Section(
    "listener_filter",
    (
        Row("tls_inspector", TLS_INSPECTOR, "Finds TLS and the name asked for."),
        Row("http_inspector", Flag(), "Finds plaintext HTTP/1 and HTTP/2."),
        Row("proxy_protocol", PROXY_PROTOCOL, "Takes the client's address from a PROXY header."),
        Row("original_dst", Flag(), "Takes the address that the client meant from the kernel (iptables REDIRECT, TPROXY)."),
    ),
    help="What looks at a connection before a chain is chosen: a name, or a mapping of it to settings.",
    make=_make_listener_filter,
    split=one_key(_LISTENER_FILTERS),
    short=lambda value: _short(value),
    shorten=shorten_word,
    short_schemas=({"enum": list(_LISTENER_FILTERS)},),
    short_label=", ".join(_LISTENER_FILTERS),
    title="listener filter",
)
