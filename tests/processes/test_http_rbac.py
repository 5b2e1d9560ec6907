"""Who may do what over HTTP, beside a real Envoy: the same answers, the same words in the log, the same counts."""

from __future__ import annotations

import dataclasses
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.envoy import PromptEnvoy
from tests.peers.process import PeerMissingError, free_ports
from tests.support.processes import Node, wait_until
from tests.support.wire import ask

RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
LOG = "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"
ANY = [{"any": True}]
LOOPBACK = {"address_prefix": "127.0.0.0", "prefix_len": 8}
TEN = {"address_prefix": "10.0.0.0", "prefix_len": 8}


def header(name: str, **match: Any) -> dict[str, Any]:
    return {"header": {"name": name, **match}}


def path(**match: Any) -> dict[str, Any]:
    return {"url_path": {"path": match}}


def filters(port: int) -> list[dict[str, Any]]:
    """Refusals by each condition, a shadow, one without rules, a log, and what only some may do."""
    refused: dict[str, Any] = {
        "exact path": {"permissions": [path(exact="/admin")], "principals": ANY},
        "path regex": {"permissions": [path(safe_regex={"regex": "/v[0-9]+/secret"})], "principals": ANY},
        "method": {"permissions": [header(":method", string_match={"exact": "DELETE"})], "principals": ANY},
        "host": {"permissions": [header(":authority", string_match={"prefix": "bad."})], "principals": ANY},
        "header there": {"permissions": [header("x-bad", present_match=True)], "principals": ANY},
        "header missing": {
            "permissions": [{"and_rules": {"rules": [path(prefix="/signed"), header("x-signature", present_match=False)]}}],
            "principals": ANY,
        },
        "number": {"permissions": [header("x-level", range_match={"start": 5, "end": 10})], "principals": ANY},
        "who says so": {"permissions": [path(prefix="/who")], "principals": [header("x-user", string_match={"exact": "eve"})]},
        "who asks for it": {"permissions": ANY, "principals": [path(prefix="/principal")]},
        "client": {"permissions": [path(prefix="/client")], "principals": [{"remote_ip": TEN}]},
        "source": {"permissions": [path(prefix="/source")], "principals": [{"source_ip": TEN}]},
        "peer": {"permissions": [path(prefix="/peer")], "principals": [{"direct_remote_ip": LOOPBACK}]},
        "not local": {"permissions": [path(prefix="/remote")], "principals": [{"not_id": {"remote_ip": LOOPBACK}}]},
        "port": {"permissions": [{"and_rules": {"rules": [path(prefix="/port"), {"destination_port": port}]}}], "principals": ANY},
        "address": {"permissions": [{"and_rules": {"rules": [path(prefix="/address"), {"destination_ip": LOOPBACK}]}}], "principals": ANY},
        "certificate": {"permissions": [path(prefix="/tls")], "principals": [{"not_id": {"authenticated": {}}}]},
    }
    shadow = {"policies": {"some": {"permissions": [path(prefix="/open")], "principals": ANY}}}
    allowed = {"all but one": {"permissions": [{"not_rule": path(prefix="/nobody")}], "principals": ANY}}
    logged = {"it": {"permissions": [path(prefix="/open")], "principals": ANY}}
    return [
        {"@type": RBAC, "rules": {"action": "DENY", "policies": refused}, "rules_stat_prefix": "first", "shadow_rules": shadow,
         "shadow_rules_stat_prefix": "dry."},
        {"@type": RBAC},
        {"@type": RBAC, "rules": {"action": "LOG", "policies": logged}},
        {"@type": RBAC, "rules": {"policies": allowed}},
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    target: str
    lines: tuple[str, ...] = ()
    method: str = "GET"
    host: str = "mesh.test"


FROM_TEN = ("X-Forwarded-For: 10.1.2.3",)
CASES = [
    *map(Case, ["/", "/open", "/admin", "/admin?x=1", "/admin/", "/ADMIN", "/x?/admin", "/v12/secret", "/v12/secrets", "/signed", "/who",
                "/principal", "/client", "/source", "/peer", "/remote", "/port", "/address", "/tls", "/nobody", "/%61dmin"]),
    Case("/", method="DELETE"), Case("/", method="POST"), Case("/admin", method="HEAD"),
    Case("/", host="bad.test"), Case("/", host="BAD.test"), Case("/", host="not.bad.test"),
    Case("/", ("X-Bad: 1",)), Case("/", ("X-Bad:",)), Case("/signed", ("X-Signature: 1",)),
    *(Case("/", (f"X-Level: {level}",)) for level in ("4", "5", "9", "10", "x", "")),
    Case("/", ("X-Level: 1", "X-Level: 7")), Case("/who", ("X-User: eve",)), Case("/who", ("X-User: adam", "X-User: eve")),
    *(Case(target, FROM_TEN) for target in ("/client", "/source", "/peer", "/remote")),
    Case("/client", ("X-Forwarded-For: nonsense",)), Case("/client", ("X-Forwarded-For: 10.1.2.3, 127.0.0.9",)),
    Case("/admin", ("Content-Type: application/grpc",), "POST"), Case("/nobody", ("Content-Type: application/grpc+proto",), "POST"),
    Case("/admin", ("Connection: upgrade", "Upgrade: websocket")), Case("/nobody", ("Connection: upgrade", "Upgrade: websocket")),
]  # fmt: skip


def configuration(directory: Path, port: int, admin_port: int) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": bootstrap.ROUTER}}
    manager = {
        "http_filters": [*({"name": f"rbac {at}", "typed_config": one} for at, one in enumerate(filters(port))), router],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": [bootstrap.file_log(str(directory / "log"), LOG)],
    }
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "passed"}}}]
    listener = bootstrap.http_listener("ingress", port, [bootstrap.virtual_host(routes)], **manager)
    return bootstrap.bootstrap([listener], [], admin_port)


