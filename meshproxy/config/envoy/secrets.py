"""Envoy's Secrets: those in the bootstrap, those in a file that a context points to, and the parts that a context has in itself."""

from __future__ import annotations

import base64
import os
from typing import Any, NamedTuple

import msgspec

from meshproxy.config import document as documents
from meshproxy.config import tls_rules
from meshproxy.config.document import Document
from meshproxy.config.envoy import address
from meshproxy.config.envoy.address import string_match
from meshproxy.config.envoy.config_source import config_source, watched_directory
from meshproxy.config.envoy.messages import MessageTypes
from meshproxy.config.envoy.reader import Reader
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path, Problems
from meshproxy.config.secrets import Part, Unreadable
from meshproxy.errors import ConfigError
from meshproxy.model import Certificate, PeerValidation, SanMatch, Secret, StringMatch, TicketKeys, TrustedCa

_TLS = "envoy.extensions.transport_sockets.tls.v3."
_CORE = "envoy.config.core.v3."
_RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"

TAKES: Table = {
    _TLS + "Secret": takes("name tls_certificate session_ticket_keys validation_context"),
    _TLS + "TlsCertificate": takes(
        "certificate_chain private_key password ocsp_staple watched_directory",
        later="signed_certificate_timestamp",
    ),
    _TLS + "TlsSessionTicketKeys": takes("keys"),
    _TLS + "CertificateValidationContext": takes(
        "trusted_ca system_root_certs watched_directory verify_certificate_spki verify_certificate_hash match_typed_subject_alt_names "
        "match_subject_alt_names crl allow_expired_certificate trust_chain_verification only_verify_leaf_cert_crl max_verify_depth",
        only={"require_signed_certificate_timestamp": (False,)},
    ),
    _TLS + "CertificateValidationContext.SystemRootCerts": takes(),
    _TLS + "SubjectAltNameMatcher": takes("san_type matcher oid"),
    _TLS + "SdsSecretConfig": takes("name sds_config"),
    _RESPONSE: takes("resources", version_info="is a label only", nonce="concerns streams", type_url="is told by the resources themselves"),
}
_SANS = {"EMAIL": "email", "DNS": "dns", "URI": "uri", "IP_ADDRESS": "ip", "OTHER_NAME": "other_name"}
_KINDS = {"tls_certificate": Certificate, "validation_context": TrustedCa, "session_ticket_keys": TicketKeys}
_WORDS = {"tls_certificate": "certificate", "validation_context": "validation context", "session_ticket_keys": "session ticket keys"}


class Named(NamedTuple):
    """A secret under a name of its own. `field` is which of the API's kinds it is; `name` is that of the model's secret, "" = there is
    none: a validation context without CA is all in `validation`."""

    field: str
    name: str = ""
    validation: PeerValidation | None = None


class Origin(NamedTuple):
    """What a secret's parts share: its own name, and the file that it is said in."""

    name: str = ""
    sds: str = ""
    watched_directory: str = ""


HERE = Origin()
"""A part of a context itself."""


def static_secrets(messages: Any, path: Path, translation: Translation) -> dict[str, Named]:
    """`static_resources.secrets`, by name."""
    made: dict[str, Named] = {}
    for index, message in enumerate(messages):
        place = (path, index)
        if message.name in made:
            translation.error((place, "name"), f'secret "{message.name}" is defined twice. Rename or remove one.')
        if (named := secret(message, place, translation, Origin(message.name))) is not None:
            made[message.name] = named
    return made


def secret(message: Any, path: Path, translation: Translation, origin: Origin) -> Named | None:
    """A Secret; None after a problem was told."""
    given = translation.fields(message, path)
    if not given.get("name"):
        translation.error(path, 'secret: "name" is missing. Add it.')
        return None
    for field in _KINDS:
        if field in given:
            place = (path, field)
            if field == "tls_certificate":
                return Named(field, certificate(given[field], place, translation, origin))
            if field == "session_ticket_keys":
                return Named(field, ticket_keys(given[field], place, translation, origin))
            made = validation_context(given[field], place, translation, origin)
            if made != PeerValidation(trusted_ca=made.trusted_ca):
                translation.problems.secrets.has_rules(made.trusted_ca, made)
            return Named(field, made.trusted_ca, made)
    translation.error(path, f'secret "{given["name"]}" has nothing in it. Add one of {", ".join(_KINDS)}.')
    return None


def part(message: Any, path: Path, translation: Translation) -> Part | None:
    """A DataSource of a secret; None after a problem was told."""
    given = translation.fields(message, path)
    if "filename" in given:
        return translation.problems.secrets.read(given["filename"], "", (path, "filename"))
    for field in ("inline_string", "inline_bytes", "environment_variable"):
        if field not in given:
            continue
        content = given[field]
        if field == "environment_variable":
            if content not in os.environ:
                translation.error((path, field), f"environment variable {content} is not set. Set it.")
                return None
            content = os.environ[content]
        return Part(content.encode() if isinstance(content, str) else content, "", (path, field))
    translation.error(path, "one of filename, inline_string, inline_bytes, environment_variable is missing. Add it.")
    return None


