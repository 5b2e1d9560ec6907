"""The shared-memory region: made by the master before the first fork, written by workers, read by the agent and by `meshproxy top`.

A cell in a part of the region that nobody wrote is 0, and is told from the file's extents and not by a look: a read through the mapping
would make the kernel put memory there.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close, lseek

import array
import errno
import fcntl
import os

from cpython cimport array as c_array

from meshproxy.scoreboard.cells cimport HISTOGRAM_CELLS

from meshproxy.errors import LayoutError, MeshproxyError, TableFullError
from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind, MetricType, offsets

cdef extern from "shared.h" nogil:
    uint64_t LAYOUT_MAGIC
    uint32_t LAYOUT_VERSION
    uint32_t CATALOGUE_DIGEST
    uint32_t RECORD_FILLER
    size_t PAGES_AT, HEADER_BYTES, HEAD_STRIDE, RING_STRIDE

    ctypedef struct FullNodeHead "NodeHead":
        uint64_t magic
        uint32_t layout_version
        uint32_t catalogue_digest
        uint64_t page_bytes
        uint64_t ring_bytes
        int64_t slots
        int64_t slots_started

    ctypedef struct FullRing "Ring":
        uint64_t corrupt

    ctypedef struct RecordHead:
        uint32_t bytes
        uint32_t kind
        uint32_t sink

    const char *ring_next(Ring *ring, uint64_t *at, uint64_t end, RecordHead *record) noexcept
    int64_t load_acquire(const int64_t *cell) noexcept
    int64_t load_relaxed(const int64_t *cell) noexcept
    void store_release(int64_t *cell, int64_t value) noexcept
    void store_relaxed(int64_t *cell, int64_t value) noexcept
    int64_t exchange_relaxed(int64_t *cell, int64_t value) noexcept

cdef extern from "fcntl.h" nogil:
    int fallocate(int fd, int mode, long offset, long length)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <linux/falloc.h>
    #include <sys/mman.h>
    #include <unistd.h>
    """
    int SEEK_DATA, SEEK_HOLE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE, MAP_NORESERVE

cdef enum:
    CELL_BYTES = 8
    KERNEL_PAGE = 4096

PAGE_CELLS = PAGE_BYTES // CELL_BYTES
SLOT_STATES = ("GONE", "STARTING", "READY", "DRAINING")
"""By number, as `state` and `set_state` have them."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Nobody who holds the descriptor can cut the file under the others' mappings."""


