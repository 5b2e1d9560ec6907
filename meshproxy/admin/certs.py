"""`/certs`: the certificates and CAs of each TLS context, in Envoy's shape."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from meshproxy.agent.certificates import CertificateFacts
from meshproxy.agent.view import NodeView
from meshproxy.model import PeerValidation


def certificates(view: NodeView, now_s: float) -> list[dict]:
    """An entry for each way of securing connections that is in use; the same one once."""
    entries: list[dict] = []
    for names, validation in _contexts(view):
        entry = {
            "ca_cert": _told(view, (validation.trusted_ca,) if validation is not None else (), now_s),
            "cert_chain": _told(view, names, now_s),
        }
        if entry not in entries and (entry["ca_cert"] or entry["cert_chain"]):
            entries.append(entry)
    return entries


def _contexts(view: NodeView) -> Iterator[tuple[tuple[str, ...], PeerValidation | None]]:
    """The certificates' secrets and the validation of each TLS context, listeners first."""
    for listener in view.listeners():
        for chain in listener.all_chains:
            if chain.tls is not None:
                yield chain.tls.certificates, chain.tls.validation
    for cluster in view.clusters():
        if cluster.tls is not None:
            yield (cluster.tls.certificate,) if cluster.tls.certificate else (), cluster.tls.validation


def _told(view: NodeView, names: tuple[str, ...], now_s: float) -> list[dict]:
    return [_details(facts, now_s) for name in names if (facts := view.certificates.get(name)) is not None]


def _details(facts: CertificateFacts, now_s: float) -> dict:
    details = {
        "path": facts.path,
        "serial_number": facts.serial,
        "subject_alt_names": [{word: name} for word, name in facts.sans],
        # Numbers of 64 bits are strings in protobuf's JSON.
        "days_until_expiration": str(facts.days_left(now_s)),
        "valid_from": _moment(facts.valid_from_s),
        "expiration_time": _moment(facts.expires_s),
    }
    if facts.staple is not None:
        details["ocsp_details"] = {"valid_from": _moment(facts.staple[0]), "expiration": _moment(facts.staple[1])}
    return details


def _moment(unix_s: float) -> str:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
