"""The secrets that a configuration names: read, checked, and gathered under names that follow from where they come from.

A certificate that two listeners take from the same files is one secret, and its name stays when the files' content changes: that is what
lets it rotate without its listeners.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from meshproxy.clock import unix_s
from meshproxy.model import Certificate, ConfigSource, PeerValidation, Secret, SecretFiles, TicketKeys, TrustedCa
from meshproxy.model.xds import config_source_name

if TYPE_CHECKING:
    from meshproxy.config.problems import Path, Problems

MOST_BYTES = 4 << 20
"""The largest bundle of CAs in use has 0.3 MiB; a revocation list may have some MiB."""
TICKET_KEY_BYTES = 80
KINDS: dict[type, str] = {Certificate: "certificate", TrustedCa: "CA", TicketKeys: "ticket keys"}
"""What each kind of secret is called in a problem and at the beginning of a derived name."""

Value = Certificate | TrustedCa | TicketKeys


class Part(NamedTuple):
    """A piece of a secret, read: its bytes, the file that they are from (absolute; "" = inline), and where the configuration says so.
    `unread`: a problem with it was told."""

    content: bytes
    file: str
    path: Path
    unread: bool = False


class Unreadable(Exception):
    """A file of a secret cannot be read; the text says why and what to do."""


def read_file(file: str) -> bytes:
    """The whole file. Raises Unreadable."""
    try:
        with open(file, "rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        remedy = {"FileNotFoundError": "Check the path", "PermissionError": "Let the user that runs meshproxy read it"}
        reason = error.strerror or str(error)
        raise Unreadable(f'cannot read "{file}": {reason}. {remedy.get(type(error).__name__, "Name a regular file")}.') from None
    except ValueError as error:
        raise Unreadable(f'cannot read "{file}": {error}. Check the path.') from None
    if len(content) > MOST_BYTES:
        raise Unreadable(f'"{file}" has more than {MOST_BYTES >> 20} MiB. Name a smaller one.')
    return content


def passphrase_of(content: bytes) -> bytes:
    """Editors end a file with a line end, which is no part of a passphrase."""
    return content.removesuffix(b"\n").removesuffix(b"\r")


def derived_name(value: Value, files: SecretFiles) -> str:
    """The name of a secret that has none of its own: its files, or a hash when a part is not from a file."""
    kind = KINDS[type(value)]
    if isinstance(value, Certificate):
        parts = ((value.chain_pem, files.chain), (value.key_pem, files.key), (value.passphrase, files.passphrase),
                 (value.ocsp_staple, files.ocsp_staple))
    elif isinstance(value, TrustedCa):
        parts = ((value.pem, files.ca), (value.crl_pem, files.crl))
    else:
        parts = tuple(zip(value.keys, files.ticket_keys or [""] * len(value.keys), strict=False))
    given = [(content, file) for content, file in parts if content or file]
    if not given:
        return f"system {kind}"
    if all(file for _, file in given) and not files.watched_directory:
        return " ".join([kind, *dict.fromkeys(file for _, file in given)])
    digest = hashlib.sha256(files.watched_directory.encode())
    for content, file in parts:
        # With lengths, so that two pieces cannot be taken for two others.
        digest.update(f"\0{file}\0{len(content)}\0".encode() + (b"" if file else content))
    return f"{kind} {digest.hexdigest()[:16]}"


class Secrets:
    """All secrets of one configuration. Each method gives the secret's name, whatever is wrong with it: that is told to `problems`."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._made: dict[str, tuple[Secret, Path]] = {}
        self.sent_good: set[str] | None = None
        """Names of inline secrets of control planes that were found good; None = the secrets are a file's. One that is over is told and
        taken (who sent it sends the next), and one that soon will be is not told."""

    def all(self) -> tuple[Secret, ...]:
        """By name: in whichever order a file has them, the configuration is the same."""
        return tuple(self._made[name][0] for name in sorted(self._made))

    def names(self, kind: type) -> list[str]:
        """Of the secrets of a kind, for `Problems.unresolved`."""
        return [name for name, (secret, _) in self._made.items() if isinstance(secret.value, kind) or secret.value is None]

    def get(self, name: str) -> Secret | None:
        return self._made[name][0] if name in self._made else None

    def read(self, file: str, base: str, path: Path) -> Part:
        """A file, relative to the folder `base`."""
        absolute = os.path.abspath(os.path.join(base, file))
        try:
            return Part(read_file(absolute), absolute, path)
        except Unreadable as error:
            self._problems.error(path, str(error))
            return Part(b"", absolute, path, unread=True)

    def certificate(
        self, chain: Part, key: Part, path: Path, *, passphrase: Part | None = None, ocsp_staple: Part | None = None, name: str = "",
        watched_directory: str = "", sds: str = "",
    ) -> str:
        """A chain and its key."""
        value = Certificate(
            chain_pem=chain.content, key_pem=key.content, passphrase=passphrase_of(passphrase.content) if passphrase else b"",
            ocsp_staple=ocsp_staple.content if ocsp_staple else b"",
        )
        files = SecretFiles(
            chain=chain.file, key=key.file, passphrase=passphrase.file if passphrase else "",
            ocsp_staple=ocsp_staple.file if ocsp_staple else "", watched_directory=watched_directory, sds=sds,
        )
        parts = {"chain": chain, "key": key, "passphrase": passphrase, "ocsp_staple": ocsp_staple}
        return self._put(name, value, files, path, parts)

    def trusted_ca(
        self, ca: Part | None, path: Path, *, crl: Part | None = None, name: str = "", watched_directory: str = "", sds: str = ""
    ) -> str:
        """CAs and what they revoked; without `ca` the system's own."""
        value = TrustedCa(pem=ca.content if ca else b"", crl_pem=crl.content if crl else b"")
        files = SecretFiles(ca=ca.file if ca else "", crl=crl.file if crl else "", watched_directory=watched_directory, sds=sds)
        if ca is not None and not ca.content and not ca.file:
            # Bytes of nothing stand for the system's own.
            self._problems.error(ca.path, "it is empty. Give CA certificates in PEM form.")
        return self._put(name, value, files, path, {"ca": ca, "crl": crl})

    def ticket_keys(self, keys: list[Part], path: Path, *, name: str = "", sds: str = "") -> str:
        """Session ticket keys."""
        value = TicketKeys(keys=tuple(part.content for part in keys))
        named = tuple(part.file for part in keys)
        parts = {f"ticket_keys[{index}]": part for index, part in enumerate(keys)}
        return self._put(name, value, SecretFiles(ticket_keys=named if any(named) else (), sds=sds), path, parts)

    def awaited(self, sds_name: str, source: ConfigSource, path: Path, own_name: str = "") -> str:
        """A secret that a control plane sends. Without a name of its own it is the same one for all that ask the same for it."""
        if own_name:
            self._made.setdefault(own_name, (Secret(name=own_name, source=source, sds_name=sds_name), path))
            return own_name
        name = f"{sds_name} by {config_source_name(source)}"
        if any(service.initial_metadata or service.authority for service in source.services):
            # Who asks as somebody else may be given something else.
            name += f" {hashlib.sha256(repr(source.services).encode()).hexdigest()[:8]}"
        self._made.setdefault(name, (Secret(name=name, source=source, sds_name=sds_name), path))
        return name

    def has_rules(self, name: str, rules: PeerValidation) -> None:
        """The CA of this name is part of a context that says more."""
        if name in self._made:
            secret, path = self._made[name]
            digest = hashlib.sha256(msgspec.msgpack.encode(rules)).hexdigest()
            self._made[name] = (msgspec.structs.replace(secret, rules_digest=digest), path)

    def refer(self, kind: type, name: str, path: Path) -> str:
        """The field at `path` names a secret that may be defined further down."""
        self._problems.refer(KINDS[kind], name, path)
        return name

    def unresolved(self, remedy: str) -> None:
        """Refuses all references to secrets that are not there."""
        for kind, word in KINDS.items():
            self._problems.unresolved(word, self.names(kind), remedy)

    def _put(self, name: str, value: Value, files: SecretFiles, path: Path, parts: Mapping[str, Part | None]) -> str:
        secret = Secret(name=name or derived_name(value, files), value=value, files=files)
        if secret.name in self._made:
            other, _ = self._made[secret.name]
            if other != secret:
                self._problems.error(path, f'secret "{secret.name}" is defined twice. Rename or remove one.')
            return secret.name
        self._made[secret.name] = (secret, path)
        if any(part is not None and part.unread for part in parts.values()):
            return secret.name
        good = self.sent_good
        if good is not None and secret.name in good:
            return secret.name
        # Not at the top: a configuration without secrets does without the library.
        from meshproxy.config.certificates import findings

        listed = list(findings(value, files, unix_s()))
        if good is not None:
            listed = [found for found in listed if not (found.by_time and found.harmless)]
            listed = [found._replace(harmless=True) if found.by_time else found for found in listed]
            if not listed and not files.named:
                good.add(secret.name)
        for found in listed:
            tell = self._problems.warning if found.harmless else self._problems.error
            part = parts.get(found.part)
            tell(part.path if part is not None else path, _located(found.text, files, found.part))
        return secret.name


