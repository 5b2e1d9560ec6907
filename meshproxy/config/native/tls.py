"""TLS in native YAML: of a listener (or one of its chains) and of a cluster."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import msgspec

from meshproxy.config import tls_rules
from meshproxy.config.native.headers import STRING_ROWS, give_string, take_string
from meshproxy.config.native.kinds import Duration, Flag, ListOf, Text, Whole, Word
from meshproxy.config.native.rows import DERIVED, UNSET, WRONG, Row, Section, Values
from meshproxy.config.native.secrets import (
    CERTIFICATE,
    CERTIFICATE_ROWS,
    CaContent,
    Content,
    SecretOr,
    Secured,
    give_ca,
    give_certificate,
    give_ticket_keys,
    is_inline,
    take_certificate,
)
from meshproxy.config.problems import Path, Problems
from meshproxy.model import DownstreamTls, KeyLog, PeerValidation, SanMatch, TicketKeys, TlsParameters, TrustedCa, UpstreamTls


class Cidr(Text):
    """A range of addresses; one address alone is a range of one."""

    def __init__(self) -> None:
        super().__init__("range of addresses", tls_rules.cidr)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        made = super().read(value, path, problems)
        return made if made is WRONG or "/" in made else f"{made}/{128 if ':' in made else 32}"


CIDRS = ListOf(Cidr())

KEY_LOG = Section(
    "key_log",
    (
        Row("path", Text(), "The file that secrets are added to.", required=True),
        Row("local_ranges", CIDRS, "Only connections to these addresses.", shown_default="all"),
        Row("remote_ranges", CIDRS, "Only connections with peers at these addresses.", shown_default="all"),
    ),
    KeyLog,
    help="Writes session secrets, so that Wireshark can decrypt a capture: a path, or a mapping. Never in production.",
    short=lambda value: {"path": value} if isinstance(value, str) else None,
    shorten=lambda written: written["path"] if written.keys() == {"path"} else written,
    short_schemas=({"type": "string"},),
    short_label="a path",
)

_SAN_KINDS = ("dns", "uri", "email", "ip", "other_name")


def _short_san(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return None
    return {"kind": "uri" if "://" in value else "dns", "exact": value}


def _make_san(values: Values, path: Path, problems: Problems) -> Any:
    match = take_string(values, path, problems)
    if match is None:
        problems.error(path, "subject alternative name: there is no text to compare. Add exact, prefix, suffix, contains or regex.")
        return WRONG
    if ("oid" in values) != (values["kind"] == "other_name"):
        problems.error(path, 'subject alternative name: "oid" is for other_name, and needed there.')
        return WRONG
    return SanMatch(values["kind"], match, values.get("oid", ""))


def _shorten_san(written: dict[str, Any]) -> Any:
    plain = written.keys() == {"kind", "exact"} and _short_san(written["exact"]) == written
    return written["exact"] if plain else written


SAN = Section(
    "san",
    (
        Row("kind", Word(*_SAN_KINDS), "Which kind of name.", required=True),
        *STRING_ROWS,
        Row("oid", Text(), "Of an other_name, as 1.3.6.1.4.1.311.20.2.3.", default=""),
    ),
    help="A name that the peer's certificate must have: a DNS name or an URI (`spiffe://...`), or a mapping.",
    make=_make_san,
    split=lambda san: {"kind": san.kind, "oid": san.oid, **give_string(san.value)},
    short=_short_san,
    shorten=_shorten_san,
    short_schemas=({"type": "string"},),
    short_label="a name",
    title="subject alternative name",
)


class _Version(Word):
    """1.2 is a number in YAML."""

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return super().read(str(value) if type(value) is float else value, path, problems)

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        return {"enum": [*self._values, *map(float, self._values)]}


_VERSIONS = _Version("1.0", "1.1", "1.2", "1.3")


def _params(most: str) -> tuple[Row, ...]:
    return (
        Row("min_version", _VERSIONS, "The lowest version of TLS.", default="", shown_default="1.2"),
        Row("max_version", _VERSIONS, "The highest.", default="", shown_default=most),
        Row("ciphers", ListOf(Text("cipher", tls_rules.cipher)), "OpenSSL's names, up to TLS 1.2; `[A|B]` are equal.", default=(),
            shown_default="strong ones"),
        Row("curves", ListOf(Text("curve", tls_rules.curve)), "For the key exchange.", default=(), shown_default="X25519, P-256"),
        Row("signature_algorithms", ListOf(Text("signature algorithm", tls_rules.signature)), "In order of preference.", default=(),
            shown_default="the library's"),
    )


_PARAMS = ("min_version", "max_version", "ciphers", "curves", "signature_algorithms")


def _validation(ca: str, ca_help: str, ca_default: str) -> tuple[Row, ...]:
    return (
        Row(ca, SecretOr(CaContent(), TrustedCa), ca_help, "ca", default=UNSET, shown_default=ca_default),
        Row("crl", Content(), "What the CA revoked, PEM."),
        Row("sans", ListOf(SAN), "One of these names must be in the peer's certificate.", default=(), shown_default="any"),
        Row("spki_pins", ListOf(Text("base64", tls_rules.spki_pin)), "SHA-256 of public keys in base64: only these.", default=()),
        Row("cert_hashes", ListOf(Text("digits", tls_rules.certificate_hash)), "SHA-256 of certificates: only these.", default=()),
        Row("only_leaf_crl", Flag(), "Look the peer's own certificate up in the list and not its CAs.", default=False),
        Row("allow_expired", Flag(), "Take certificates that have expired.", default=False),
        Row("accept_untrusted", Flag(), "Look at the chain, count, and go on.", default=False),
        Row("max_depth", Whole(0, 100), "Longest chain.", default=100),
    )


_VALIDATION = ("ca", "crl", "sans", "spki_pins", "cert_hashes", "only_leaf_crl", "allow_expired", "accept_untrusted", "max_depth")


def _take_params(values: Values, path: Path, problems: Problems) -> TlsParameters:
    params = TlsParameters(**{name: values.pop(name) for name in _PARAMS if name in values})
    if wrong := tls_rules.versions(params.min_version, params.max_version):
        problems.error((path, "max_version"), wrong)
    return params


def _take_validation(values: Values, ca_name: str, path: Path, problems: Problems, default: bool) -> PeerValidation | None:
    """The rows of `_validation` out of `values`. `default`: without a CA it is the system's."""
    given = {name: values.pop(name) for name in _VALIDATION if name in values}
    if not given and not default:
        return None
    trusted, crl = given.pop("ca", UNSET), given.pop("crl", None)
    pinned = bool(given.get("spki_pins") or given.get("cert_hashes"))
    if trusted is UNSET and (default and not pinned):
        trusted = None
    name = ""
    if isinstance(trusted, str):
        name = trusted
        if crl is not None:
            problems.error((path, "crl"), f'"{ca_name}" names a secret. Put "crl" into that secret.')
    elif trusted is not UNSET:
        name = problems.secrets.trusted_ca(trusted, path, crl=crl)
    elif crl is not None:
        problems.error((path, "crl"), f'a list of what a CA revoked needs the CA. Add "{ca_name}".')
    if not name and given.get("sans"):
        problems.error((path, "sans"), f'names are looked at in a chain that was verified. Add "{ca_name}".')
    return PeerValidation(
        trusted_ca=name,
        spki_pins=tuple(base64.b64decode(pin) for pin in given.pop("spki_pins", ())),
        hashes=tuple(bytes.fromhex(text.replace(":", "")) for text in given.pop("cert_hashes", ())),
        **given,
    )


