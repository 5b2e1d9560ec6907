"""Rules of who may connect, beside their twin; token buckets, beside the obvious rule."""

from __future__ import annotations

import socket
from fractions import Fraction
from types import SimpleNamespace

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshproxy.workers.accept import take_connection
from meshproxy.workers.connection_filters import connection_filters, try_bucket
from meshproxy.workers.listener import Chain, Listener
from meshproxy.workers.loop import Loop

from meshproxy.model import ConnectionLimit, FilterChain, Policy, RbacRules, Rule
from meshproxy.model.route import StringMatch
from meshproxy.proxy.rbac import finds_policy
from meshproxy.scoreboard.region import Region
from tests.oracles import rbac
from tests.oracles.rbac import Connection, Peer

ADDRESSES = st.sampled_from([
    "", "10.1.2.3:80", "10.1.3.255:8080", "127.0.0.1:0", "[2001:db8::1]:443", "[::]:1", "[::1]:65535", "255.255.255.255:80",
])
RANGES = st.sampled_from([
    "10.1.2.0/24", "10.1.2.3/23", "10.0.0.0/8", "0.0.0.0/0", "127.0.0.1/32", "::/0", "2001:db8::/33", "::1/128", "::ffff:0:0/96",
    "255.255.255.254/31",
])
NAMES = st.sampled_from(["", "a", "web.test", "spiffe://mesh/web", "CN=web,O=Test"])
MATCHES = st.builds(
    StringMatch, kind=st.sampled_from(["exact", "prefix", "suffix", "contains"]),
    value=st.sampled_from(["a", "web", ".test", "spiffe://mesh/web", "CN=web"]), ignore_case=st.booleans(),
) | st.builds(StringMatch, kind=st.just("regex"), value=st.sampled_from([".*", "[a-z.]+", "spiffe://.*/web"]))
PEERS = st.none() | st.builds(
    Peer, verified=st.booleans(), uri_sans=st.lists(NAMES, max_size=2).map(tuple), dns_sans=st.lists(NAMES, max_size=2).map(tuple),
    subject=NAMES,
)
CONNECTIONS = st.builds(Connection, remote=ADDRESSES, direct_remote=ADDRESSES, local=ADDRESSES, sni=NAMES, peer=PEERS)
LEAVES = st.one_of(
    st.just(Rule(kind="any")),
    st.builds(Rule, kind=st.sampled_from(["destination_ip", "source_ip", "direct_remote_ip", "remote_ip"]), range=RANGES),
    st.builds(Rule, kind=st.just("destination_port"), ports=st.sampled_from([(0, 0), (80, 80), (443, 8080), (0, 65535), (65535, 65535)])),
    st.builds(Rule, kind=st.just("server_name"), match=MATCHES),
    st.builds(Rule, kind=st.just("authenticated"), match=st.none() | MATCHES),
)
RULES = st.recursive(
    LEAVES,
    lambda inner: st.builds(Rule, kind=st.sampled_from(["all", "one_of"]), rules=st.lists(inner, min_size=1, max_size=3).map(tuple))
    | st.builds(Rule, kind=st.just("not"), rules=inner.map(lambda rule: (rule,))),
    max_leaves=6,
)
SOME = st.lists(RULES, min_size=1, max_size=2).map(tuple)
POLICIES = st.lists(st.builds(Policy, name=st.just("p"), permissions=SOME, principals=SOME), max_size=2).map(tuple)


def said(rules: RbacRules, connection: Connection) -> bool:
    peer = connection.peer
    told = None if peer is None else (
        peer.verified, [name.encode() for name in peer.uri_sans], [name.encode() for name in peer.dns_sans], peer.subject.encode()
    )
    return finds_policy(rules, connection.remote, connection.direct_remote, connection.local, connection.sni.encode() or None, told)


@given(st.builds(RbacRules, policies=POLICIES), CONNECTIONS)
def test_as_its_twin_says(rules: RbacRules, connection: Connection) -> None:
    assert said(rules, connection) == rbac.finds(rules, connection)


def test_a_certificate_that_nobody_verified_says_no_name() -> None:
    name = Rule(kind="authenticated", match=StringMatch(kind="prefix", value=""))
    rules = RbacRules(policies=(Policy(name="p", permissions=(Rule(kind="any"),), principals=(name,)),))

    assert said(rules, Connection(peer=Peer()))
    assert not said(rules, Connection(peer=Peer(verified=False)))
    assert not said(rules, Connection())


def test_without_a_name_any_tls_is_authenticated() -> None:
    rules = RbacRules(policies=(Policy(name="p", permissions=(Rule(kind="any"),), principals=(Rule(kind="authenticated"),)),))

    assert said(rules, Connection(peer=Peer()))
    assert said(rules, Connection(peer=Peer(verified=False)))
    assert not said(rules, Connection())


def test_a_connection_leaves_its_limit_also_when_it_could_not_be_served() -> None:
    """The plain Chain serves nothing: it raises."""
    region = Region.create(1)
    first = 4096
    loop = Loop(gevent.get_hub(), region, 0, 1 << 20, None)
    chain = FilterChain(filters=(ConnectionLimit(stat_prefix="c", max_connections=1),), terminal=None)
    filters = connection_filters(chain, 0, loop, region, 0, {"connection_limit:c": first})
    listener = Listener(loop, 100)
    listener.count_in(region, 0, first + 64)
    listener.renew(SimpleNamespace(max_connections=0), [Chain(loop, chain, region, 0, first + 64, None, filters)], None, None, False, None)
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with ours, pytest.raises(NotImplementedError):
            take_connection(listener, theirs.detach())

    assert list(region.read_cells(first, 2)) == [0, 0], "nobody was refused, and nobody is counted"
    assert listener.count == 0


@given(st.integers(1, 50), st.integers(1, 20), st.lists(st.integers(0, 400), max_size=60))
def test_a_bucket_gives_what_came_since(token_ns: int, most: int, steps_ns: list[int]) -> None:
    region = Region.create(1)
    start_ns = 10**15
    moments = [start_ns + sum(steps_ns[: at + 1]) for at in range(len(steps_ns))]
    inside, last, expected = Fraction(most), start_ns, []
    for now in moments:
        inside = min(Fraction(most), inside + Fraction(now - last, token_ns))
        last = now
        expected.append(inside >= 1)
        inside -= expected[-1]

    assert try_bucket(region, 4096, token_ns, most * token_ns, moments) == expected


def test_a_bucket_is_full_at_first_also_right_after_boot() -> None:
    assert try_bucket(Region.create(1), 4096, 10**9, 2 * 10**9, [1, 1, 1]) == [True, True, False]