def _located(text: str, files: SecretFiles, part: str) -> str:
    file = file_of(files, part)
    return f'"{file}": {text}' if file else text


def file_of(files: SecretFiles, part: str) -> str:
    """The file that a part of a secret is from, "" when it is inline."""
    if part.startswith("ticket_keys["):
        index = int(part[len("ticket_keys[") : -1])
        return files.ticket_keys[index] if index < len(files.ticket_keys) else ""
    return getattr(files, part, "")


def read_again(secret: Secret) -> Secret:
    """The secret as its files are now; parts that are inline stay. Raises Unreadable."""
    value, files = secret.value, secret.files

    def now(file: str, kept: bytes) -> bytes:
        return read_file(file) if file else kept

    made: Value
    if isinstance(value, Certificate):
        made = Certificate(
            chain_pem=now(files.chain, value.chain_pem), key_pem=now(files.key, value.key_pem),
            passphrase=passphrase_of(now(files.passphrase, value.passphrase)), ocsp_staple=now(files.ocsp_staple, value.ocsp_staple),
        )
    elif isinstance(value, TrustedCa):
        made = TrustedCa(pem=now(files.ca, value.pem), crl_pem=now(files.crl, value.crl_pem))
    elif isinstance(value, TicketKeys):
        made = TicketKeys(keys=tuple(now(file, key) for file, key in zip(files.ticket_keys, value.keys, strict=True)))
    else:
        return secret
    return msgspec.structs.replace(secret, value=made)
