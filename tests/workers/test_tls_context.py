"""What a context demands and shows: versions, certificates by name and key, peers' certificates, sessions, staples, keys in a log."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshproxy.model import (
    Certificate,
    DownstreamTls,
    PeerValidation,
    SanMatch,
    StringMatch,
    TicketKeys,
    TlsParameters,
    TrustedCa,
    UpstreamTls,
)
from meshproxy.model import KeyLog as KeyLogModel
from meshproxy.workers.tls_context import SessionStore, TlsContext
from tests.support.certificates import Authority, Issued, ecdsa_key, rsa_key
from tests.support.metrics import LISTENER_SSL
from tests.workers.tls import Both, Conversation, Worker

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
BOTH = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority("nobody's")


def counted(context: TlsContext) -> dict[str, int]:
    """SSL counters that were counted, by name; which algorithms they were is left out."""
    return {LISTENER_SSL[at]: n for at, n in context.counted().items() if LISTENER_SSL[at].count(".") == 0}


def der(issued: Issued) -> bytes:
    return issued.certificate.public_bytes(serialization.Encoding.DER)


def spki(issued: Issued) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(issued.key.public_key().public_bytes(serialization.Encoding.DER, form)).digest()


# ---- what is shown ----


def shown(worker: Worker, context: TlsContext, name: str | None, *, rsa_only: bool = False) -> bytes:
    """The certificate (DER) that a client gets for a name."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if rsa_only:
        client.maximum_version = V12
        client.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    with Conversation(worker, context, client, name=name) as talk:
        return talk.peer.shake().tls.getpeercert(True)


def test_the_certificate_goes_by_name_then_by_key(worker: Worker) -> None:
    issue = worker.authority.issue
    issued = {
        "first": issue("first.test", key=rsa_key()), "exact": issue("a.mesh.test"), "wild": issue("*.mesh.test"),
        "exact-rsa": issue("a.mesh.test", key=rsa_key()),
    }
    context = worker.context(DownstreamTls(certificates=tuple(issued)), worker.secrets(**issued))

    assert shown(worker, context, "a.mesh.test") == der(issued["exact"])
    assert shown(worker, context, "A.MESH.test") == der(issued["exact"])
    assert shown(worker, context, "a.mesh.test", rsa_only=True) == der(issued["exact-rsa"])
    assert shown(worker, context, "b.mesh.test") == der(issued["wild"])
    assert shown(worker, context, "b.mesh.test", rsa_only=True) == der(issued["first"])      # nothing fits: the first
    assert shown(worker, context, "a.b.mesh.test") == der(issued["first"])                   # a wildcard is one label
    assert shown(worker, context, "first.test") == der(issued["first"])
    assert shown(worker, context, None) == der(issued["exact"])                              # no name: by key
    assert shown(worker, context, None, rsa_only=True) == der(issued["first"])


def test_a_name_that_no_certificate_has_may_be_served_by_key(worker: Worker) -> None:
    issued = {"rsa": worker.authority.issue("r.test", key=rsa_key()), "ecdsa": worker.authority.issue("e.test")}
    for full_scan, expected in ((False, "rsa"), (True, "ecdsa")):
        model = DownstreamTls(certificates=("rsa", "ecdsa"), full_scan_certs_on_sni_mismatch=full_scan)
        assert shown(worker, worker.context(model, worker.secrets(**issued)), "other.test") == der(issued[expected])


def test_the_chain_is_shown(worker: Worker) -> None:
    middle = Authority("middle", worker.authority)
    context = worker.context(secrets=worker.secrets(server=middle.issue("mesh.test")))
    with Conversation(worker, context, worker.client()) as talk:
        talk.peer.shake()                                            # the client trusts the root only


