"""What a command hears: an answer, or which of "no node" and "no answer" it is and what to do."""

import os
import socket
import threading

import pytest

from meshproxy.errors import ControlError
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.client import converse
from meshproxy.ipc.control_path import control_path
from meshproxy.ipc.messages import Answer, Order


def answering(path: str, answer: Answer | None) -> threading.Thread:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        channel = Channel(listening.accept()[0])
        channel.wait(5)
        if answer:
            channel.send(answer, [0])
        channel.close()
        listening.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_an_answer_comes_with_its_descriptors(tmp_path) -> None:
    path = str(tmp_path / "c.sock")
    thread = answering(path, Answer(body=b"{}"))

    answer, fds = converse(path, Order(verb="status"), 5)

    assert answer == Answer(body=b"{}")
    assert len(fds) == 1
    os.close(fds[0])
    thread.join()


def test_no_node_is_told_from_no_answer(tmp_path) -> None:
    with pytest.raises(ControlError, match="meshproxy run") as refused:
        converse(str(tmp_path / "none.sock"), Order(verb="status"), 1)
    assert refused.value.usage

    path = str(tmp_path / "c.sock")
    thread = answering(path, None)
    with pytest.raises(ControlError, match="closed the connection") as closed:
        converse(path, Order(verb="status"), 5)
    assert not closed.value.usage
    thread.join()


def test_where_the_socket_is() -> None:
    assert control_path("/a", {"MESHPROXY_CONTROL": "/b"}, 0) == "/a"
    assert control_path("", {"MESHPROXY_CONTROL": "/b"}, 0) == "/b"
    assert control_path("", {}, 0) == "/run/meshproxy/control.sock"
    assert control_path("", {"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == "/run/user/7/meshproxy/control.sock"
    assert control_path("", {"TMPDIR": "/t"}, 7) == "/t/meshproxy-7/control.sock"
