"""What may be refused before the first fork of a worker: read, bind, give blocks, drop. Or: take over what a former master has."""

from __future__ import annotations

import importlib.util
import os
import resource
from dataclasses import dataclass, replace

import meshproxy
from meshproxy import priority
from meshproxy.errors import ConfigError, MeshproxyError
from meshproxy.ipc.control_path import control_path
from meshproxy.ipc.state_path import VARIABLE as STATE
from meshproxy.master import admin_socket, privileges
from meshproxy.master.configuration import Configuration, Versions
from meshproxy.master.control import open_control
from meshproxy.master.journal import Journal
from meshproxy.master.listeners import Bindings
from meshproxy.master.loader import Loaded, Refused, load_now
from meshproxy.master.node import Command, Node
from meshproxy.master.puts import keep
from meshproxy.master.rollout import Retirement
from meshproxy.master.slots import SlotTable
from meshproxy.master.systemd import Notifier
from meshproxy.master.upgrade import Inheritance
from meshproxy.model import HttpConnectionManager, Listener, ResourceKind, RouteTable, Secret
from meshproxy.model.snapshot import unpack
from meshproxy.scoreboard.blocks import PREDECESSOR, BlockAllocator
from meshproxy.scoreboard.region import Region

TICKET_ROOT_BYTES = 32


@dataclass(frozen=True)
class Start:
    """A node that is ready to have workers."""

    node: Node
    control_fd: int
    lanes: list[int]
    workers_asked: int
    """What command line or configuration say, 0 = one for each usable core."""
    workers_wanted: int
    foreign_pages: list[int]
    """Pages of the scoreboard that a former master's workers write."""
    cold: list[str]
    """Clusters whose endpoints are not known yet: the first workers wait for them."""


def prepare(
    command: Command, journal: Journal, legacy: Inheritance | None, systemd_fds: list[int], log_level: str | None,
) -> Start:
    """Raises ConfigError, BindError, ControlError or another MeshproxyError; nothing is left behind then."""
    _raise_fd_limit()
    priority.allow_return()
    loaded = load_now(command.entries.loader, command.config_path, command.env)
    if isinstance(loaded, Refused):
        raise ConfigError(loaded.problems)
    journal.level = log_level or loaded.settings.log_level
    for problem in loaded.warnings:
        journal.warning("configuration", about=str(problem))
    who = privileges.identity(loaded.process.user, loaded.process.group)
    asked = loaded.process.workers if command.workers < 0 else command.workers
    wanted = _workers_wanted(asked, legacy)
    lanes = _lanes(wanted, legacy)
    path = legacy.control_path if legacy else control_path(command.control or loaded.process.control, command.env, os.getuid())
    control_fd = legacy.control_fd if legacy else open_control(path, who)
    node = _node(command, journal, loaded, legacy, who, path, len(lanes))
    if legacy is not None:
        _add_brought(node, loaded, legacy)
    try:
        _bind(node, loaded, lanes, legacy, systemd_fds)
        cold = _configure(node, loaded, legacy)
        if legacy is None:
            write_pid_file(node)
            _write_admin_address(node)
        if node.idle and who.uid >= 0 and not priority.is_open_to_all():
            # Another user than before, to whom the way back from idle priority is closed.
            priority.come_back()
            node.idle = False
        _drop(node, who)
    except MeshproxyError:
        if legacy is None:
            os.unlink(path)
            node.bindings.close_all(unlink=True)
            admin_socket.install(node, admin_socket.NONE)
        raise
    return Start(node, control_fd, lanes, asked, wanted, legacy.pages if legacy else [], cold)


def _add_brought(node: Node, loaded: Loaded, legacy: Inheritance) -> None:
    """What control planes brought to the former master is there from the beginning."""
    kept = keep(legacy.brought, loaded.resources, loaded.settings, node.bindings.taken)
    names = {(each.kind, each.name) for each in kept.resources}
    loaded.resources = [each for each in loaded.resources if (each.kind, each.name) not in names] + kept.resources
    for text in kept.told:
        node.journal.warning("what a control plane brought goes", about=text)


