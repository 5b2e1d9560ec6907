"""The node's own Consul in native YAML: where it is, and what the node registers there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from meshproxy.config.native.discovery import CONSUL_SERVER, make_server
from meshproxy.config.native.kinds import Definitions, Duration, ListOf, Text, Whole, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, did_you_mean, told
from meshproxy.model import Admin, ConsulConfig, ConsulNode, ConsulRegistration, Listener, SocketAddress

_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_MOST_META = 64
"""Consul's own bounds: 64 pairs, keys of 128 and values of 512 bytes."""


class Meta:
    """`{key: value}`, both texts, as Consul takes them."""

    label = "keys and texts"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f'{told(value)} is given where keys with texts are needed. Write "key: value" lines below.')
            return WRONG
        made = {}
        for key, given in value.items():
            if not _META_KEY.match(key):
                problems.error((path, key), f'"{key}" is no key that Consul takes. Use letters, digits, "_" and "-".')
            elif isinstance(given, (dict, list)) or given is None or len(str(given)) > 512:
                problems.error((path, key), f"{told(given)} is given where a text of at most 512 characters is needed. Put it in quotes.")
            else:
                made[key] = str(given).lower() if isinstance(given, bool) else str(given)
        if len(made) > _MOST_META:
            problems.error(path, f"{len(made)} pairs are more than the {_MOST_META} that Consul takes. Remove some.")
        return made

    def write(self, value: dict[str, str]) -> dict[str, str]:
        return dict(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}


REGISTRATION = Section(
    "registration",
    (
        Row("service", Text(), "The service that the node is an instance of.", required=True),
        Row("listener", Text(), "The listener that serves it: its address and port are told, and it comes and goes with it.",
            shown_default="the first, unless `port` is given"),
        Row("id", Text(), "The instance's ID, its own on this Consul agent.",
            shown_default="the service and the node's id or the host's name"),
        Row("address", Text(), "The address that is told.", shown_default="the listener's; of a wildcard, that of Consul's node"),
        Row("port", Whole(1, 65535), "The port that is told.", default=0, shown_default="the listener's"),
        Row("tags", ListOf(Text()), "Its tags.", default=(), shown_default="none"),
        Row("meta", Meta(), "Its meta data.", shown_default="none"),
        Row("weight", Whole(1, 65535), "Its share among the instances."),
        Row("warning_weight", Whole(1, 65535), "The same while a check warns."),
        Row("check", ListOf(Word("ttl", "ready", "tcp"), least=1),
            "How Consul knows that it lives: ttl = the agent says so, ready = Consul asks the admin API, tcp = it connects to the port.",
            "checks", shown_default="ttl"),
        Row("interval", Duration(zero="", least_s=1.0), "Between checks, and between looks whether Consul still has it.", "interval_s"),
        Row("deregister_after", Duration(zero="never", least_s=60.0), "Consul forgets an instance that is critical for so long.",
            "deregister_after_s"),
        Row("leave_wait", Duration(zero="not at all"), "How long connections are still taken after it was deregistered.", "leave_wait_s"),
    ),
    ConsulRegistration,
    help="A service that the node registers: its name, or a mapping.",
    short=lambda value: {"service": value} if isinstance(value, str) else None,
    shorten=lambda written: written["service"] if written.keys() == {"service"} else written,
    short_schemas=({"type": "string", "minLength": 1},),
    short_label="a service's name",
)


def _wrong_prefix(text: str) -> str:
    return f'"{text}" begins or ends with "/". Write the prefix as Consul has it, like mesh/edge.' if text != text.strip("/") else ""


def _make(values: Values, path: Path, problems: Problems) -> Any:
    own = {name: values.pop(name) for name in ("services", "config") if name in values}
    if "config" in own:
        own["config"] = ConsulConfig(prefix=own["config"])
    server = make_server(values, path, problems)
    return WRONG if server is WRONG else ConsulNode(server=server, **own)


def _split(consul: ConsulNode) -> Values:
    # What was read from Consul is written with the rest.
    server = consul.server
    return {**{field: getattr(server, field) for field in server.__struct_fields__}, "services": consul.services}


CONSUL = Section(
    "node_consul",
    (
        *CONSUL_SERVER.rows,
        Row("register", ListOf(REGISTRATION), "Services that the node registers, with checks, and takes out when it goes.", "services",
            default=(), shown_default="none"),
        Row("config", Text("prefix", _wrong_prefix), "A prefix of keys that hold more of this configuration; changes are followed.",
            default=None, shown_default="none"),
    ),
    ConsulNode,
    help="The node's own Consul, a local agent or a server: an address, or a mapping.",
    make=_make,
    split=_split,
    short=lambda value: {"address": value} if isinstance(value, str) else None,
    shorten=lambda written: written["address"] if written.keys() == {"address"} and isinstance(written["address"], str) else written,
    short_schemas=({"type": "string", "pattern": ":"},),
    short_label="an address",
    title="consul",
)


def resolved(consul: ConsulNode, listeners: Iterable[Listener], admin: Admin | None, path: Path, problems: Problems) -> ConsulNode:
    """Registrations with the listener that each is for; what cannot be registered is a problem."""
    known = {listener.name: listener for listener in listeners}
    made: list[ConsulRegistration] = []
    ids: set[str] = set()
    for index, each in enumerate(consul.services):
        place = ((path, "register"), index) if len(consul.services) > 1 else (path, "register")
        if not each.listener and not each.port:
            first = next((name for name, listener in known.items() if isinstance(listener.addresses[0], SocketAddress)), "")
            if not first and not problems.refused:
                problems.error(place, f'service "{each.service}": there is no TCP listener whose port could be told. Give a port.')
            each = msgspec.structs.replace(each, listener=first)
        elif each.listener and each.listener not in known:
            near = did_you_mean(each.listener, known)
            problems.error((place, "listener"), f'listener "{each.listener}" is not defined{near}. Correct the name.')
        elif each.listener and not isinstance(known[each.listener].addresses[0], SocketAddress):
            wrong = f'listener "{each.listener}" is a UNIX socket, which others cannot reach. Name one with a TCP address.'
            problems.error((place, "listener"), wrong)
        if "ready" in each.checks and (admin is None or not isinstance(admin.address, SocketAddress)):
            problems.error((place, "check"), "ready: Consul needs an admin API on a TCP address. Add `admin: 127.0.0.1:9901`, or use ttl.")
        name = each.id or each.service
        if name in ids:
            problems.error((place, "id"), f'two registrations of the node have the ID of "{name}". Give this one an id of its own.')
        ids.add(name)
        made.append(each)
    return msgspec.structs.replace(consul, services=tuple(made))
