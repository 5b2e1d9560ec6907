"""Secrets in native YAML: files, inline text, and those under a name of their own."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshproxy.config.native.control_plane import SDS, Asked
from meshproxy.config.native.kinds import Definitions, ListOf, Named, Text
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, keys_of, told
from meshproxy.config.secrets import KINDS, Part, derived_name
from meshproxy.model import Certificate, Secret, TicketKeys, TrustedCa

SYSTEM = "system"


class Content:
    """A file's path, relative to the file that names it, or `{inline: text}` or `{base64: bytes}`: a `Part`."""

    label = "path, or inline or base64 below"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and value:
            place, _ = keys_of(path)
            return problems.secrets.read(value, os.path.dirname(place.file), path)
        if type(value) is dict and len(value) == 1:
            (word, text), = value.items()
            if word == "inline" and type(text) is str:
                return Part(text.encode(), "", path)
            if word == "base64" and type(text) is str:
                try:
                    return Part(base64.b64decode(text, validate=True), "", path)
                except ValueError:
                    problems.error((path, word), "this is no base64. Encode the bytes with `base64 -w0`.")
                    return WRONG
        problems.error(path, f"{told(value)} is given where a file is needed. Write its path, or inline: or base64: below.")
        return WRONG

    def write(self, value: Part) -> Any:
        if value.file:
            return value.file
        try:
            text = value.content.decode()
            if text.replace("\n", "").isprintable():
                return {"inline": text}
        except UnicodeDecodeError:
            pass
        return {"base64": base64.b64encode(value.content).decode()}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        text = {"type": "string"}
        shape = {"type": "object", "additionalProperties": False}
        forms = [{**shape, "required": [word], "properties": {word: text}} for word in ("inline", "base64")]
        return {"anyOf": [{"type": "string", "minLength": 1}, *forms]}


class CaContent(Content):
    """`system`, or content."""

    label = f"{SYSTEM}, {Content.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return None if value == SYSTEM else super().read(value, path, problems)

    def write(self, value: Any) -> Any:
        return SYSTEM if value is None else super().write(value)


class SecretOr:
    """A kind, or `{secret: name}` in its place."""

    def __init__(self, kind: Content, of: type) -> None:
        self._kind = kind
        self._of = of
        self.label = f"{kind.label}; or `{{secret: name}}`"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is dict and value.keys() == {"secret"} and type(value["secret"]) is str:
            return problems.secrets.refer(self._of, value["secret"], (path, "secret"))
        return self._kind.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return {"secret": value} if isinstance(value, str) else self._kind.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        inner = self._kind.schema(definitions)
        name = {"type": "object", "required": ["secret"], "additionalProperties": False, "properties": {"secret": {"type": "string"}}}
        return {"anyOf": [*inner["anyOf"], name]}


CERTIFICATE_ROWS = (
    Row("cert", Content(), "The certificate chain, PEM: the server's own first."),
    Row("key", Content(), "Its private key, PEM.", shown_default="in the file of `cert`"),
    Row("passphrase", Text(), "Of the key; rather a variable, `${NAME}`, than the text itself."),
    Row("passphrase_file", Content(), "A file with it."),
    Row("ocsp_staple", Content(), "An OCSP response to staple, DER."),
)


def take_certificate(values: Values, path: Path, problems: Problems, name: str = "") -> str:
    """The rows above out of `values`, as a secret's name; "" when there is no certificate among them."""
    chain = values.pop("cert", None)
    key, phrase, file, staple = (values.pop(word, None) for word in ("key", "passphrase", "passphrase_file", "ocsp_staple"))
    if phrase is not None and file is not None:
        problems.error((path, "passphrase_file"), '"passphrase" and "passphrase_file" are both given. Keep one.')
    if chain is None:
        for word, value in (("key", key), ("passphrase", phrase), ("passphrase_file", file), ("ocsp_staple", staple)):
            if value is not None:
                problems.error((path, word), f'"{word}" has no meaning without "cert". Add it.')
        return ""
    passphrase = file or (Part(phrase.encode(), "", (path, "passphrase")) if phrase is not None else None)
    return problems.secrets.certificate(
        chain, key or chain._replace(path=(path, "key")), path, passphrase=passphrase, ocsp_staple=staple, name=name,
        watched_directory=values.pop("watched_directory", ""),
    )


def give_certificate(secret: Secret) -> Values:
    """The rows of a certificate's secret."""
    value, files = secret.value, secret.files
    assert isinstance(value, Certificate)
    values: Values = {"cert": Part(value.chain_pem, files.chain, None)}
    if (value.key_pem, files.key) != (value.chain_pem, files.chain):
        values["key"] = Part(value.key_pem, files.key, None)
    if files.passphrase:
        values["passphrase_file"] = Part(b"", files.passphrase, None)
    elif value.passphrase:
        values["passphrase"] = value.passphrase.decode("utf-8", "replace")
    if value.ocsp_staple or files.ocsp_staple:
        values["ocsp_staple"] = Part(value.ocsp_staple, files.ocsp_staple, None)
    return values