def _write_admin_address(node: Node) -> None:
    """For who asked for any port; without a line end, as Envoy writes it."""
    path = node.command.admin_address_path
    if not path or node.admin_address is None:
        return
    try:
        with open(path, "w") as file:
            file.write(str(node.admin_address))
    except OSError as error:
        node.journal.error("admin address cannot be written", path=path, error=error.strerror)


def write_pid_file(node: Node) -> None:
    """Before the drop, because it is mostly in a directory of root's; the file itself is then the user's, for a later master to write."""
    path = node.configuration.process.pid_file
    if not path:
        return
    try:
        with open(path, "w") as file:
            file.write(f"{node.pid}\n")
            privileges.give(file.fileno(), node.who)
    except OSError as error:
        node.journal.error("pid file cannot be written", path=path, error=error.strerror)


def _node(
    command: Command, journal: Journal, loaded: Loaded, legacy: Inheritance | None, who: privileges.Identity, path: str, lanes: int,
) -> Node:
    region = Region.open(legacy.region_fd) if legacy else Region.create(_pages(lanes))
    allocator = BlockAllocator.inherit(region, legacy.rows, legacy.sinks) if legacy else BlockAllocator(region)
    node = Node(
        command=command, journal=journal, region=region, bindings=Bindings(who, command.config_path),
        configuration=Configuration(allocator, Versions(legacy.configuration if legacy else 0)),
        retirement=Retirement(allocator.reclaim), notifier=Notifier(command.env, os.getpid()), control_path=path, who=who,
        ticket_root=legacy.ticket_root if legacy and legacy.ticket_root else os.urandom(TICKET_ROOT_BYTES),
        owner=legacy is None, idle=bool(legacy and legacy.idle), restart_epoch=legacy.restart_epoch + 1 if legacy else 0, pid=os.getpid(),
        workers=SlotTable(replace(command.patience, hung_s=loaded.process.worker_hung_s)), agents=SlotTable(command.patience),
    )
    node.agents.slots.append(node.agent)
    # Not before the first worker serves, which has the processors to itself until then; or at once, when workers wait for what it finds.
    node.agent.due_s = None
    return node


def _bind(node: Node, loaded: Loaded, lanes: list[int], legacy: Inheritance | None, systemd_fds: list[int]) -> None:
    listeners = [unpack(each) for each in loaded.resources if each.kind is ResourceKind.LISTENER]
    node.bindings.offer(systemd_fds)
    if legacy:
        node.bindings.adopt(legacy.bindings, legacy.lanes)
        node.admin_fd, node.admin_address, node.admin_asked = legacy.admin_fd, legacy.admin_address, legacy.admin_asked
    else:
        node.bindings.lanes = list(lanes)
    node.bindings.bind(listeners)
    for lane in lanes:
        if lane not in node.bindings.lanes:
            node.bindings.add_lane(lane)
    if (admin := admin_socket.replacement(node, loaded.settings.admin)) is not None:
        node.admin_fd, node.admin_address, node.admin_asked = admin.fd, admin.address, admin.asked
    for address in node.bindings.unclaimed():
        node.journal.warning("systemd gives a socket that no listener names", address=address)


def _configure(node: Node, loaded: Loaded, legacy: Inheritance | None) -> list[str]:
    """The first configuration; gives its clusters that wait for the agent. Over an upgrade none do: a new master has no agent yet."""
    configuration = node.configuration
    change = configuration.prepare_all(loaded.resources, loaded.settings, loaded.process)
    cold = [] if legacy else configuration.cold(change.upserts) + _asked_of_control_planes(loaded)
    configuration.commit(change)
    if legacy:
        clusters = {each.name for each in loaded.resources if each.kind is ResourceKind.CLUSTER and unpack(each).discovery != "static"}
        # Those of a cluster that has only IP addresses now are in the table already.
        clusters -= {each.name for each in change.upserts if each.kind is ResourceKind.ENDPOINTS}
        found = configuration.prepare([each for each in legacy.endpoints if each.name in clusters])
        configuration.commit(found)
        node.retirement.add(0, [PREDECESSOR], [])
    configuration.number = change.version
    configuration.note_rows(change)
    return cold


