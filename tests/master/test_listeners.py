"""Real binds: who gets which socket, and what is said when there is none."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import subprocess
import sys

import pytest

from meshproxy.errors import BindError
from meshproxy.ipc.frames import close_all
from meshproxy.master.bind import Wish, bind, refusal
from meshproxy.master.listeners import Bindings
from meshproxy.master.privileges import Identity
from meshproxy.model import PipeAddress, SocketAddress
from tests.master.node import listener

NOBODY = Identity()


@pytest.fixture
def bindings():
    made = Bindings(NOBODY, "conf/node.yaml")
    made.lanes = [0, 1]
    yield made
    made.close_all(unlink=True)


def port_of(bindings: Bindings, one, index: int = 0) -> int:
    (row,) = bindings.rows([one])
    return int(row.addresses[index].rpartition(":")[2])


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


def test_the_first_bind_picks_the_port_and_the_other_lanes_follow(bindings: Bindings) -> None:
    one = listener("a")
    bindings.bind([one])

    ports = set()
    for lane in (0, 1):
        for _, fd in bindings.sockets_of([one], lane):
            with socket.socket(fileno=os.dup(fd)) as sock:
                ports.add(sock.getsockname()[1])

    assert ports == {port_of(bindings, one)}
    assert bindings.sockets_of([one], 0)[0][1] != bindings.sockets_of([one], 1)[0][1]
    assert not bindings.sockets_of([one], 0)[0][0].shared


def test_a_taken_port_is_named_though_it_would_be_shared(bindings: Bindings) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(BindError) as refused:
            bindings.bind([listener("ok"), listener("a", SocketAddress("127.0.0.1", port))])

    assert str(refused.value) == (
        f'listener "a": cannot bind 127.0.0.1:{port}: address already in use. '
        f"Stop who has it (`ss -ltnp 'sport = :{port}'` shows who) or use another port. (conf/node.yaml)"
    )
    assert bindings.rows([listener("ok")]) == []


def test_all_refusals_are_told_at_once(bindings: Bindings) -> None:
    wishes = [
        listener("a", SocketAddress("192.0.2.1", 80)), listener("b", PipeAddress("/no/such/dir/s")), listener("c", SocketAddress("x y", 1)),
    ]

    with pytest.raises(BindError) as refused:
        bindings.bind(wishes)

    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert "192.0.2.1:80: cannot assign requested address. This host has no such address" in lines[0]
    assert "/no/such/dir/s: no such file or directory. Make the directory first." in lines[1]


def test_two_listeners_cannot_have_one_address(bindings: Bindings) -> None:
    with pytest.raises(BindError, match=r'listener "b": cannot bind .*: listener "a" has it'):
        bindings.bind([listener("a", SocketAddress("127.0.0.1", 39999)), listener("b", SocketAddress("127.0.0.1", 39999))])


def test_a_privileged_port_comes_with_its_remedy() -> None:
    wish = Wish('listener "ingress"', SocketAddress("0.0.0.0", 80), place="conf/meshproxy.yaml")

    error = refusal(wish, PermissionError(13, "Permission denied"))

    assert str(error) == (
        'listener "ingress": cannot bind 0.0.0.0:80: permission denied. Grant CAP_NET_BIND_SERVICE or use a port above 1023. '
        "(conf/meshproxy.yaml)"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody without privileges")
def test_a_privileged_port_is_refused_to_who_may_not() -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) < 81:
            pytest.skip("this host lets everybody have port 80")
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        try:
            bind(Wish("l", SocketAddress("127.0.0.1", 79)))
        except BindError as error:
            os._exit(0 if "Grant CAP_NET_BIND_SERVICE" in str(error) else 2)
        os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
def test_ipv6_alone_and_both_families(bindings: Bindings) -> None:
    only, both = listener("only", SocketAddress("::", 0)), listener("both", SocketAddress("::", 0), ipv6_only=False)
    bindings.bind([only, both])

    socket.create_connection(("::1", port_of(bindings, only))).close()
    socket.create_connection(("127.0.0.1", port_of(bindings, both))).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(bindings, only)))


def test_freebind_listens_before_the_address_is_there(bindings: Bindings) -> None:
    bindings.bind([listener("a", SocketAddress("192.0.2.1", 0), freebind=True)])

    assert bindings.rows([listener("a", SocketAddress("192.0.2.1", 0))])[0].addresses[0].startswith("192.0.2.1:")


def test_a_unix_listener_is_shared_has_its_mode_and_replaces_a_stale_file(bindings: Bindings, tmp_path) -> None:
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    one = listener("a", PipeAddress(path, 0o640))

    bindings.bind([one])

    assert os.stat(path).st_mode & 0o777 == 0o640
    (first, fd), (second, same) = bindings.sockets_of([one], 0)[0], bindings.sockets_of([one], 1)[0]
    assert (first.shared, second.shared, fd) == (True, True, same)
    bindings.close_all(unlink=True)
    assert not os.path.exists(path)


def test_mode_and_backlog_change_on_a_socket_that_is_bound(bindings: Bindings, tmp_path) -> None:
    path = str(tmp_path / "a.sock")
    bindings.bind([listener("a", PipeAddress(path, 0o600), backlog=1)])
    before = bindings.sockets_of([listener("a", PipeAddress(path))], 0)

    assert bindings.bind([listener("a", PipeAddress(path, 0o666), backlog=64)]) == []

    assert bindings.sockets_of([listener("a", PipeAddress(path))], 0) == before
    assert os.stat(path).st_mode & 0o777 == 0o666
    with contextlib.ExitStack() as clients:
        for _ in range(20):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect(path)


def test_a_live_unix_socket_and_an_ordinary_file_stay(bindings: Bindings, tmp_path) -> None:
    path, file = str(tmp_path / "a.sock"), tmp_path / "file"
    file.write_text("precious")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()

        with pytest.raises(BindError) as refused:
            bindings.bind([listener("a", PipeAddress(path)), listener("b", PipeAddress(str(file)))])

    assert "address already in use. Stop who listens there" in str(refused.value)
    assert "a file that is no socket is there. Remove the file or use another path." in str(refused.value)
    assert file.read_text() == "precious"


def test_an_abstract_unix_socket(bindings: Bindings) -> None:
    name = f"@meshproxy-listeners-{os.getpid()}"
    bindings.bind([listener("a", PipeAddress(name))])

    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name[1:])


def test_a_renamed_listener_takes_its_sockets_along(bindings: Bindings) -> None:
    address = SocketAddress("127.0.0.1", free_port())
    bindings.bind([listener("old", address)])
    before = bindings.sockets_of([listener("old", address)], 0)[0][1]

    assert bindings.bind([listener("new", address)]) == []
    assert bindings.unwanted([listener("new", address)]) == []
    assert bindings.sockets_of([listener("new", address)], 0)[0][1] == before


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_lanes_come_and_go(bindings: Bindings) -> None:
    one = listener("a")
    bindings.bind([one])
    bindings.add_lane(2)
    bindings.remove_lane(1)

    bindings.steer([2], force=True)
    client = socket.create_connection(("127.0.0.1", port_of(bindings, one)))
    assert bindings.accept_queue([one], 0) == []
    ((name, index, connections),) = bindings.accept_queue([one], 2)

    assert (name, index, len(connections)) == ("a", 0, 1)
    close_all(connections)
    client.close()


def test_a_new_master_has_the_same_sockets_in_the_same_order(bindings: Bindings) -> None:
    one = listener("a")
    bindings.bind([one])
    bindings.add_lane(5)
    bindings.remove_lane(0)
    heir = Bindings(NOBODY)

    heir.adopt(bindings.state(), bindings.lanes)

    assert heir.lanes == [1, 5]
    assert heir.bind([one]) == []
    assert heir.rows([one]) == bindings.rows([one])
    assert heir.state() == bindings.state()


def test_sockets_of_systemd_are_taken_by_address_and_shared(tmp_path) -> None:
    program = """