class Secured(NamedTuple):
    """A thing to be written, and all secrets that it may name."""

    thing: Any
    secrets: Mapping[str, Secret]

    @property
    def name(self) -> str:
        return self.thing.name


def is_inline(secret: Secret) -> bool:
    """Whether it is written where it is used: it has no name of its own."""
    return secret.value is not None and secret.name == derived_name(secret.value, secret.files)


def _make_listed(values: Values, path: Path, problems: Problems) -> Any:
    if "secret" in values and len(values) == 1:
        return problems.secrets.refer(Certificate, values["secret"], path)
    name = take_certificate(values, path, problems)
    if not name:
        problems.error(path, 'certificate: "cert" is missing. Add it.')
    return name or WRONG


CERTIFICATE = Section(
    "certificate",
    (*CERTIFICATE_ROWS, Row("secret", Text(), "Instead: the name of a secret.")),
    help="A certificate and its key: a secret's name, or a mapping.",
    make=_make_listed,
    split=lambda secret: {"secret": secret.name} if not is_inline(secret) else give_certificate(secret),
    short=lambda value: {"secret": value} if isinstance(value, str) else None,
    shorten=lambda written: written.get("secret", written),
    short_schemas=({"type": "string"},),
    short_label="a secret's name",
)

_NOT_TOGETHER = (("cert", "ca"), ("cert", "ticket_keys"), ("ca", "ticket_keys"))


class _Named(NamedTuple):
    """A secret's rows until its name is known."""

    values: Values
    path: Path
    problems: Problems


def _make_secret(values: Values, path: Path, problems: Problems) -> Any:
    for one, other in _NOT_TOGETHER:
        if one in values and other in values:
            problems.error((path, other), f'secret: "{one}" and "{other}" are both given. Make two secrets of them.')
            return WRONG
    if "sds" in values and len(values) > 1:
        problems.error((path, "sds"), 'secret: "sds" is asked of a control plane, and something is given beside it. Keep one of the two.')
        return WRONG
    if not values.keys() & {"cert", "ca", "ticket_keys", "sds"}:
        problems.error(path, 'secret: it has nothing. Add "cert" and "key", "ca", "ticket_keys" or "sds".')
        return WRONG
    return _Named(values, path, problems)


def _put_secret(made: _Named, name: str) -> str:
    values, path, problems = dict(made.values), made.path, made.problems
    if "sds" in values:
        return problems.secrets.awaited(values["sds"].name or name, values["sds"].source, path, name)
    if "ca" in values:
        watched = values.get("watched_directory", "")
        return problems.secrets.trusted_ca(values["ca"], path, crl=values.get("crl"), name=name, watched_directory=watched)
    if "ticket_keys" in values:
        return problems.secrets.ticket_keys(list(values["ticket_keys"]), path, name=name)
    return take_certificate(values, path, problems, name)


def _split_secret(secret: Secret) -> Values:
    if secret.source is not None:
        return {"sds": Asked("" if secret.sds_name == secret.name else secret.sds_name, secret.source)}
    value, files = secret.value, secret.files
    shared: Values = {"watched_directory": files.watched_directory} if files.watched_directory else {}
    if isinstance(value, Certificate):
        return {**give_certificate(secret), **shared}
    if isinstance(value, TicketKeys):
        return {"ticket_keys": give_ticket_keys(secret)}
    return {**give_ca(secret), **shared}


def give_ticket_keys(secret: Secret) -> tuple[Part, ...]:
    value, files = secret.value, secret.files
    assert isinstance(value, TicketKeys)
    return tuple(Part(key, file, None) for key, file in zip(value.keys, files.ticket_keys or [""] * len(value.keys), strict=True))


def give_ca(secret: Secret) -> Values:
    value, files = secret.value, secret.files
    if not isinstance(value, TrustedCa):
        return {}
    values: Values = {"ca": Part(value.pem, files.ca, None) if value.pem else None}
    if value.crl_pem or files.crl:
        values["crl"] = Part(value.crl_pem, files.crl, None)
    return values


SECRET = Section(
    "secret",
    (
        *CERTIFICATE_ROWS,
        Row("ca", CaContent(), "CA certificates, PEM."),
        Row("crl", Content(), "What those CAs revoked, PEM."),
        Row("ticket_keys", ListOf(Content(), least=1), "Keys of session tickets, 80 bytes each: the first encrypts, all decrypt."),
        Row("sds", SDS, "Instead: what a control plane sends.", default=None, shown_default="none"),
        Row("watched_directory", Text(), "Read the files again only when something is moved in this folder.", default="",
            shown_default="when a file changes"),
    ),
    help=f"A {', a '.join(list(KINDS.values())[:2])} or {list(KINDS.values())[2]} under a name: what is not given is not part of it.",
    make=_make_secret,
    split=_split_secret,
)
SECRETS = Named(SECRET, "secret", _put_secret)