def _give_validation(validation: PeerValidation, secured: Secured, short_ca: bool) -> Values:
    """`short_ca`: the system's own store need not be said."""
    values: Values = {
        "sans": validation.sans, "only_leaf_crl": validation.only_leaf_crl, "allow_expired": validation.allow_expired,
        "accept_untrusted": validation.accept_untrusted, "max_depth": validation.max_depth,
        "spki_pins": tuple(base64.b64encode(pin).decode() for pin in validation.spki_pins),
        "cert_hashes": tuple(digest.hex() for digest in validation.hashes),
    }
    if validation.trusted_ca:
        values.update(_give_ca(validation.trusted_ca, secured))
        if short_ca and values["ca"] is None and "crl" not in values:
            del values["ca"]
    return values


def _give_ca(name: str, secured: Secured) -> Values:
    secret = secured.secrets.get(name)
    return give_ca(secret) if secret is not None and is_inline(secret) else {"ca": name}


class Draft(NamedTuple):
    """TLS as it is written: what its surroundings fill in, they are told here."""

    tls: Any
    alpn_given: bool
    permissive: bool = False


def _make_downstream(values: Values, path: Path, problems: Problems) -> Any:
    listed = values.pop("certificates", ())
    own = take_certificate(values, path, problems)
    certificates = ((own,) if own else ()) + listed
    if not certificates:
        problems.error(path, 'tls: there is no certificate. Add "cert" and "key", or "certificates".')
    params = _take_params(values, path, problems)
    validation = _take_validation(values, "client_ca", path, problems, False)
    if values.get("require_client_certificate") and validation is None:
        problems.error((path, "require_client_cert"), 'any certificate would do, because nothing says whose are good. Add "client_ca".')
    keys = values.pop("ticket_keys", None)
    if keys is not None:
        values["ticket_keys"] = keys if isinstance(keys, str) else problems.secrets.ticket_keys(list(keys), path)
        if not values.get("stateless_resumption", True):
            problems.error((path, "session_tickets"), '"ticket_keys" are given. Remove them, or turn session_tickets on.')
    alpn_given, permissive = "alpn" in values, values.pop("permissive", False)
    return Draft(DownstreamTls(certificates=certificates, params=params, validation=validation, **values), alpn_given, permissive)