def test_whom_we_trust_is_not_shown(worker: Worker) -> None:
    """The chain is the secret's, also where the authority that clients are checked by has issued it too."""
    issued = worker.authority.issue("mesh.test")
    model = DownstreamTls(certificates=("server",), validation=PeerValidation(trusted_ca="ca"))
    with Conversation(worker, worker.context(model, worker.secrets(server=issued)), worker.client()) as talk:
        chain = talk.peer.shake().tls._sslobj.get_unverified_chain()

        assert [each.public_bytes() for each in chain] == [issued.pem.decode()]


@pytest.mark.parametrize(("params", "expected"), [
    (TlsParameters(), "TLSv1.3"), (TlsParameters(max_version="1.2"), "TLSv1.2"),
    (TlsParameters(min_version="1.0", max_version="1.1", ciphers=("ECDHE-ECDSA-AES128-SHA",)), "TLSv1.1"),
    (TlsParameters(min_version="1.0", max_version="1.0", ciphers=("ECDHE-ECDSA-AES128-SHA",)), "TLSv1"),
])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_versions(worker: Worker, params: TlsParameters, expected: str) -> None:
    context = worker.context(DownstreamTls(certificates=("server",), params=params))
    client = worker.client(minimum=ssl.TLSVersion.TLSv1)
    client.set_ciphers("DEFAULT@SECLEVEL=0")
    with Conversation(worker, context, client) as talk:
        assert talk.peer.shake().tls.version() == expected
        assert context.counted()[next(at for at, name in LISTENER_SSL.items() if name == f"versions.{expected}")] == 1


def test_ciphers_are_ours_to_choose_unless_the_client_may(worker: Worker) -> None:
    secrets = worker.secrets(server=worker.authority.issue("mesh.test"))
    ours, theirs = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"
    client = worker.client(maximum=V12)
    client.set_ciphers(f"{theirs}:{ours}")
    for prefer_client, expected in ((False, ours), (True, theirs)):
        params = TlsParameters(ciphers=(ours, theirs))
        context = worker.context(DownstreamTls(certificates=("server",), params=params, prefer_client_ciphers=prefer_client), secrets)
        with Conversation(worker, context, client) as talk:
            assert talk.peer.shake().tls.cipher()[0] == expected


@pytest.mark.parametrize(("ours", "theirs", "expected"), [
    (("h2", "http/1.1"), ("http/1.1", "h2"), b"h2"), (("http/1.1",), ("h2", "http/1.1"), b"http/1.1"), (("h2",), ("spdy",), None),
    ((), ("h2",), None), (("h2",), (), None),
])
def test_alpn_is_by_our_order(worker: Worker, ours: tuple[str, ...], theirs: tuple[str, ...], expected: bytes | None) -> None:
    context = worker.context(DownstreamTls(certificates=("server",), alpn=ours))
    with Conversation(worker, context, worker.client(alpn=theirs)) as talk:
        talk.peer.shake()
        assert talk.end.alpn == expected


# ---- what a client must show ----


def verdict(worker: Worker, validation: PeerValidation | None, own: Issued | None, *, require: bool = True, version: ssl.TLSVersion = V13,
            **secrets: object) -> tuple[bool, dict[str, int]]:
    """Whether a client with such a certificate is served, and what was counted."""
    model = DownstreamTls(certificates=("server",), validation=validation, require_client_certificate=require)
    context = worker.context(model, {**worker.basic, **secrets})
    with Conversation(worker, context, worker.client(minimum=version, maximum=version, own=own), echoes=True) as talk:
        try:
            talk.peer.shake()
            talk.peer.send(b"?")
            served = talk.peer.read(1) == b"?"
        except (ssl.SSLError, AssertionError):
            served = False
        talk.until(lambda: bool(talk.events("connected") or talk.events("closed")))
        assert served == bool(talk.events("connected"))
        return served, counted(context)


CA = PeerValidation(trusted_ca="ca")