cdef class Region:
    """One memfd with a header, a head, a page of cells and a ring for each slot. Owns its descriptor and its mapping.

    Pointers and memory are good for as long as the object lives. Cells are numbered from the start of a page and are the same in all pages.
    """

    def __cinit__(self):
        self.fd = -1

    @staticmethod
    def create(int slots) -> Region:
        """A new, empty region. Its descriptor is closed on exec unless the caller makes it inheritable."""
        if not 1 <= slots <= MAX_SLOTS:
            raise TableFullError(f"scoreboard: {slots} worker slots asked for, 1 to {MAX_SLOTS} are possible. Set fewer workers.")
        fd = os.memfd_create("meshproxy-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _size(slots))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            os.close(fd)
            raise MeshproxyError(
                f"scoreboard: the kernel refuses a sparse memory file of {_size(slots)} bytes: {error.strerror}. "
                "Raise the file size limit (ulimit -f unlimited; LimitFSIZE=infinity in systemd)."
            ) from error
        region = _mapped(fd, slots)
        cdef FullNodeHead *head = <FullNodeHead *>(<Region>region).base
        head.magic = LAYOUT_MAGIC
        head.layout_version = LAYOUT_VERSION
        head.catalogue_digest = CATALOGUE_DIGEST
        head.page_bytes = PAGE_BYTES
        head.ring_bytes = RING_BYTES
        head.slots = slots
        return region

    @staticmethod
    def open(int fd) -> Region:
        """The region behind `fd`, which the object owns from now on, also when this raises LayoutError."""
        try:
            slots = _slots_of(fd)
        except BaseException:
            os.close(fd)
            raise
        return _mapped(fd, slots)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size_bytes)
        if self.fd >= 0:
            close(self.fd)

    # ---- for compiled code ----

    cdef int64_t *page(self, int slot) noexcept:
        cdef NodeHead *node = self.node()
        if load_relaxed(&node.slots_started) <= slot:
            store_release(&node.slots_started, slot + 1)
        return <int64_t *>(self.base + PAGES_AT + <size_t>slot * PAGE_BYTES)

    cdef char *pages(self) noexcept:
        return self.base + PAGES_AT

    cdef NodeHead *node(self) noexcept:
        return <NodeHead *>self.base

    cdef SlotHead *head(self, int slot) noexcept:
        return <SlotHead *>(self.base + HEADER_BYTES + <size_t>slot * HEAD_STRIDE)

    cdef Ring *ring(self, int slot) noexcept:
        return <Ring *>(self.base + PAGES_AT + <size_t>self.slots * PAGE_BYTES + <size_t>slot * RING_STRIDE)

    cdef int _check(self, int slot) except -1:
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot} of a scoreboard with {self.slots} slots")
        return 0

    cdef int _check_cells(self, int64_t first, int64_t count) except -1:
        if first < 0 or count < 0 or first + count > <int64_t>(PAGE_BYTES // CELL_BYTES):
            raise IndexError(f"cells {first} to {first + count} of a page with {PAGE_BYTES // CELL_BYTES}")
        return 0

    # ---- the node ----

    @property
    def slots_started(self) -> int:
        """Slots from this number on were never in use."""
        return load_acquire(&self.node().slots_started)

    @property
    def healthcheck_failed(self) -> bool:
        """An operator asked that health checks of this node fail."""
        return load_acquire(&self.node().healthcheck_failed) != 0

    @healthcheck_failed.setter
    def healthcheck_failed(self, bint failed) -> None:
        store_release(&self.node().healthcheck_failed, failed)

    @property
    def draining(self) -> bool:
        """The node takes no new work: answers carry `Connection: close`."""
        return load_acquire(&self.node().draining) != 0

    @draining.setter
    def draining(self, bint draining) -> None:
        store_release(&self.node().draining, draining)

    # ---- a slot ----

    def state(self, int slot) -> int:
        """0 GONE, 1 STARTING, 2 READY, 3 DRAINING."""
        self._check(slot)
        return load_acquire(&self.head(slot).state)

    def set_state(self, int slot, int state) -> None:
        self._check(slot)
        if not SLOT_GONE <= state <= SLOT_DRAINING:
            raise ValueError(f"slot state {state} is none of {SLOT_GONE} to {SLOT_DRAINING}")
        self.page(slot)
        store_release(&self.head(slot).state, state)

    def pid(self, int slot) -> int:
        self._check(slot)
        return load_acquire(&self.head(slot).pid)

    def set_pid(self, int slot, int64_t pid) -> None:
        self._check(slot)
        store_release(&self.head(slot).pid, pid)

    def generation(self, int slot) -> int:
        self._check(slot)
        return load_acquire(&self.head(slot).generation)

    def set_generation(self, int slot, int64_t generation) -> None:
        self._check(slot)
        store_release(&self.head(slot).generation, generation)

    def heartbeat_ms(self, int slot) -> int:
        """CLOCK_MONOTONIC of the worker's last sign of life."""
        self._check(slot)
        return load_acquire(&self.head(slot).heartbeat_ms)

    def set_heartbeat_ms(self, int slot, int64_t now_ms) -> None:
        self._check(slot)
        store_release(&self.head(slot).heartbeat_ms, now_ms)

    def turn_started_ms(self, int slot) -> int:
        """CLOCK_MONOTONIC of the start of the present turn of the loop; 0 between turns."""
        self._check(slot)
        return load_acquire(&self.head(slot).turn_started_ms)

    def longest_turn_us(self, int slot, bint reset=False) -> int:
        """The longest turn since the last reset."""
        self._check(slot)
        cdef SlotHead *head = self.head(slot)
        return exchange_relaxed(&head.longest_turn_us, 0) if reset else load_relaxed(&head.longest_turn_us)

    def last_exchange(self, int slot) -> bytes:
        """What the slot's worker was doing last; b"" when nothing. Read after a death: a living worker may be writing it."""
        self._check(slot)
        cdef SlotHead *head = self.head(slot)
        cdef int64_t length = load_acquire(&head.last_exchange_length)
        return PyBytes_FromStringAndSize(head.last_exchange, min(max(length, 0), LAST_EXCHANGE_BYTES))

    def set_last_exchange(self, int slot, bytes text not None) -> None:
        self._check(slot)
        cdef SlotHead *head = self.head(slot)
        cdef int64_t length = min(PyBytes_GET_SIZE(text), LAST_EXCHANGE_BYTES)
        memcpy(head.last_exchange, PyBytes_AS_STRING(text), length)
        store_release(&head.last_exchange_length, length)

    def clear_slot(self, int slot) -> None:
        """Before an heir starts: no heartbeat, turn or last exchange of its predecessor."""
        self._check(slot)
        cdef SlotHead *head = self.head(slot)
        store_release(&head.heartbeat_ms, 0)
        store_release(&head.turn_started_ms, 0)
        store_release(&head.last_exchange_length, 0)

    # ---- cells ----

    cdef int64_t _next_extent(self, int slot, int64_t cell, int64_t end, int64_t *extent_end) noexcept:
        """First cell at or after `cell` that may be other than 0, and behind the run of such cells; `end` when there is none."""
        cdef long page_at = PAGES_AT + <size_t>slot * PAGE_BYTES
        cdef long data = lseek(self.fd, page_at + cell * CELL_BYTES, SEEK_DATA)
        if data < 0 or data >= page_at + end * CELL_BYTES:
            return end
        extent_end[0] = min(end, (<int64_t>lseek(self.fd, data, SEEK_HOLE) - page_at) // CELL_BYTES)
        return (data - page_at) // CELL_BYTES

    cdef void _add_cells(self, int slot, int64_t first, int64_t count, int64_t *sums) noexcept:
        cdef int64_t *page = <int64_t *>(self.base + PAGES_AT + <size_t>slot * PAGE_BYTES)
        cdef int64_t end = first + count, extent_end = 0, at
        cdef int64_t cell = self._next_extent(slot, first, end, &extent_end)
        while cell < end:
            for at in range(cell, extent_end):
                sums[at - first] += load_relaxed(page + at)
            cell = self._next_extent(slot, extent_end, end, &extent_end)

    def read_cells(self, int64_t first, int64_t count) -> array.array:
        """An array("q") of `count` sums over all slots. Each is exact for some moment of the call; together they are no snapshot."""
        self._check_cells(first, count)
        cdef c_array.array sums = c_array.clone(_CELLS, count, count > 0)
        cdef int slot
        for slot in range(min(self.slots, load_acquire(&self.node().slots_started))):
            self._add_cells(slot, first, count, <int64_t *>sums.data.as_voidptr)
        return sums

    def read_cells_of(self, int slot, int64_t first, int64_t count) -> array.array:
        """The same of one slot."""
        self._check(slot)
        self._check_cells(first, count)
        cdef c_array.array cells = c_array.clone(_CELLS, count, count > 0)
        self._add_cells(slot, first, count, <int64_t *>cells.data.as_voidptr)
        return cells

    def written(self, int64_t first, int64_t count) -> list[tuple[int, int]]:
        """Runs (first cell, cell behind) that may be other than 0 in some slot, in order and apart; all others are 0 in all slots."""
        self._check_cells(first, count)
        cdef int64_t end = first + count, extent_end = 0, cell
        found = []
        for slot in range(min(self.slots, self.slots_started)):
            cell = self._next_extent(slot, first, end, &extent_end)
            while cell < end:
                found.append((cell, extent_end))
                cell = self._next_extent(slot, extent_end, end, &extent_end)
        return _joined(found)

    def zero_block(self, int64_t first, int64_t count) -> None:
        """Zero these cells in all slots and give their memory back. Only when no worker counts in them any more."""
        self._check_cells(first, count)
        cdef int slot
        for slot in range(min(self.slots, load_acquire(&self.node().slots_started))):
            _zero_run(self, slot, first, first + count)

    def zero_gauges(self, int slot, rows: list[tuple[str, str, int]]) -> None:
        """Give back what a dead worker held: zero its gauges in the blocks of a directory's rows (kind, name, first cell)."""
        self._check(slot)
        cdef c_array.array gauges
        by_kind = {
            kind.name: array.array("q", [at for at, row in offsets(kind) if row.type is MetricType.GAUGE]) for kind in CATALOGUE
        }
        for kind, _, first in rows:
            gauges = by_kind[kind]
            self._zero_gauge_cells(slot, first, <const int64_t *>gauges.data.as_voidptr, len(gauges))

    cdef void _zero_gauge_cells(self, int slot, int64_t first, const int64_t *gauges, int count) noexcept:
        cdef int64_t *page = <int64_t *>(self.base + PAGES_AT + <size_t>slot * PAGE_BYTES)
        cdef int64_t extent_end = 0, cell
        cdef int at = 0
        if count == 0:
            return
        cdef int64_t end = first + gauges[count - 1] + 1
        cell = self._next_extent(slot, first, end, &extent_end)
        while at < count and cell < end:
            if first + gauges[at] < cell:
                at += 1
            elif first + gauges[at] < extent_end:
                store_relaxed(page + first + gauges[at], 0)
                at += 1
            else:
                cell = self._next_extent(slot, extent_end, end, &extent_end)

    def add_cell(self, int slot, int64_t cell, int64_t amount) -> None:
        """Count as a worker does. Only by the slot's owner."""
        self._check(slot)
        self._check_cells(cell, 1)
        self.page(slot)[cell] += amount

    def record_histogram(self, int slot, int64_t cell, int64_t value) -> None:
        """Record into the histogram that starts at `cell`, as a worker does. Only by the slot's owner."""
        self._check(slot)
        self._check_cells(cell, HISTOGRAM_CELLS)
        histogram_record(self.page(slot) + cell, value)

    # ---- records ----

    def put_record(self, int slot, uint32_t sink, bytes payload not None, uint32_t kind=RECORD_LOG, bint commit=True) -> bool:
        """Write a record as a worker does. False: the ring was full and the drop is counted. `commit=False` leaves it half done."""
        self._check(slot)
        cdef char *room = ring_reserve(self.ring(slot), PyBytes_GET_SIZE(payload))
        if room == NULL:
            return False
        memcpy(room, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if commit:
            ring_commit(self.ring(slot), kind, sink, PyBytes_GET_SIZE(payload))
        return True

    def drain_ring(self, int slot, dict sinks not None, int64_t limit_bytes=RING_BYTES) -> int:
        """Move records out of the slot's ring: their payloads are appended to `sinks[sink id]`, a bytearray made when absent.

        Stops after `limit_bytes` of ring or when it is empty; returns the bytes taken, so 0 is an empty ring. Bytes that cannot be
        records (a worker wrote over them) are thrown away up to the ring's head, and `ring_corrupt` counts it.
        """
        self._check(slot)
        cdef Ring *ring = self.ring(slot)
        cdef uint64_t start = ring.tail, at = start, end = <uint64_t>load_acquire(<int64_t *>&ring.head)
        cdef RecordHead record
        cdef const char *payload
        while at - start < <uint64_t>limit_bytes:
            payload = ring_next(ring, &at, end, &record)
            if payload == NULL:
                if at != end:
                    (<FullRing *>ring).corrupt += 1
                    at = end
                break
            if record.kind == RECORD_LOG:
                _append(sinks, record.sink, payload, record.bytes)
        store_release(<int64_t *>&ring.tail, at)
        return min(at - start, RING_BYTES)

    def ring_dropped(self, int slot) -> int:
        """Records of this slot that found the ring full, since the node started."""
        self._check(slot)
        return load_relaxed(<int64_t *>&self.ring(slot).dropped)

    def ring_corrupt(self, int slot) -> int:
        """Times that bytes in the ring were no records."""
        self._check(slot)
        return (<FullRing *>self.ring(slot)).corrupt

    def ring_offset(self, int slot) -> int:
        """Where in the file the slot's ring is; its bytes start 4096 further."""
        self._check(slot)
        return <char *>self.ring(slot) - self.base

    def page_offset(self, int slot) -> int:
        """Where in the file the slot's page is."""
        self._check(slot)
        return PAGES_AT + <size_t>slot * PAGE_BYTES


cdef c_array.array _CELLS = array.array("q")


def bucket_of(int64_t value) -> int:
    """The bucket in which a histogram counts `value`."""
    return histogram_bucket(value)


def status_cell_of(int status) -> int:
    """Where the counter of a status is after that of 100; -1 = it has none."""
    return status_cell(status)


def added(c_array.array now not None, c_array.array before not None) -> array.array:
    """What came to each cell since `before`. A counter that is below its last value was reset: all of it is new."""
    cdef Py_ssize_t at, count = min(len(now), len(before))
    cdef c_array.array difference = c_array.clone(_CELLS, count, False)
    cdef int64_t *now_cells = <int64_t *>now.data.as_voidptr
    cdef int64_t *before_cells = <int64_t *>before.data.as_voidptr
    cdef int64_t *difference_cells = <int64_t *>difference.data.as_voidptr
    for at in range(count):
        difference_cells[at] = now_cells[at] - before_cells[at] if now_cells[at] >= before_cells[at] else now_cells[at]
    return difference


cdef size_t _size(int slots):
    return PAGES_AT + <size_t>slots * (PAGE_BYTES + RING_STRIDE)


cdef Region _mapped(int fd, int slots):
    cdef Region region = Region.__new__(Region)
    region.fd = fd
    region.slots = slots
    region.size_bytes = _size(slots)
    cdef void *base = mmap(NULL, region.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0)
    if base == MAP_FAILED:
        raise MeshproxyError(
            f"scoreboard: the kernel refuses to map {region.size_bytes} bytes of address space. "
            "Raise the limit (ulimit -v unlimited) or set fewer workers."
        )
    region.base = <char *>base
    return region


def _slots_of(int fd) -> int:
    """The number of slots of the region behind `fd`, after everything that can be checked is checked."""
    cdef FullNodeHead head
    raw = os.pread(fd, sizeof(head), 0)
    if len(raw) < <Py_ssize_t>sizeof(head):
        raise LayoutError(f"scoreboard: file descriptor {fd} has {len(raw)} bytes where a header of {sizeof(head)} is expected")
    memcpy(&head, PyBytes_AS_STRING(raw), sizeof(head))
    if head.magic != LAYOUT_MAGIC:
        raise LayoutError(f"scoreboard: file descriptor {fd} is no meshproxy scoreboard (magic {head.magic:#x}, expected {LAYOUT_MAGIC:#x})")
    if head.layout_version != LAYOUT_VERSION or head.page_bytes != PAGE_BYTES or head.ring_bytes != RING_BYTES:
        raise LayoutError(
            f"scoreboard: layout {head.layout_version} ({head.page_bytes} bytes a page, {head.ring_bytes} a ring) is not this build's, "
            f"{LAYOUT_VERSION} ({PAGE_BYTES}, {RING_BYTES}): the node runs another version of meshproxy"
        )
    if head.catalogue_digest != CATALOGUE_DIGEST:
        raise LayoutError(
            f"scoreboard: its metrics are of catalogue {head.catalogue_digest:#010x}, this build's is {CATALOGUE_DIGEST:#010x}: "
            "the node runs another version of meshproxy"
        )
    if not 1 <= head.slots <= MAX_SLOTS or <size_t>os.fstat(fd).st_size < _size(head.slots):
        raise LayoutError(f"scoreboard: {head.slots} slots in a file of {os.fstat(fd).st_size} bytes; {_size(head.slots)} are expected")
    return head.slots


cdef int _append(dict sinks, uint32_t sink, const char *payload, uint32_t length) except -1:
    cdef object found = sinks.get(sink)
    cdef bytearray lines
    if found is None:
        sinks[sink] = found = bytearray()
    lines = found
    cdef Py_ssize_t before = PyByteArray_GET_SIZE(lines)
    PyByteArray_Resize(lines, before + length)
    memcpy(PyByteArray_AS_STRING(lines) + before, payload, length)
    return 0


cdef int _zero_run(Region region, int slot, int64_t first, int64_t end) except -1:
    """Whole kernel pages inside the run become holes; the cells beside them are stored one by one."""
    cdef int64_t *page = <int64_t *>(region.base + PAGES_AT + <size_t>slot * PAGE_BYTES)
    cdef int64_t per_page = KERNEL_PAGE // CELL_BYTES
    cdef int64_t inner = (first + per_page - 1) // per_page * per_page, inner_end = end // per_page * per_page
    cdef int64_t extent_end = 0, cell, at
    if inner < inner_end:
        fallocate(
            region.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, region.page_offset(slot) + inner * CELL_BYTES, (inner_end - inner) * CELL_BYTES,
        )
    cell = region._next_extent(slot, first, end, &extent_end)
    while cell < end:
        for at in range(cell, extent_end):
            store_relaxed(page + at, 0)
        cell = region._next_extent(slot, extent_end, end, &extent_end)
    return 0


def _joined(list runs) -> list[tuple[int, int]]:
    joined = []
    for first, end in sorted(runs):
        if joined and first <= joined[len(joined) - 1][1]:
            first, before = joined.pop()
            end = max(before, end)
        joined.append((first, end))
    return joined