import os, socket, sys
sys.path.insert(0, ".")
from meshproxy.master import systemd
from meshproxy.master.listeners import Bindings
from meshproxy.master.privileges import Identity
from meshproxy.model import PipeAddress, SocketAddress
from tests.master.node import listener
port, path = int(sys.argv[1]), sys.argv[2]
bindings = Bindings(Identity()); bindings.lanes = [0, 1]
bindings.offer(systemd.listen_fds(os.environ, os.getpid()))
wanted = [listener("a", SocketAddress("127.0.0.1", port)), listener("b", PipeAddress(path))]
bindings.bind(wanted)
print([(each.listener, each.shared, fd) for each, fd in bindings.sockets_of(wanted, 1)], bindings.unclaimed(), os.environ.get("LISTEN_FDS"))
bindings.close_all(unlink=True)
print(os.path.exists(path))
"""
    path = str(tmp_path / "s.sock")
    starter = (
        "import os, sys; os.environ.update(LISTEN_FDS='3', LISTEN_PID=str(os.getpid())); "
        "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    )
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket() as stray:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        stray.bind(("127.0.0.1", 0))
        for sock in (tcp, unix, stray):
            sock.listen()
        given = [tcp.fileno(), unix.fileno(), stray.fileno()]

        def place() -> None:
            # First out of the way of the numbers that they are to have.
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in given]
            for number, fd in enumerate(high):
                os.dup2(fd, 3 + number)

        run = subprocess.run(
            [sys.executable, "-c", starter, program, str(tcp.getsockname()[1]), path],
            preexec_fn=place, close_fds=False, capture_output=True, text=True, check=True,
        )
        stray_port = stray.getsockname()[1]

    assert run.stdout.splitlines() == [f"[('a', True, 3), ('b', True, 4)] ['127.0.0.1:{stray_port}'] None", "True"]
    assert re.search("Traceback", run.stderr) is None


def test_a_listener_that_is_not_bound_has_no_sockets(bindings: Bindings) -> None:
    """Not even those of another listener on its address."""
    bound = listener("a")
    bindings.bind([bound])
    address = SocketAddress("127.0.0.1", port_of(bindings, bound))
    unbound = listener("b", address, bind_to_port=False)

    assert bindings.bind([bound, unbound]) == []
    assert bindings.sockets_of([unbound], 0) == []
    assert bindings.rows([unbound]) == []
    assert bindings.unwanted([bound, unbound]) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="IP_TRANSPARENT needs a capability")
def test_transparent_sockets_and_the_change_to_them_and_back(bindings: Bindings) -> None:
    def is_transparent(one) -> set[int]:
        found = set()
        for lane in (0, 1):
            for _, fd in bindings.sockets_of([one], lane):
                with socket.socket(fileno=os.dup(fd)) as sock:
                    found.add(sock.getsockopt(socket.IPPROTO_IP, 19))
        return found

    bindings.bind([listener("a", transparent=True)])
    assert is_transparent(listener("a")) == {1}
    assert bindings.has_transparent()
    bindings.bind([listener("a")])
    assert is_transparent(listener("a")) == {0}
    bindings.bind([listener("a", transparent=True)])
    assert is_transparent(listener("a")) == {1}


def test_what_a_transparent_listener_needs_is_told() -> None:
    error = refusal(Wish('listener "a"', SocketAddress("::", 1), transparent=True), PermissionError(errno.EPERM, "Operation not permitted"))

    assert str(error).endswith("operation not permitted. Grant CAP_NET_RAW, which a transparent listener needs, or leave transparent out.")