def _watched(given: dict[str, Any], path: Path, translation: Translation, origin: Origin) -> str:
    return watched_directory(given, path, translation) if "watched_directory" in given else origin.watched_directory


def certificate(message: Any, path: Path, translation: Translation, origin: Origin = HERE) -> str:
    """A TlsCertificate, as the name of its secret; "" after a problem was told."""
    given = translation.fields(message, path)
    parts: dict[str, Part | None] = {}
    for field in ("certificate_chain", "private_key", "password", "ocsp_staple"):
        if field in given:
            parts[field] = part(given[field], (path, field), translation)
    for field in ("certificate_chain", "private_key"):
        if field not in given:
            translation.error(path, f'certificate: "{field}" is missing. Add it.')
    chain, key = parts.get("certificate_chain"), parts.get("private_key")
    if chain is None or key is None or None in parts.values():
        return ""
    return translation.problems.secrets.certificate(
        chain, key, path, passphrase=parts.get("password"), ocsp_staple=parts.get("ocsp_staple"), name=origin.name, sds=origin.sds,
        watched_directory=_watched(given, path, translation, origin),
    )


def ticket_keys(message: Any, path: Path, translation: Translation, origin: Origin = HERE) -> str:
    """TlsSessionTicketKeys, as the name of their secret; "" after a problem was told."""
    given = translation.fields(message, path)
    parts = [part(item, ((path, "keys"), index), translation) for index, item in enumerate(given.get("keys", ()))]
    found = [item for item in parts if item is not None]
    if not found or len(found) < len(parts):
        return ""
    return translation.problems.secrets.ticket_keys(found, path, name=origin.name, sds=origin.sds)


def validation_context(message: Any, path: Path, translation: Translation, origin: Origin = HERE) -> PeerValidation:
    """A CertificateValidationContext; its CA becomes a secret."""
    given = translation.fields(message, path)
    if "trusted_ca" in given and "system_root_certs" in given:
        translation.error((path, "system_root_certs"), '"trusted_ca" and "system_root_certs" are both given. Keep one.')
    pins, hashes = given.get("verify_certificate_spki", ()), given.get("verify_certificate_hash", ())
    for field, rule in (("verify_certificate_spki", tls_rules.spki_pin), ("verify_certificate_hash", tls_rules.certificate_hash)):
        for index, text in enumerate(given.get(field, ())):
            if wrong := rule(text):
                translation.error(((path, field), index), wrong)
    return PeerValidation(
        trusted_ca=_trusted_ca(given, path, translation, origin),
        sans=_sans(given, path, translation),
        spki_pins=tuple(base64.b64decode(text) for text in pins if not tls_rules.spki_pin(text)),
        hashes=tuple(bytes.fromhex(text.replace(":", "")) for text in hashes if not tls_rules.certificate_hash(text)),
        only_leaf_crl=given.get("only_verify_leaf_cert_crl", False),
        allow_expired=given.get("allow_expired_certificate", False),
        accept_untrusted=enum_name(message, "trust_chain_verification") == "ACCEPT_UNTRUSTED",
        max_depth=given["max_verify_depth"].value if "max_verify_depth" in given else 100,
    )


def _trusted_ca(given: dict[str, Any], path: Path, translation: Translation, origin: Origin) -> str:
    crl = part(given["crl"], (path, "crl"), translation) if "crl" in given else None
    ca = part(given["trusted_ca"], (path, "trusted_ca"), translation) if "trusted_ca" in given else None
    if "trusted_ca" in given and ca is None:
        return ""
    if ca is None and "system_root_certs" not in given:
        if crl is not None:
            translation.error((path, "crl"), "a list of what a CA revoked needs the CA. Add trusted_ca.")
        return ""
    return translation.problems.secrets.trusted_ca(
        ca, path, crl=crl, name=origin.name, sds=origin.sds, watched_directory=_watched(given, path, translation, origin)
    )


def _sans(given: dict[str, Any], path: Path, translation: Translation) -> tuple[SanMatch, ...]:
    made: list[SanMatch] = []
    for index, item in enumerate(given.get("match_typed_subject_alt_names", ())):
        place = ((path, "match_typed_subject_alt_names"), index)
        matcher = translation.fields(item, place)
        kind, oid = _SANS.get(enum_name(item, "san_type")), matcher.get("oid", "")
        if kind is None:
            translation.error(place, f'"san_type" is missing. Use one of: {", ".join(_SANS)}.')
        match = string_match(matcher["matcher"], (place, "matcher"), translation) if "matcher" in matcher else None
        if (kind == "other_name") != bool(oid):
            translation.error(place, '"oid" is for OTHER_NAME, and needed there. Add or remove it.')
        if kind is not None and match is not None:
            made.append(SanMatch(kind, match, oid))
    old: list[StringMatch] = []
    for index, item in enumerate(given.get("match_subject_alt_names", ())):
        match = string_match(item, ((path, "match_subject_alt_names"), index), translation)
        old += [match] if match is not None else []
    if made and old:
        wrong = 'it and "match_typed_subject_alt_names" are both given. Keep that one.'
        translation.error((path, "match_subject_alt_names"), wrong)
    # The deprecated field looks at names of all these kinds.
    return (*made, *(SanMatch(kind, match) for match in old for kind in ("dns", "uri", "email", "ip")))