def _asked_of_control_planes(loaded: Loaded) -> list[str]:
    """What of the node is not in its file: for the log, should it be waited for too long."""
    asked = [name for name in ("cds", "lds") if getattr(loaded.settings.dynamic, name) is not None]
    for each in loaded.resources:
        value = unpack(each)
        if isinstance(value, Listener):
            managers = (chain.terminal for chain in value.all_chains if isinstance(chain.terminal, HttpConnectionManager))
            asked += [f"rds {manager.route_table}" for manager in managers if manager.rds is not None]
        elif isinstance(value, Secret) and value.source is not None and value.value is None:
            asked.append(f"sds {value.sds_name or value.name}")
        elif isinstance(value, RouteTable) and value.catalog is not None:
            asked.append(f"catalogue of {value.name}")
    return asked


def _drop(node: Node, who: privileges.Identity) -> None:
    consul = node.configuration.settings.consul
    if consul is not None and consul.config is not None:
        _make_state_directory(node, who)
    spec = importlib.util.find_spec("gevent")
    config = "" if "://" in node.command.config_path else node.command.config_path
    must_read = [os.__file__, meshproxy.__file__ or "", config, (spec.origin if spec else "") or ""]
    secrets = [unpack(each) for each in node.configuration.resources() if each.kind is ResourceKind.SECRET]
    must_read += [file for secret in secrets for file in secret.files.named]
    # A control plane may bring a listener with any port later.
    any_port = node.bindings.has_privileged_ports() or node.configuration.settings.dynamic.lds is not None
    capabilities = [privileges.CAP_NET_BIND_SERVICE] if any_port else []
    capabilities += [privileges.CAP_NET_RAW] if node.bindings.has_transparent() else []
    if unreadable := privileges.drop(who, capabilities, [path for path in must_read if path]):
        node.journal.warning("the user cannot read what the node needs, so the master keeps CAP_DAC_READ_SEARCH",
                             user=who.name, files=" ".join(unreadable),
                             remedy="install where every user may read, and let the user read keys: else they are not followed")


def _make_state_directory(node: Node, who: privileges.Identity) -> None:
    """For the user that the node runs as, to whom the place may be closed."""
    path = node.command.env.get(STATE, "")
    try:
        if path:
            os.makedirs(path, 0o700, exist_ok=True)
            if who.uid >= 0:
                os.chown(path, who.uid, who.gid)
    except OSError as error:
        remedy = f"name another directory in {STATE}"
        node.journal.warning("no state directory", path=path, error=error.strerror, remedy=remedy)


def _workers_wanted(asked: int, legacy: Inheritance | None) -> int:
    """As asked (0 = one for each usable core); over an upgrade as many as there are, unless another number is asked for now."""
    if legacy and legacy.workers_asked == asked:
        return len(legacy.lanes)
    return asked or len(os.sched_getaffinity(0))


def _lanes(wanted: int, legacy: Inheritance | None) -> list[int]:
    """Those of a former master and as many more as are missing. Superfluous ones go after the take-over, when they can be drained."""
    lanes = list(legacy.lanes) if legacy else []
    return lanes + [number for number in range(wanted) if number not in lanes][: max(wanted - len(lanes), 0)]


def _pages(workers: int) -> int:
    """Of the scoreboard: for workers that may be added, and as many again because two generations live side by side in an upgrade."""
    return min(2 * max(workers * 2, len(os.sched_getaffinity(0)) * 2, 4), 128)


def _raise_fd_limit() -> None:
    """As far as it is allowed without asking: a proxy has two descriptors for each connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