_DOWNSTREAM_OWN = (
    "stateless_resumption", "stateful_resumption", "session_timeout_s", "ocsp_policy", "full_scan_certs_on_sni_mismatch",
    "prefer_client_ciphers", "key_log", "require_client_certificate",
)


def _split_downstream(draft: tuple[Draft, Secured]) -> Values:
    (tls, alpn_given, permissive), secured = draft
    values: Values = {name: getattr(tls, name) for name in _DOWNSTREAM_OWN} | {"permissive": permissive}
    values.update({name: getattr(tls.params, name) for name in _PARAMS})
    if alpn_given:
        values["alpn"] = tls.alpn
    first = secured.secrets.get(tls.certificates[0]) if tls.certificates else None
    if len(tls.certificates) == 1 and first is not None and is_inline(first):
        values.update(give_certificate(first))
    else:
        values["certificates"] = tuple(secured.secrets.get(name) or _Unknown(name) for name in tls.certificates)
    if tls.validation is not None:
        values.update(_give_validation(tls.validation, secured, False))
    if tls.ticket_keys:
        keys = secured.secrets.get(tls.ticket_keys)
        values["ticket_keys"] = give_ticket_keys(keys) if keys is not None and is_inline(keys) else tls.ticket_keys
    return values


class _Unknown(NamedTuple):
    """A secret that is waited for."""

    name: str
    value: None = None


class _TicketKeys(SecretOr):
    def __init__(self) -> None:
        super().__init__(Content(), TicketKeys)
        self._list = ListOf(Content(), least=1)
        self.label = f"list of {Content.label}; or `{{secret: name}}`"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        named = type(value) is dict and value.keys() == {"secret"}
        return super().read(value, path, problems) if named else self._list.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return super().write(value) if isinstance(value, str) else self._list.write(value)

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        inner = super().schema(definitions)
        return {"anyOf": [*inner["anyOf"], {"type": "array", "items": inner}]}


_D = {field.name: field.default for field in msgspec.structs.fields(DownstreamTls) if field.default is not msgspec.NODEFAULT}

DOWNSTREAM_TLS = Section(
    "tls",
    (
        *CERTIFICATE_ROWS,
        Row("certificates", ListOf(CERTIFICATE), "Several: which is used goes by the name asked for, then by the kind of key.",
            default=()),
        Row("mode", Word(values={"strict": False, "permissive": True}), "`permissive` takes clients without TLS on the same port too.",
            "permissive", default=False),
        *_validation("client_ca", "Who signs clients' certificates; clients are asked for one.", "clients are not asked"),
        Row("require_client_cert", Flag(), "A client without a certificate is refused.", "require_client_certificate", default=False),
        *_params("1.3"),
        Row("alpn", ListOf(Text("protocol", tls_rules.alpn)), "Application protocols offered.", default=DERIVED,
            shown_default="h2, http/1.1 for HTTP"),
        Row("ticket_keys", _TicketKeys(), "Keys of session tickets, 80 bytes each: the first encrypts, all decrypt.", default="",
            shown_default="made by the node"),
        Row("session_tickets", Flag(), "Clients may resume by ticket.", "stateless_resumption", default=_D["stateless_resumption"]),
        Row("session_cache", Flag(), "Clients may resume by session id.", "stateful_resumption", default=_D["stateful_resumption"]),
        Row("session_timeout", Duration(zero=""), "How long a session may be resumed.", "session_timeout_s",
            default=_D["session_timeout_s"]),
        Row("ocsp_policy", Word("lenient", "strict", "must"),
            "Without a valid staple: `strict` does not use a certificate whose staple has expired, `must` needs one.",
            default=_D["ocsp_policy"]),
        Row("full_scan_certs", Flag(), "Look at all certificates when the name is not among them.", "full_scan_certs_on_sni_mismatch",
            default=False),
        Row("prefer_client_ciphers", Flag(), "The client's order counts.", default=False),
        Row("key_log", KEY_LOG, "Session secrets in a file.", default=None, shown_default="none"),
    ),
    help="TLS with clients.",
    make=_make_downstream,
    split=_split_downstream,
)


