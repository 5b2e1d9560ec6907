"""Frames: any split of the bytes gives the same messages, and what is no frame of ours ends the stream without losing a descriptor."""

import os

import pytest

from meshproxy.errors import FrameError
from meshproxy.ipc.frames import FDS_PER_MESSAGE, HEADER, MAX_FRAME_BYTES, FrameReader, encode
from meshproxy.ipc.messages import Applied, Configure, Drain, Ready
from meshproxy.model import Resource, ResourceKind


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


MESSAGES = [
    Configure(version="2", upserts=[Resource(ResourceKind.CLUSTER, "a", b"\x80", {"cluster": 7})], removes=[(ResourceKind.LISTENER, "b")]),
    Applied(version="2", error="no"),
    Drain(limit_s=1.5),
]


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_any_split_of_the_bytes_gives_the_same_messages(size: int) -> None:
    stream = b"".join(encode(message) for message in MESSAGES)
    reader = FrameReader()

    heard = [message for at in range(0, len(stream), size) for message, _ in reader.feed(stream[at : at + size])]

    assert heard == MESSAGES


def test_descriptors_belong_to_the_frame_that_announced_them() -> None:
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    reader = FrameReader()

    heard = reader.feed(encode(Ready(version="1"), 1) + encode(Drain(limit_s=1), 2), fds)

    assert [carried for _, carried in heard] == [fds[:1], fds[1:]]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(MAX_FRAME_BYTES + 1, 0),
        HEADER.pack(1, FDS_PER_MESSAGE + 1),
        HEADER.pack(1, 0) + b"\xc1",
        HEADER.pack(1, 0) + b"\x01",
        HEADER.pack(12, 0) + b"\x81\xa4type\xa5Bogus"[:12],
        encode(Ready(version="1"), 2),
        encode(Ready(version="1"), 0),
    ],
    ids=["too long", "too many descriptors", "no msgpack", "no message", "unknown message", "descriptor missing", "stray descriptor"],
)
def test_a_bad_frame_is_refused_and_its_descriptors_are_closed(data: bytes) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)

    with pytest.raises(FrameError):
        FrameReader().feed(data, [fd])

    assert not is_open(fd)


def test_descriptors_of_good_messages_before_a_bad_one_are_closed_too() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)

    with pytest.raises(FrameError):
        FrameReader().feed(encode(Ready(version="1"), 1) + HEADER.pack(1, 0) + b"\xc1", [fd])

    assert not is_open(fd)


def test_what_no_reader_takes_is_not_encoded() -> None:
    with pytest.raises(FrameError, match="201 file descriptors"):
        encode(Ready(version="1"), 201)
    with pytest.raises(FrameError, match="Configure of"):
        encode(Configure(version="1", upserts=[Resource(ResourceKind.CLUSTER, "a", bytes(MAX_FRAME_BYTES))]))