def merged(default: PeerValidation, dynamic: PeerValidation) -> PeerValidation:
    """A CombinedCertificateValidationContext: what the secret says is put on top of the default (protobuf's MergeFrom)."""
    return PeerValidation(
        trusted_ca=dynamic.trusted_ca or default.trusted_ca,
        # The same thing twice means what it means once.
        sans=tuple(dict.fromkeys(default.sans + dynamic.sans)),
        spki_pins=tuple(dict.fromkeys(default.spki_pins + dynamic.spki_pins)),
        hashes=tuple(dict.fromkeys(default.hashes + dynamic.hashes)),
        only_leaf_crl=default.only_leaf_crl or dynamic.only_leaf_crl,
        allow_expired=default.allow_expired or dynamic.allow_expired,
        accept_untrusted=default.accept_untrusted or dynamic.accept_untrusted,
        max_depth=dynamic.max_depth if dynamic.max_depth != 100 else default.max_depth,
    )


def sds(message: Any, path: Path, translation: Translation, field: str) -> Named | None:
    """An SdsSecretConfig for a secret of a kind; None after a problem was told."""
    given = translation.fields(message, path)
    name = given.get("name", "")
    if "sds_config" in given:
        found = _sourced(name, field, given["sds_config"], (path, "sds_config"), translation)
    else:
        found = translation.secrets.get(name)
        if found is None and name:
            problem = f'secret "{name}" is not defined. Add it to static_resources.secrets, or give sds_config.'
            translation.error((path, "name"), problem)
    if found is not None and found.field != field:
        wrong = f'secret "{name}" is of the kind {_WORDS[found.field]}, and a {_WORDS[field]} is needed. Name another.'
        translation.error((path, "name"), wrong)
        return None
    return found


def _sourced(name: str, field: str, message: Any, path: Path, translation: Translation) -> Named | None:
    """A secret of a file, which is read now, or of a control plane, which is waited for."""
    source = config_source(message, path, translation, translation.owner)
    if source is None or not name:
        return None
    if source.kind != "path":
        specifier = message.WhichOneof("config_source_specifier")
        translation.problems.sourced.append(((path, specifier), f'"{specifier}"'))
        made = translation.problems.secrets.awaited(name, source, path)
        translation.asked[made] = field
        return Named(field, made, PeerValidation(trusted_ca=made) if field == "validation_context" else None)
    place = (path, "path" if message.HasField("path") else "path_config_source")
    try:
        found = documents.read(source.path)
    except ConfigError as error:
        for problem in error.problems:
            translation.error(place, f"{problem.file}{f':{problem.line}' if problem.line else ''}: {problem.message}")
        return None
    return _picked(name, found, source.watched_directory, translation, place)


def _picked(name: str, document: Document, watched: str, translation: Translation, named_at: Path) -> Named | None:
    """The secret of a name in a file with a DiscoveryResponse."""
    kind = translation.types.find(_RESPONSE)
    assert kind is not None, "xds-protos has no DiscoveryResponse"
    response = kind()
    Reader(translation.problems, translation.types).read(response, document.data, document)
    resources = translation.fields(response, document).get("resources", ())
    for index, packed in enumerate(resources):
        place = ((document, "resources"), index)
        found = translation.unpack(packed, place, (_TLS + "Secret",), "resource")
        if found is not None and found.name == name:
            origin = Origin(f"{name} of {document.file}", document.file, watched)
            return secret(found, place, translation, origin)
    translation.error(named_at, f'"{document.file}" has no secret "{name}". Add it there or correct the name.')
    return None


def read_again(secret: Secret) -> Secret:
    """A secret that is said in a file of its own, as it is there now. Raises Unreadable with all that is wrong."""
    problems = Problems()
    translation = Translation(problems, {**TAKES, **address.TAKES}, MessageTypes())
    name, file = secret.name.removesuffix(f" of {secret.files.sds}"), secret.files.sds
    try:
        document = documents.read(file)
        found = _picked(name, document, secret.files.watched_directory, translation, document)
    except ConfigError as error:
        raise Unreadable(str(error)) from None
    if problems.refused or found is None:
        raise Unreadable("; ".join(map(str, problems.errors())) or f'"{file}" has no secret "{name}"')
    made = problems.secrets.get(found.name)
    if made is None or type(made.value) is not type(secret.value):
        raise Unreadable(f'"{file}": secret "{name}" has become one of another kind. Make it what it was, or reload.')
    if made.rules_digest != secret.rules_digest:
        # They are in the listeners and clusters that name it; a CA with another's names and pins is neither the old context nor the new.
        raise Unreadable(f'"{file}": secret "{name}" demands other names, pins or checks than before. Reload to have them.')
    return msgspec.structs.replace(made, name=secret.name)