def _make_upstream(values: Values, path: Path, problems: Problems) -> Any:
    listed = values.pop("certificate", "")
    own = take_certificate(values, path, problems)
    if own and listed:
        problems.error((path, "certificate"), '"cert" and "certificate" are both given. Keep one.')
    verify = values.pop("verify", True)
    validation = _take_validation(values, "ca", path, problems, verify)
    if not verify and validation is not None:
        problems.error((path, "verify"), "verify is false, and settings say what to verify. Remove either.")
    named = bool(values.get("sni") or values.get("auto_sni"))
    values.setdefault("auto_host_sni", not named)
    values.setdefault("auto_san_validation", _checks_name(validation))
    if values["auto_san_validation"] and not (validation is not None and validation.trusted_ca):
        problems.error((path, "auto_san_validation"), "names are looked at in a chain that was verified. Add ca, or remove it.")
    params = _take_params(values, path, problems)
    alpn_given = "alpn" in values
    return Draft(UpstreamTls(certificate=own or listed, validation=validation, params=params, **values), alpn_given)


def _checks_name(validation: PeerValidation | None) -> bool:
    """By default the name that was asked for has to be in the certificate, unless something else says whose it must be."""
    return validation is not None and bool(validation.trusted_ca) and not (validation.sans or validation.spki_pins or validation.hashes)


_UPSTREAM_OWN = ("sni", "auto_sni", "max_session_keys", "enforce_rsa_key_usage", "key_log")


def _split_upstream(draft: tuple[Draft, Secured]) -> Values:
    (tls, alpn_given, _), secured = draft
    values: Values = {name: getattr(tls, name) for name in _UPSTREAM_OWN}
    values.update({name: getattr(tls.params, name) for name in _PARAMS})
    if alpn_given:
        values["alpn"] = tls.alpn
    if tls.certificate:
        secret = secured.secrets.get(tls.certificate)
        if secret is not None and is_inline(secret):
            values.update(give_certificate(secret))
        else:
            values["certificate"] = tls.certificate
    if tls.auto_host_sni != (not (tls.sni or tls.auto_sni)):
        values["auto_host_sni"] = tls.auto_host_sni
    if tls.auto_san_validation != _checks_name(tls.validation):
        values["auto_san_validation"] = tls.auto_san_validation
    if tls.validation is None:
        return values | {"verify": False}
    pinned = bool(tls.validation.spki_pins or tls.validation.hashes)
    if not tls.validation.trusted_ca and not pinned:
        # Nothing is verified, which is said shorter.
        return values | {"verify": False}
    return values | _give_validation(tls.validation, secured, not pinned)


UPSTREAM_TLS = Section(
    "upstream_tls",
    (
        Row("sni", Text("host name", lambda text: "" if len(text.encode()) <= 255 else "the name has more than 255 bytes. Correct it."),
            "The name that is asked for.", default="", shown_default="the endpoint's host name"),
        Row("auto_host_sni", Flag(), "Ask for the endpoint's `hostname`, or its name in DNS.", default=DERIVED,
            shown_default="true without another SNI"),
        Row("auto_sni", Flag(), "Ask for the request's host.", default=False),
        Row("auto_san_validation", Flag(), "The name that was asked for must be in the certificate.", default=DERIVED,
            shown_default="true unless sans or pins are given"),
        Row("verify", Flag(), "false: whoever answers is trusted.", default=True),
        *_validation("ca", "Who signs the endpoints' certificates.", "system"),
        *CERTIFICATE_ROWS,
        Row("certificate", Text(), "Instead of `cert` and `key`: the name of a secret.", default=""),
        *_params("1.2"),
        Row("alpn", ListOf(Text("protocol", tls_rules.alpn)), "Application protocols offered.", default=DERIVED,
            shown_default="by the cluster's protocol"),
        Row("max_session_keys", Whole(), "Sessions kept for resumption; 0 = none.", default=1),
        Row("enforce_rsa_key_usage", Flag(), "An RSA certificate must be for what it is used for.", default=True),
        Row("key_log", KEY_LOG, "Session secrets in a file.", default=None, shown_default="none"),
    ),
    help="TLS with endpoints: `true` verifies them by the system's CAs and their host names.",
    make=_make_upstream,
    split=_split_upstream,
    short=lambda value: {} if value is True else None,
    shorten=lambda written: written or True,
    short_schemas=({"const": True},),
    short_label="true",
    title="tls",
)
