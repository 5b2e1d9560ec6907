"""The shared region: what one process writes another reads, a look costs no memory, and no bytes in a ring can break its reader."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.errors import LayoutError, TableFullError
from meshproxy.scoreboard.catalogue import HISTOGRAM_BUCKETS, HISTOGRAM_CELLS, STATUS_CODES, BlockKind, block_cells, offsets
from meshproxy.scoreboard.region import PAGE_CELLS, SLOT_STATES, Region, added, bucket_of, status_cell_of

RING_BYTES = 1 << 20
HEADER = struct.Struct("<QIIQQqq")
RECORD = struct.Struct("<IIII")


@pytest.fixture
def region() -> Region:
    return Region.create(3)


def drained(region: Region, slot: int = 0) -> dict[int, bytes]:
    sinks: dict[int, bytearray] = {}
    while region.drain_ring(slot, sinks):
        pass
    return {sink: bytes(data) for sink, data in sinks.items()}


def memory_bytes(region: Region) -> int:
    return os.fstat(region.fd).st_blocks * 512


# ---- life ----


def test_a_new_region_is_empty_and_sparse(region: Region) -> None:
    assert (region.slots, region.slots_started) == (3, 0)
    assert os.fstat(region.fd).st_size > 3 * (128 << 20)
    assert memory_bytes(region) <= 8192


@pytest.mark.parametrize("slots", [0, -1, 129])
def test_slots_are_bounded(slots: int) -> None:
    with pytest.raises(TableFullError, match=f"{slots} worker slots asked for, 1 to 128 are possible"):
        Region.create(slots)


def test_what_one_mapping_writes_another_reads(region: Region) -> None:
    other = Region.open(os.dup(region.fd))
    region.add_cell(1, 77, 5)
    region.set_state(1, SLOT_STATES.index("READY"))
    region.draining = True

    assert list(other.read_cells(77, 1)) == [5]
    assert (other.slots, other.state(1), other.draining, other.healthcheck_failed) == (3, 2, True, False)


def test_a_forked_child_counts_in_its_slot(region: Region) -> None:
    pid = os.fork()
    if pid == 0:
        region.add_cell(2, 10, 3)
        region.put_record(2, 1, b"from the child\n")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

    assert list(region.read_cells(10, 1)) == [3]
    assert drained(region, 2) == {1: b"from the child\n"}


def test_the_file_cannot_be_cut_under_a_mapping(region: Region) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(region.fd, 4096)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (0, 1, r"no meshproxy scoreboard \(magic 0x1,"),
        (1, 99, r"layout 99 \(.*is not this build's, 1 "),
        (2, 0x12345678, "its metrics are of catalogue 0x12345678"),
        (3, 4096, "layout 1 .4096 bytes a page"),
        (5, 0, "0 slots in a file of"),
        (5, 128, "128 slots in a file of"),
    ],
)
def test_another_layout_is_refused_by_name(region: Region, field: int, value: int, says: str) -> None:
    header = list(HEADER.unpack(os.pread(region.fd, HEADER.size, 0)))
    header[field] = value
    os.pwrite(region.fd, HEADER.pack(*header), 0)

    with pytest.raises(LayoutError, match=says):
        Region.open(os.dup(region.fd))


def test_a_file_that_is_too_short_is_refused() -> None:
    fd = os.memfd_create("short")
    with pytest.raises(LayoutError, match="has 0 bytes where a header"):
        Region.open(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# ---- slots ----


def test_a_slot_tells_of_its_worker(region: Region) -> None:
    region.set_pid(1, 4711)
    region.set_generation(1, 2)
    region.set_heartbeat_ms(1, 99)
    region.set_last_exchange(1, b"GET a/b" + b"x" * 600)

    assert (region.pid(1), region.generation(1), region.heartbeat_ms(1), region.turn_started_ms(1)) == (4711, 2, 99, 0)
    assert region.last_exchange(1) == b"GET a/b" + b"x" * 505
    region.clear_slot(1)
    assert (region.pid(1), region.heartbeat_ms(1), region.last_exchange(1)) == (4711, 0, b"")


def test_slots_started_is_the_highest_that_was_in_use(region: Region) -> None:
    region.set_state(1, SLOT_STATES.index("STARTING"))
    region.set_state(1, SLOT_STATES.index("GONE"))

    assert region.slots_started == 2


@pytest.mark.parametrize("call", ["state", "pid", "last_exchange", "ring_dropped"])
@pytest.mark.parametrize("slot", [-1, 3])
def test_a_slot_that_is_not_there_is_an_error(region: Region, call: str, slot: int) -> None:
    with pytest.raises(IndexError, match=f"slot {slot} of a scoreboard with 3 slots"):
        getattr(region, call)(slot)


# ---- cells ----


def test_cells_are_summed_over_slots(region: Region) -> None:
    for slot in range(3):
        region.add_cell(slot, 5, 10 ** slot)
        region.add_cell(slot, 600, -1)

    assert list(region.read_cells(4, 3)) == [0, 111, 0]
    assert list(region.read_cells_of(1, 4, 3)) == [0, 10, 0]
    assert list(region.read_cells(600, 1)) == [-3]


def test_a_look_costs_no_memory(region: Region) -> None:
    region.add_cell(0, 1_000_000, 1)
    region.add_cell(2, 9_000_000, 1)
    before = memory_bytes(region)

    assert sum(region.read_cells(0, PAGE_CELLS)) == 2
    region.zero_gauges(0, [("CLUSTER", "x", 2_000_000)])
    assert memory_bytes(region) == before


def test_written_names_the_runs_that_may_hold_something(region: Region) -> None:
    region.add_cell(0, 512 * 10, 1)
    region.add_cell(1, 512 * 11, 1)
    region.add_cell(0, 512 * 20 + 3, 1)

    assert region.written(0, PAGE_CELLS) == [(512 * 10, 512 * 12), (512 * 20, 512 * 21)]
    assert region.written(512 * 11 + 5, 10) == [(512 * 11 + 5, 512 * 11 + 15)]


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (PAGE_CELLS, 1), (PAGE_CELLS - 1, 2)])
def test_cells_outside_the_page_are_an_error(region: Region, first: int, count: int) -> None:
    with pytest.raises(IndexError, match="of a page with"):
        region.read_cells(first, count)


def test_zero_block_clears_its_cells_only_and_gives_memory_back(region: Region) -> None:
    for slot in (0, 2):
        for cell in (99, 100, 1500, 2999, 3000):
            region.add_cell(slot, cell, 7)
    before = memory_bytes(region)
    region.zero_block(100, 2900)

    assert [region.read_cells(cell, 1)[0] for cell in (99, 100, 1500, 2999, 3000)] == [14, 0, 0, 0, 14]
    assert memory_bytes(region) < before


def test_a_dead_workers_gauges_are_given_back_and_its_counters_stay(region: Region) -> None:
    cells = {row.name: at for at, row in offsets(BlockKind.CLUSTER)}
    held, total = cells["circuit_breakers.default.rq_held"], cells["upstream_rq_total"]
    rows = [("SERVER", "", 0), ("CLUSTER", "a", 400), ("CLUSTER", "never", 600_000), ("CLUSTER", "b", 1400)]
    for slot in (0, 1):
        for first in (400, 1400):
            region.add_cell(slot, first + held, 5)
            region.add_cell(slot, first + total, 9)
            region.record_histogram(slot, first + cells["upstream_rq_time"], 1000)
    region.zero_gauges(0, rows)

    for first in (400, 1400):
        assert list(region.read_cells(first + held, 1)) == [5]
        assert list(region.read_cells_of(1, first + held, 1)) == [5]
        assert list(region.read_cells(first + total, 1)) == [18]
        assert sum(region.read_cells(first + cells["upstream_rq_time"], HISTOGRAM_CELLS)) == 2002


@given(st.lists(st.integers(-5, 1 << 50), max_size=40))
def test_a_histogram_counts_every_value_and_keeps_their_sum(values: list[int]) -> None:
    region = Region.create(1)
    for value in values:
        region.record_histogram(0, 8, value)
    cells = region.read_cells(8, HISTOGRAM_CELLS)

    assert sum(cells[:HISTOGRAM_BUCKETS]) == len(values)
    assert cells[HISTOGRAM_BUCKETS] == sum(max(value, 0) for value in values)


def test_buckets_rise_without_gap_and_are_narrow() -> None:
    last = 0
    for value in [*range(5000), *((1 << shift) + step for shift in range(13, 40) for step in (-1, 0, 1))]:
        bucket = bucket_of(value)
        assert bucket in (last, last + 1) or (value > 5000 and bucket > last)
        last = bucket
    assert [bucket_of(value) for value in (-1, 0, 7, 8, 15, 16, 17, 18)] == [0, 0, 7, 8, 15, 16, 16, 17]
    assert bucket_of((1 << 36) - 1) == bucket_of(1 << 62) == HISTOGRAM_BUCKETS - 1


def test_every_status_of_the_catalogue_has_its_cell() -> None:
    assert [status_cell_of(code) for code in STATUS_CODES] == list(range(len(STATUS_CODES)))
    assert {status_cell_of(code) for code in (-1, 0, 99, 102, 299, 499 + 60, 600, 1 << 30)} == {-1}


def test_added_tells_what_came_since() -> None:
    import array

    assert list(added(array.array("q", [5, 3, 7]), array.array("q", [2, 9, 7]))) == [3, 3, 0]


# ---- records ----


def test_records_arrive_in_order_by_sink(region: Region) -> None:
    for number in range(5):
        assert region.put_record(0, number % 2, f"line {number}\n".encode())

    assert drained(region) == {0: b"line 0\nline 2\nline 4\n", 1: b"line 1\nline 3\n"}
    assert drained(region) == {}


def test_a_drain_appends_to_what_is_there(region: Region) -> None:
    region.put_record(0, 3, b"b")
    sinks = {3: bytearray(b"a")}
    region.drain_ring(0, sinks)

    assert sinks == {3: bytearray(b"ab")}


def test_a_drain_is_bounded(region: Region) -> None:
    for _ in range(100):
        region.put_record(0, 1, b"x" * 48)
    sinks: dict[int, bytearray] = {}

    assert region.drain_ring(0, sinks, 640) == 640
    assert len(sinks[1]) == 10 * 48


def test_a_full_ring_drops_and_counts_and_takes_again(region: Region) -> None:
    record = b"y" * 1008                # with its header 1024
    kept = 0
    while region.put_record(0, 1, record):
        kept += 1
    assert kept == RING_BYTES // 1024
    assert not region.put_record(0, 1, b"")
    assert region.ring_dropped(0) == 2

    assert len(drained(region)[1]) == kept * 1008
    assert region.put_record(0, 1, b"again")
    assert drained(region) == {1: b"again"}


def test_a_record_that_could_never_fit_is_dropped(region: Region) -> None:
    assert not region.put_record(0, 1, b"z" * (RING_BYTES // 2))
    assert region.ring_dropped(0) == 1


def test_what_was_not_committed_is_not_there(region: Region) -> None:
    """A worker killed between reservation and commit leaves nothing; its heir writes over it."""
    region.put_record(0, 1, b"whole\n")
    region.put_record(0, 1, b"torn" * 100, commit=False)
    assert drained(region) == {1: b"whole\n"}

    region.put_record(0, 1, b"heir\n")
    assert drained(region) == {1: b"heir\n"}


def test_unknown_kinds_are_passed_over(region: Region) -> None:
    region.put_record(0, 1, b"a span", kind=77)
    region.put_record(0, 1, b"line")

    assert drained(region) == {1: b"line"}


@settings(max_examples=40)
@given(st.lists(st.one_of(st.integers(0, 200_000), st.none()), max_size=60), st.randoms(use_true_random=False))
def test_every_record_that_was_taken_comes_out_whole(sizes: list[int | None], random: object) -> None:
    """None is a drain; sizes make the ring wrap at every kind of place."""
    region = Region.create(1)
    sent, got = bytearray(), bytearray()
    for number, size in enumerate(sizes):
        if size is None:
            got += drained(region).get(9, b"")
        else:
            payload = bytes([number % 256]) * size
            if region.put_record(0, 9, payload):
                sent += payload
    got += drained(region).get(9, b"")

    assert got == sent
    assert region.ring_corrupt(0) == 0


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4096 - 1), st.binary(min_size=1, max_size=64)), min_size=1, max_size=8),
    st.integers(0, 200),
)
def test_no_bytes_in_the_ring_break_the_drain(scribbles: list[tuple[int, bytes]], records: int) -> None:
    """A worker gone wild writes over records and over the counters; the drain ends, stays inside the ring, and works again afterwards."""
    region = Region.create(2)
    for number in range(records):
        region.put_record(0, 1, b"line %d\n" % number)
    for offset, noise in scribbles:
        place = region.ring_offset(0) + (offset if offset < 16 else 4096 + offset)
        os.pwrite(region.fd, noise, place)
    sinks: dict[int, bytearray] = {}
    for _ in range(4):
        region.drain_ring(0, sinks)
    assert sum(len(data) for data in sinks.values()) <= 4 * RING_BYTES

    for _ in range(3):
        region.put_record(0, 1, b"back\n")
        after: dict[int, bytearray] = {}
        region.drain_ring(0, after)
    assert after.get(1) == bytearray(b"back\n")


def test_a_corrupt_record_is_counted_and_what_comes_later_is_read(region: Region) -> None:
    region.put_record(0, 1, b"first\n")
    os.pwrite(region.fd, RECORD.pack(1 << 30, 1, 1, 0), region.ring_offset(0) + 4096)

    assert drained(region) == {}
    assert region.ring_corrupt(0) == 1
    region.put_record(0, 1, b"second\n")
    assert drained(region) == {1: b"second\n"}


def test_the_server_block_is_first_in_the_page() -> None:
    assert block_cells(BlockKind.SERVER) < PAGE_CELLS