@BOTH
def test_who_is_served_with_an_authority(worker: Worker, stranger: Authority, version: ssl.TLSVersion) -> None:
    good, other = worker.authority.issue("client"), stranger.issue("client")
    ok = {"handshake": 1}

    assert verdict(worker, CA, good, version=version) == (True, ok)
    assert verdict(worker, CA, other, version=version) == (False, {"fail_verify_error": 1})
    assert verdict(worker, CA, None, version=version) == (False, {"fail_verify_no_cert": 1})
    assert verdict(worker, CA, good, require=False, version=version) == (True, ok)
    assert verdict(worker, CA, None, require=False, version=version) == (True, {"handshake": 1, "no_certificate": 1})
    assert verdict(worker, CA, other, require=False, version=version) == (False, {"fail_verify_error": 1})
    assert verdict(worker, None, other, version=version) == (True, ok)
    assert verdict(worker, None, None, version=version) == (False, {"fail_verify_no_cert": 1})


def test_an_untrusted_certificate_may_be_accepted_and_told(worker: Worker, stranger: Authority) -> None:
    validation = PeerValidation(trusted_ca="ca", accept_untrusted=True)
    assert verdict(worker, validation, stranger.issue("client")) == (True, {"handshake": 1, "fail_verify_error": 1})


def test_time_counts_unless_told_otherwise(worker: Worker) -> None:
    over, early = worker.authority.issue("c", valid_from_days=-9, valid_days=-1), worker.authority.issue("c", valid_from_days=1)
    for issued in (over, early):
        assert verdict(worker, CA, issued) == (False, {"fail_verify_error": 1})
        assert verdict(worker, PeerValidation(trusted_ca="ca", allow_expired=True), issued)[0]


def test_depth_and_an_intermediate_as_trust_anchor(worker: Worker) -> None:
    middle = Authority("middle", worker.authority)
    lower = Authority("lower", middle)
    issued = lower.issue("client")
    assert verdict(worker, CA, issued)[0]
    assert not verdict(worker, PeerValidation(trusted_ca="ca", max_depth=1), issued)[0]
    assert verdict(worker, CA, issued, ca=TrustedCa(pem=middle.pem))[0]
    alone = Issued(issued.certificate, issued.key)
    assert not verdict(worker, CA, alone)[0]
    assert verdict(worker, CA, alone, ca=TrustedCa(pem=lower.pem))[0]


def test_revoked_certificates(worker: Worker) -> None:
    gone, stays = worker.authority.issue("gone"), worker.authority.issue("stays")
    ca = TrustedCa(pem=worker.authority.pem, crl_pem=worker.authority.crl(gone))
    assert verdict(worker, CA, stays, ca=ca)[0]
    assert verdict(worker, CA, gone, ca=ca) == (False, {"fail_verify_error": 1})
    middle = Authority("middle", worker.authority)
    below = middle.issue("below")                                    # no list of the middle authority is there
    assert not verdict(worker, CA, below, ca=ca)[0]
    ca = TrustedCa(pem=worker.authority.pem, crl_pem=middle.crl(gone))
    assert verdict(worker, PeerValidation(trusted_ca="ca", only_leaf_crl=True), below, ca=ca)[0]


@pytest.mark.parametrize(("kind", "match", "san", "good"), [
    ("dns", ("exact", "a.test"), "a.test", True), ("dns", ("exact", "A.test"), "a.test", True),
    ("dns", ("exact", "b.test"), "a.test", False),
    ("dns", ("exact", "b.a.test"), "*.a.test", True), ("dns", ("exact", "c.b.a.test"), "*.a.test", False),
    ("dns", ("suffix", ".test"), "a.test", True), ("dns", ("prefix", "b"), "a.test", False),
    ("dns", ("regex", "[ab]\\.test"), "a.test", True), ("dns", ("regex", "a"), "a.test", False),
    ("uri", ("exact", "spiffe://mesh/ns/a"), "spiffe://mesh/ns/a", True), ("uri", ("prefix", "spiffe://mesh/"), "spiffe://mesh/ns/a", True),
    ("uri", ("exact", "spiffe://mesh/ns/b"), "spiffe://mesh/ns/a", False), ("dns", ("contains", "mesh"), "spiffe://mesh/ns/a", False),
    ("email", ("exact", "a@mesh.test"), "a@mesh.test", True), ("ip", ("exact", "10.0.0.1"), "10.0.0.1", True),
    ("ip", ("exact", "2001:db8::1"), "2001:db8::1", True), ("ip", ("prefix", "10.0."), "10.1.0.1", False),
])
def test_names_of_the_client(worker: Worker, kind: str, match: tuple[str, str], san: str, good: bool) -> None:
    validation = PeerValidation(trusted_ca="ca", sans=(SanMatch(kind, StringMatch(*match)),))
    expected = {"handshake": 1} if good else {"fail_verify_san": 1}
    assert verdict(worker, validation, worker.authority.issue(san)) == (good, expected)


