"""Whatever stands anywhere in a file, the answer is a configuration or a list of problems, never an exception of another kind."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from meshproxy.config import document
from meshproxy.config.load import load_text
from meshproxy.errors import ConfigError, Problem
from tests.config.envoy.bootstraps import changed
from tests.config.envoy.verdicts import ACCEPTED
from tests.support.certificates import Authority

ROOT = Path(__file__).resolve().parents[2]
JUNK: list[Any] = [
    *(None, True, -1, 0, 2**70, 1.5, float("1e308"), "", "x", "/", "${", "${A}", "%", "0s", "9" * 30, "a\nb", "\x7f", "é"),
    *("@type", "unix:", "[::1", ":", [], [[]], [None], ["x", "x"], {}, {"": 1}, {"x": {}}, {"unix": 5}, {"exact": None}),
    {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"},
    {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "x"},
]


def places(data: Any, path: tuple = ()) -> list[tuple]:
    """Every place inside."""
    found = []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        found += [(*path, key), *places(value, (*path, key))]
    return found


def mutated(data: Any, rng: random.Random) -> Any:
    """One to three places changed: replaced by junk, taken out, renamed, doubled, or swapped with another."""
    made = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        everywhere = places(made)
        if not everywhere:
            break
        *parents, last = rng.choice(everywhere)
        at = made
        for key in parents:
            at = at[key]
        how = rng.randrange(6)
        if how == 0:
            del at[last]
        elif how == 1 and isinstance(at, dict):
            at[f"{last}_"] = at.pop(last)
        elif how == 2 and isinstance(at, list):
            at.append(copy.deepcopy(at[last]))
        elif how == 3:
            source: Any = data
            for key in rng.choice(places(data)):
                source = source[key]
            at[last] = copy.deepcopy(source)
        else:
            at[last] = copy.deepcopy(rng.choice(JUNK))
    return made


def problems_of(text: str) -> list[Problem]:
    try:
        load_text(text, {})
    except ConfigError as error:
        return error.problems
    return []


def everything_of_envoys() -> list[dict[str, Any]]:
    return [changed(changes) for changes in ACCEPTED.values()]


def everything_of_ours() -> list[dict[str, Any]]:
    files = [document.read(str(ROOT / "conf" / name)).data for name in ("meshproxy.yaml", "quickstart.yaml")]
    return [{**data, "workers": 1, "user": "u"} for data in files] + [transports()] * 2


def transports() -> dict[str, Any]:
    """A native configuration with something of every kind of transport."""
    authority = Authority()
    issued = authority.issue("a.example")
    pair = {"cert": {"inline": issued.pem.decode()}, "key": {"inline": issued.key_pem().decode()}}
    rules = {"policies": {"p": {"who": [{"remote_ip": "10.0.0.0/8"}, {"not": "any"}], "may": {"one_of": [{"destination_port": [1, 9]}]}}}}
    http_rules = {"policies": {"p": {"may": [{"path": "/a"}, {"headers": {"x-a": {"range": [1, 9]}}}, {"methods": "GET"}]}}}
    asked = {"client_ca": {"secret": "roots"}, "sans": ["spiffe://x/y"]}
    tls = {**pair, **asked, "min_version": "1.2", "ciphers": ["AES128-SHA"], "key_log": "/k"}
    limits = ["sni_cluster", {"connection_limit": 3}]
    return {
        "secrets": {"server": pair, "roots": {"ca": {"inline": authority.pem.decode()}}, "tickets": {"ticket_keys": {"inline": "k" * 80}}},
        "listeners": [
            {"address": "127.0.0.1:1", "to": "a", "tls": {**tls, "mode": "permissive"}, "proxy_protocol": {"versions": [1]}},
            {
                "address": "127.0.0.1:2",
                "chains": [
                    {"match": ["a.example"], "tls": {"certificates": "server", "ticket_keys": {"secret": "tickets"}}, "to": "a"},
                    {"match": {"source_ports": [1]}, "tcp": {"cluster": {"a": 1}}, "connection_filters": limits},
                ],
                "default_chain": {"send": "x", "connection_filters": [{"rbac": {"rules": rules}}, {"local_rate_limit": {"max_tokens": 1}}]},
                "listener_filters": ["tls_inspector", {"proxy_protocol": {"pass_tlvs": "all"}}],
            },
            {"address": "127.0.0.1:3", "respond": 200,
             "filters": ["grpc_web", {"grpc_stats": {"methods": "a.B/C"}}, {"rbac": {"rules": http_rules}}],
             "http": {"http2": {"keep_alive": {"timeout": "1s"}}, "client_cert_header": {"set": ["uri"]}}},
        ],
        "clusters": {
            "a": {"endpoints": "a.example:1", "protocol": "auto", "tls": {"ca": {"secret": "roots"}, **pair}, "proxy_protocol": "v2"},
        },
    }


@pytest.mark.parametrize(("seed", "form"), [(1, "native"), (2, "envoy")])
def test_only_problems_come_out(seed: int, form: str, long_run: bool) -> None:
    rng = random.Random(seed)
    bases = everything_of_ours() if form == "native" else everything_of_envoys()
    refused = 0
    rounds = (20_000 if form == "native" else 3_000) if long_run else 300
    for _ in range(rounds):
        text = json.dumps(mutated(rng.choice(bases), rng))
        refused += bool(problems_of(text))

    assert 0 < refused < rounds