@dataclasses.dataclass
class Told:
    """What one proxy did: of each case (status, body, gRPC status, words of the log), and its counters."""

    answers: list[tuple[int, bytes, str | None, str]]
    counters: dict[str, int]


def run(directory: Path, on_envoy: bool) -> Told:
    """All cases, on one of the two."""
    directory.mkdir()
    port, admin_port = free_ports(2)
    log = directory / "log"
    log.touch()
    config = configuration(directory, port, admin_port)
    with PromptEnvoy(directory, config, [port, admin_port]) if on_envoy else Node(directory, config):
        answers = []
        for number, case in enumerate(CASES):
            head = [f"{case.method} {case.target} HTTP/1.1", f"Host: {case.host}", f"X-Case: {number}", *case.lines, "", ""]
            answer = ask(port, "\r\n".join(head).encode())
            answers.append((answer.status, answer.body, answer.header("grpc-status")))
        assert wait_until(lambda: len(log.read_text().splitlines()) == len(CASES), 20)
        words = dict(line.split(" ", 1) for line in log.read_text().splitlines())
        return Told([(*answer, words[str(number)]) for number, answer in enumerate(answers)], counters(admin_port))


def counters(admin_port: int) -> dict[str, int]:
    """Those of rules, that are not 0."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/stats?filter=rbac") as answer:
        lines = answer.read().decode().splitlines()
    counted = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return {name: value for name, value in counted.items() if value}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return run(tmp_path_factory.mktemp("rbac") / "node", on_envoy=False)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Told:
    try:
        return run(tmp_path_factory.mktemp("rbac") / "envoy", on_envoy=True)
    except PeerMissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number} {CASES[number].method} {CASES[number].target}")
def test_the_same_answer(number: int, ours: Told, theirs: Told) -> None:
    assert ours.answers[number] == theirs.answers[number]


def test_the_same_counts(ours: Told, theirs: Told) -> None:
    assert ours.counters == theirs.counters


def test_some_pass_and_some_do_not(ours: Told) -> None:
    """So that the comparison has something to compare."""
    assert {answer[0] for answer in ours.answers} == {200, 403}