def test_one_of_several_names_is_enough(worker: Worker) -> None:
    sans = tuple(SanMatch("dns", StringMatch("exact", name)) for name in ("x.test", "b.test"))
    assert verdict(worker, PeerValidation(trusted_ca="ca", sans=sans), worker.authority.issue("a.test", "b.test"))[0]
    assert not verdict(worker, PeerValidation(trusted_ca="ca", sans=sans), worker.authority.issue("a.test"))[0]


def test_pins_and_hashes(worker: Worker, stranger: Authority) -> None:
    """Without an authority they alone decide; with one both must hold; of pins and hashes one is enough."""
    known, unknown, foreign = worker.authority.issue("a"), worker.authority.issue("a"), stranger.issue("a")
    digest = hashlib.sha256(der(known)).digest()
    for validation in (
        PeerValidation(spki_pins=(spki(known),)), PeerValidation(hashes=(digest,)),
        PeerValidation(spki_pins=(bytes(32),), hashes=(digest,)),
    ):
        assert verdict(worker, validation, known) == (True, {"handshake": 1})
        assert verdict(worker, validation, unknown) == (False, {"fail_verify_cert_hash": 1})
    with_authority = PeerValidation(trusted_ca="ca", spki_pins=(spki(foreign), spki(known)))
    assert verdict(worker, with_authority, known)[0]
    assert verdict(worker, with_authority, foreign) == (False, {"fail_verify_error": 1})


def test_facts_of_the_client(worker: Worker) -> None:
    own = worker.authority.issue("client.test", "spiffe://mesh/ns/a", subject="a client")
    context = worker.context(DownstreamTls(certificates=("server",), validation=CA, require_client_certificate=True))
    with Conversation(worker, context, worker.client(own=own)) as talk:
        talk.peer.shake()
        talk.until(lambda: bool(talk.events("connected")))
        facts = talk.end.facts
    assert (facts["subject"], facts["issuer"], facts["sni"]) == (b"CN=a client", b"CN=test CA", b"mesh.test")
    serial = own.certificate.serial_number
    assert facts["serial"].decode() == serial.to_bytes((serial.bit_length() + 7) // 8, "big").hex()
    assert facts["fingerprint"].decode() == hashlib.sha256(der(own)).hexdigest()
    assert (facts["uri"], facts["dns"], facts["verified"]) == ([b"spiffe://mesh/ns/a"], [b"client.test"], True)
    assert re.fullmatch(rb"-----BEGIN%20CERTIFICATE-----%0A[A-Za-z0-9%]+-----END%20CERTIFICATE-----%0A", facts["pem"])


# ---- sessions ----


def resumed(worker: Worker, first: TlsContext, second: TlsContext, client: ssl.SSLContext) -> bool:
    """Whether a session that one context gave is resumed by the other."""
    with Conversation(worker, first, client, echoes=True) as talk:
        talk.peer.shake()
        talk.peer.send(b"x")
        talk.peer.read(1)                                            # the tickets of TLS 1.3 come before it
        session = talk.peer.tls.session
    with Conversation(worker, second, client, session=session, echoes=True) as talk:
        talk.peer.shake()
        talk.peer.send(b"y")
        assert talk.peer.read(1) == b"y"
        assert talk.end.facts["resumed"] == talk.peer.tls.session_reused
        return talk.peer.tls.session_reused


@BOTH
def test_a_ticket_of_one_worker_is_taken_by_another(worker: Worker, version: ssl.TLSVersion) -> None:
    client = worker.client(minimum=version, maximum=version)
    first, second, other_node = worker.context(), worker.context(), worker.context(root=b"other" * 8)
    assert resumed(worker, first, second, client)
    assert counted(second)["session_reused"] == 1
    assert not resumed(worker, first, other_node, client)


@BOTH
def test_configured_ticket_keys(worker: Worker, version: ssl.TLSVersion) -> None:
    client = worker.client(minimum=version, maximum=version)
    model = DownstreamTls(certificates=("server",), ticket_keys="tickets")
    old, new = bytes(range(80)), bytes(range(100, 180))
    with_keys = [worker.context(model, {**worker.basic, "tickets": TicketKeys(keys=keys)}) for keys in ((old,), (new, old), (new,))]
    before, rotating, after = with_keys
    assert resumed(worker, before, rotating, client)
    assert resumed(worker, rotating, after, client)
    assert not resumed(worker, before, after, client)


@BOTH
@pytest.mark.parametrize(("stateless", "stateful", "same", "other"), [
    (True, True, True, True), (False, True, True, False), (True, False, True, True), (False, False, False, False),
])
def test_kinds_of_resumption(worker: Worker, version: ssl.TLSVersion, stateless: bool, stateful: bool, same: bool, other: bool) -> None:
    client = worker.client(minimum=version, maximum=version)
    model = DownstreamTls(certificates=("server",), stateless_resumption=stateless, stateful_resumption=stateful)
    first, second = worker.context(model), worker.context(model)
    assert resumed(worker, first, first, client) == same
    assert resumed(worker, first, second, client) == other


@BOTH
def test_a_session_does_not_skip_what_is_demanded_now(worker: Worker, version: ssl.TLSVersion) -> None:
    own = worker.authority.issue("client")
    client = worker.client(minimum=version, maximum=version, own=own)
    lax = worker.context(DownstreamTls(certificates=("server",), validation=CA))
    named = PeerValidation(trusted_ca="ca", sans=(SanMatch("dns", StringMatch("exact", "client")),))
    strict = worker.context(DownstreamTls(certificates=("server",), validation=named))
    assert not resumed(worker, lax, strict, client)
    revoking = worker.context(
        DownstreamTls(certificates=("server",), validation=CA),
        {**worker.basic, "ca": TrustedCa(pem=worker.authority.pem, crl_pem=worker.authority.crl(worker.authority.issue("x")))},
    )
    assert not resumed(worker, lax, revoking, client)
    rotated = worker.context(
        DownstreamTls(certificates=("server",), validation=CA), worker.secrets(server=worker.authority.issue("mesh.test"))
    )
    assert resumed(worker, lax, rotated, client)                     # our own certificate may change
    assert resumed(worker, rotated, lax, client)


# ---- staples, keys in a log ----


@BOTH
@pytest.mark.parametrize(("policy", "staple", "expected", "counter"), [
    ("lenient", "good", "sent", "responses"), ("lenient", "old", "omitted", "omitted"), ("lenient", "none", "omitted", "omitted"),
    ("strict", "good", "sent", "responses"), ("strict", "old", "refused", "failed"), ("strict", "none", "omitted", "omitted"),
    ("must", "good", "sent", "responses"), ("must", "old", "refused", "failed"),
])
def test_staples(worker: Worker, version: ssl.TLSVersion, policy: str, staple: str, expected: str, counter: str) -> None:
    issued = worker.authority.issue("mesh.test")
    made = {"good": worker.authority.ocsp(issued), "old": worker.authority.ocsp(issued, valid_days=-1), "none": b""}[staple]
    secret = Certificate(chain_pem=issued.pem, key_pem=issued.key_pem(), ocsp_staple=made)
    context = worker.context(DownstreamTls(certificates=("server",), ocsp_policy=policy), {"server": secret})
    params = TlsParameters(max_version="1.3" if version is V13 else "1.2")
    both = Both(worker, context, worker.upstream(UpstreamTls(params=params)), wants_staple=True)
    both.turns(lambda: bool(both.client.events))

    served = both.client.events[0] == ("connected",)
    assert served == (expected != "refused")
    assert both.client.staple == (made if expected == "sent" else None)
    assert counted(context)["ocsp_staple_requests"] == 1
    assert counted(context)[f"ocsp_staple_{counter}"] == 1
    both.client.close()


def test_a_client_that_asks_for_no_staple_is_served(worker: Worker) -> None:
    issued = worker.authority.issue("mesh.test")
    secret = Certificate(chain_pem=issued.pem, key_pem=issued.key_pem(), ocsp_staple=worker.authority.ocsp(issued, valid_days=-1))
    context = worker.context(DownstreamTls(certificates=("server",), ocsp_policy="must"), {"server": secret})
    with Conversation(worker, context, worker.client()) as talk:
        talk.peer.shake()


def test_keys_are_logged_for_whom_it_was_asked(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for ranges, logged in (((), True), (("127.0.0.0/8",), False)):
        model = DownstreamTls(certificates=("server",), key_log=KeyLogModel(path=str(path), remote_ranges=ranges))
        with Conversation(worker, worker.context(model), worker.client()) as talk:
            talk.peer.shake()
        lines = path.read_text().splitlines()
        assert any(line.startswith("CLIENT_TRAFFIC_SECRET_0 ") for line in lines) == logged
        path.unlink()


# ---- our client ----


def reached(worker: Worker, model: UpstreamTls, issued: Issued, **more: object) -> tuple[bool, dict[str, int], bytes | None]:
    """Whether our client accepts a server, what it counted, and why not."""
    context = worker.upstream(model, {**worker.basic, **more.pop("secrets", {})})
    with Conversation(worker, context, worker.server(issued, **more), server=True) as talk:
        try:
            talk.peer.shake()
        except ssl.SSLError:
            talk.peer.move()
        talk.until(lambda: len(talk.end.events) > 0)
        return talk.end.events[0] == ("connected",), counted(context), talk.end.events[0][-1]


def test_which_servers_are_accepted(worker: Worker, stranger: Authority) -> None:
    good, foreign, renamed = worker.authority.issue("mesh.test"), stranger.issue("mesh.test"), worker.authority.issue("other.test")
    verify = UpstreamTls(validation=CA)
    named = UpstreamTls(validation=CA, auto_san_validation=True)
    assert reached(worker, UpstreamTls(), foreign)[0]                # no authority: anybody
    assert reached(worker, verify, good)[0]
    assert reached(worker, verify, renamed)[0]                       # nobody asked for a name
    accepted, counters, failure = reached(worker, verify, foreign)
    assert (accepted, counters) == (False, {"fail_verify_error": 1})
    assert failure == b"TLS_error: certificate verify failed: unable to get local issuer certificate"
    assert reached(worker, named, good)[0]
    assert reached(worker, named, renamed)[:2] == (False, {"fail_verify_san": 1})


@BOTH
@pytest.mark.parametrize("enforce", [True, False])
def test_what_a_servers_key_may_be_used_for(worker: Worker, version: ssl.TLSVersion, enforce: bool) -> None:
    no = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
    )
    model = UpstreamTls(params=TlsParameters(max_version="1.3"), enforce_rsa_key_usage=enforce)
    for signs in (True, False):
        usage = x509.KeyUsage(digital_signature=signs, key_encipherment=not signs, **no)
        issued = worker.authority.issue("mesh.test", key=rsa_key(), usage=usage)
        accepted, counters, _ = reached(worker, model, issued, maximum=version)
        assert accepted == (signs or not enforce)
        assert counters.get("was_key_usage_invalid", 0) == (not signs)


def test_our_client_shows_its_certificate(worker: Worker) -> None:
    own = worker.authority.issue("client")
    server = worker.authority.issue("mesh.test")
    assert reached(worker, UpstreamTls(certificate="own"), server, asks=True, secrets=worker.secrets(own=own))[0]
    assert not reached(worker, UpstreamTls(), server, asks=True)[0]


@BOTH
@pytest.mark.parametrize("most", [0, 1, 2])
def test_our_client_resumes(worker: Worker, version: ssl.TLSVersion, most: int) -> None:
    context = worker.upstream(UpstreamTls(params=TlsParameters(max_version="1.3"), max_session_keys=most))
    python = worker.server(maximum=version)
    store = SessionStore(most) if most else None
    reused = []
    for _ in range(4):
        with Conversation(worker, context, python, server=True, sessions=store) as talk:
            talk.peer.shake()
            talk.peer.send(b"x")
            talk.until(lambda talk=talk: talk.end.data == b"x")
            reused.append(talk.peer.tls.session_reused)
    assert reused == [False, *[most > 0] * 3]


def test_a_session_of_other_rules_is_not_used(worker: Worker) -> None:
    store, python = SessionStore(2), worker.server()
    params = TlsParameters(max_version="1.3")
    for model, expected in (
        (UpstreamTls(params=params), False), (UpstreamTls(params=params), False), (UpstreamTls(params=params, validation=CA), False),
    ):
        context = worker.upstream(model, worker.basic)
        with Conversation(worker, context, python, server=True, sessions=store) as talk:
            talk.peer.shake()
            talk.peer.send(b"x")
            talk.until(lambda talk=talk: talk.end.data == b"x")
            assert talk.peer.tls.session_reused == expected


# ---- what is refused when a context is made ----


def refusal(worker: Worker, **certificate: object) -> str:
    issued = worker.authority.issue("a")
    made = Certificate(**{"chain_pem": issued.pem, "key_pem": issued.key_pem(), **certificate})
    with pytest.raises(ValueError) as refused:
        worker.context(secrets={"server": made})
    return str(refused.value)


def test_bad_certificates_are_named(worker: Worker) -> None:
    issued = worker.authority.issue("a")
    weak = worker.authority.issue("a", key=rsa_key(1024))
    assert refusal(worker, key_pem=worker.authority.issue("a").key_pem()) == 'secret "server": the private key is not the certificate\'s'
    assert refusal(worker, chain_pem=b"nonsense").startswith('secret "server": no certificate in PEM form could be read')
    assert refusal(worker, chain_pem=issued.pem, key_pem=issued.key_pem(b"secret"), passphrase=b"wrong").startswith(
        'secret "server": the private key cannot be read')
    assert "1024 bits is too weak" in refusal(worker, chain_pem=weak.pem, key_pem=weak.key_pem())
    assert "policy" in refused_staple(worker)


def refused_staple(worker: Worker) -> str:
    with pytest.raises(ValueError) as refused:
        worker.context(DownstreamTls(certificates=("server",), ocsp_policy="must"))
    return str(refused.value)


def test_an_encrypted_key_is_read(worker: Worker) -> None:
    issued = worker.authority.issue("mesh.test", key=ecdsa_key())
    made = Certificate(chain_pem=issued.pem, key_pem=issued.key_pem(b"secret"), passphrase=b"secret")
    with Conversation(worker, worker.context(secrets={"server": made}), worker.client()) as talk:
        talk.peer.shake()


@pytest.mark.parametrize("params", [
    TlsParameters(ciphers=("NO-SUCH",)), TlsParameters(curves=("P-1",)), TlsParameters(signature_algorithms=("x",)),
])
def test_unknown_algorithms_are_named(worker: Worker, params: TlsParameters) -> None:
    with pytest.raises(ValueError, match="known"):
        worker.context(DownstreamTls(certificates=("server",), params=params))


def test_a_secret_that_has_not_come_serves_nobody(worker: Worker) -> None:
    context = worker.context(secrets={"server": None})
    assert not context.ready
    with Conversation(worker, context, worker.client()) as talk:
        assert talk.until_closed()[2] == b"TLS_error: a secret has not come yet"
