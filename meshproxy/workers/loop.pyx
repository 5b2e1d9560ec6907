"""The worker's event loop. It stands under gevent's hub: one `loop.io` watcher on the epoll set calls `run_turn`, in the hub's greenlet.

Rules that experiments taught (see docs/life-of-a-request.md): events carry place and generation, not a pointer; an exception ends one
source, never the batch; after some hundred events the hub gets its turn; only `run_turn` lets anybody read into the inbox.
"""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from cpython.list cimport PyList_GET_ITEM
from posix.unistd cimport getpid
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, SlotHead, histogram_record
from meshproxy.workers.net cimport *

from time import gmtime, strftime

cdef enum:
    EVENTS_PER_WAIT = 256
    EVENTS_PER_TURN = 512                # then greenlets and timers of the hub get their turn
    FREE_BLOCKS = 256                    # 4 MiB kept for the next burst
    TICK_SHIFT = 2                       # 4 ms
    CONNECTION_BITS = 31                 # of a connection's id; those above are the worker's pid, at most 2**22: exact in JSON's numbers



cdef class Source(Actor):
    def __cinit__(self):
        self.fd = -1

    cdef void on_events(self, uint32_t events) except *:
        pass


cdef class Gatherer(Source):
    cdef void flush_slices(self, iovec *slices, int count) except *:
        pass


cdef class Wheel:
    def __cinit__(self):
        memset(self.slots, 0, sizeof(self.slots))
        memset(self.used, 0, sizeof(self.used))

    cdef void file(self, Timer *timer, int64_t at_ms) noexcept:
        self.place(timer, at_ms, self.now_tick + 1)

    cdef void place(self, Timer *timer, int64_t at_ms, int64_t soonest) noexcept:
        """Into the slot of its tick, or of `soonest`: the present tick's slot takes more only while it has not been looked at."""
        cdef int64_t tick = (at_ms + (1 << TICK_SHIFT) - 1) >> TICK_SHIFT, ahead
        cdef int slot
        if tick < soonest:
            tick = soonest
        ahead = tick - self.now_tick
        if ahead < 256:
            slot = tick & 255
        elif ahead < 65536:
            slot = 256 + ((tick >> 8) & 255)
        else:
            if ahead > 0xfe0000:                 # past the last level's reach: look again when it is near
                tick = self.now_tick + 0xfe0000
            slot = 512 + ((tick >> 16) & 255)
        timer.filed_ms = at_ms
        timer.slot = slot
        timer.previous = NULL
        timer.next = self.slots[slot]
        if timer.next != NULL:
            timer.next.previous = timer
        self.slots[slot] = timer
        self.used[slot >> 6] |= (<uint64_t>1) << (slot & 63)
        self.count += 1

    cdef void unfile(self, Timer *timer) noexcept:
        if timer.filed_ms == 0:
            return
        if timer.next != NULL:
            timer.next.previous = timer.previous
        if timer.previous != NULL:
            timer.previous.next = timer.next
        else:
            self.slots[timer.slot] = timer.next
            if timer.next == NULL:
                self.used[timer.slot >> 6] &= ~((<uint64_t>1) << (timer.slot & 63))
        timer.next = timer.previous = NULL
        timer.filed_ms = 0
        self.count -= 1

    cdef int first_used(self, int level, int after) noexcept:
        """Steps from `after` (0..255) to the next used slot of the level, going round; 0 when none is used."""
        cdef int step, slot
        for step in range(1, 257):
            slot = level * 256 + ((after + step) & 255)
            if (slot & 63) == 0 and self.used[slot >> 6] == 0 and step + 63 <= 256:
                continue
            if self.used[slot >> 6] >> (slot & 63) & 1:
                return step
        return 0

    cdef int64_t next_ms(self) noexcept:
        """When the wheel wants to be looked at; 0 = never."""
        cdef int step
        cdef int64_t best = 0, tick
        if self.count == 0:
            return 0
        step = self.first_used(0, self.now_tick & 255)
        if step:
            best = self.now_tick + step
        step = self.first_used(1, (self.now_tick >> 8) & 255)
        if step:
            tick = ((self.now_tick >> 8) + step) << 8
            best = tick if best == 0 or tick < best else best
        step = self.first_used(2, (self.now_tick >> 16) & 255)
        if step:
            tick = ((self.now_tick >> 16) + step) << 16
            best = tick if best == 0 or tick < best else best
        return best << TICK_SHIFT

    cdef void cascade(self, int slot) noexcept:
        """File a slot's timers anew, by the time that they have now: that may be far, and even in this slot again."""
        cdef Timer *timer = self.slots[slot]
        cdef Timer *next_timer
        self.slots[slot] = NULL
        self.used[slot >> 6] &= ~((<uint64_t>1) << (slot & 63))
        while timer != NULL:
            next_timer = timer.next
            timer.next = timer.previous = NULL
            timer.filed_ms = 0
            self.count -= 1
            if timer.deadline_ms:
                self.place(timer, timer.deadline_ms, self.now_tick)
            timer = next_timer

    cdef Actor pop_due(self, int64_t now_ms):
        """The next owner whose deadline has come, its timer off; None when all is looked at up to `now_ms`."""
        cdef int64_t target = now_ms >> TICK_SHIFT
        cdef Timer *timer
        cdef int slot
        while True:
            slot = self.now_tick & 255
            while self.slots[slot] != NULL:
                timer = self.slots[slot]
                self.unfile(timer)
                if timer.deadline_ms == 0:
                    continue
                if timer.deadline_ms > now_ms:
                    self.file(timer, timer.deadline_ms)
                    continue
                timer.deadline_ms = 0
                return <Actor>timer.owner
            if self.now_tick >= target:
                return None
            if self.used[0] == 0 and self.used[1] == 0 and self.used[2] == 0 and self.used[3] == 0:
                self.now_tick = min(target - 1, self.now_tick | 255) if target - 1 > self.now_tick else self.now_tick
            self.now_tick += 1
            if (self.now_tick & 255) == 0:
                if ((self.now_tick >> 8) & 255) == 0:
                    self.cascade(512 + ((self.now_tick >> 16) & 255))
                self.cascade(256 + ((self.now_tick >> 8) & 255))


cdef class Loop(Runtime):
    def __cinit__(self):
        self.ep = epoll_create1(EPOLL_CLOEXEC)
        self.inbox = <char *>malloc(INBOX_BYTES)
        self.scratch = <char *>malloc(SCRATCH_BYTES)
        self.scratch_bytes = SCRATCH_BYTES
        self.events = <epoll_event *>malloc(EVENTS_PER_WAIT * sizeof(epoll_event))
        self.generations_size = 1024
        self.generations = <uint32_t *>calloc(self.generations_size, sizeof(uint32_t))
        if self.ep < 0 or not (self.inbox and self.scratch and self.events and self.generations):
            raise MemoryError("no room for the loop's buffers")
        poison(self.inbox, INBOX_BYTES)

    def __init__(self, hub, Region region, int slot, int64_t buffered_limit, log):
        self.hub = hub
        self.log = log
        self.table = [None]                      # place 0 stands for "not watched"
        self.free_places = []
        self.ready = []
        self.ready_next = []
        self.wheel = Wheel()
        self.buffered_limit = buffered_limit
        self.region = region
        self.server = region.page(slot)
        self.head = region.head(slot)
        getrandom(self.random_state, sizeof(self.random_state), 0)
        self.last_connection_id = <int64_t>getpid() << CONNECTION_BITS
        self.now_us = monotonic_us()
        self.now_ms = self.now_us // 1000
        self.wheel.now_tick = self.now_ms >> TICK_SHIFT
        self.unix_offset_us = unix_us() - self.now_us
        self.watcher = hub.loop.io(self.ep, 1)
        self.watcher.start(self.run_turn)

    def __dealloc__(self):
        if self.ep >= 0:
            close(self.ep)
        unpoison(self.inbox, INBOX_BYTES)
        free(self.inbox)
        free(self.scratch)
        free(self.events)
        free(self.generations)

    # -- sources

    cdef void watch(self, Source source, uint32_t events) except *:
        cdef uint32_t place
        if self.free_places:
            place = self.free_places.pop()
            self.table[place] = source
        else:
            place = len(self.table)
            if place >= self.generations_size:
                self.grow_generations()
            self.table.append(source)
        source.place = place
        if epoll_set(self.ep, EPOLL_CTL_ADD, source.fd, events, (<uint64_t>self.generations[place] << 32) | place):
            self.forget(source)
            raise OSError(errno, "epoll cannot take one more file descriptor")

    cdef void grow_generations(self) except *:
        cdef uint32_t *grown = <uint32_t *>realloc(self.generations, 2 * self.generations_size * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError("no room for another connection")
        memset(grown + self.generations_size, 0, self.generations_size * sizeof(uint32_t))
        self.generations = grown
        self.generations_size *= 2

    cdef void grow_scratch(self, size_t need) except *:
        """Only when nothing in it is lent: right after a flush. Bounded by the largest `max_head`."""
        cdef char *grown = <char *>realloc(self.scratch, need)
        if grown == NULL:
            raise MemoryError(f"no room for a head of {need} bytes")
        self.scratch = grown
        self.scratch_bytes = need

    cdef void rewatch(self, Source source, uint32_t events) noexcept:
        epoll_set(self.ep, EPOLL_CTL_MOD, source.fd, events, (<uint64_t>self.generations[source.place] << 32) | source.place)

    cdef void forget(self, Source source) except *:
        """Of a descriptor that is closed next and is nobody else's: that takes it out of the epoll set."""
        cdef uint32_t place = source.place
        self.generations[place] += 1
        self.table[place] = None
        self.free_places.append(place)
        source.place = 0

    cdef void unwatch(self, Source source) except *:
        """Of a descriptor that somebody else has too: a close alone would leave it in the set, to spin."""
        if source.place:
            epoll_set(self.ep, EPOLL_CTL_DEL, source.fd, 0, 0)
            self.forget(source)

    cdef void make_ready(self, Actor actor) except *:
        if not actor.queued:
            actor.queued = True
            if not self.in_turn and not self.ready:
                self.hub.loop.run_callback(self.run_turn)
            self.ready.append(actor)

    # -- a turn

    def run_turn(self):
        """Called by the hub when the epoll set is readable, or when somebody was made ready."""
        cdef int64_t started = monotonic_us(), took
        cdef int i, count, budget = EVENTS_PER_TURN
        cdef uint64_t data
        self.turn += 1
        self.in_turn = True
        self.unix_offset_us = unix_us() - started
        self.head.turn_started_ms = started // 1000
        while budget > 0:
            count = epoll_wait(self.ep, self.events, EVENTS_PER_WAIT, 0)
            for i in range(count):
                data = self.events[i].data.u64
                self.dispatch(data & 0xffffffff, data >> 32, self.events[i].events)
            if self.ready:
                self.run_ready()
            elif count <= 0:                     # asked once more than needed: cheaper than a round through the hub
                break
            budget -= count + 1
        self.now_us = monotonic_us()
        self.now_ms = self.now_us // 1000
        self.run_timers()
        self.in_turn = False
        if self.ready:
            self.hub.loop.run_callback(self.run_turn)
        took = self.now_us - started
        self.server[SERVER_LOOP_TURNS] += 1
        histogram_record(&self.server[SERVER_LOOP_TURN_US], took)
        if took > self.head.longest_turn_us:
            self.head.longest_turn_us = took
        self.head.heartbeat_ms = self.now_ms
        self.head.turn_started_ms = 0

    cdef void dispatch(self, uint32_t place, uint32_t generation, uint32_t events) except *:
        cdef Source source
        if self.generations[place] != generation:
            return
        source = <Source>PyList_GET_ITEM(self.table, place)
        self.now_us = monotonic_us()
        self.now_ms = self.now_us // 1000
        try:
            source.on_events(events)
            if self.slice_count:
                self.flush()
        except BaseException:
            self.crash(source)

    cdef void run_ready(self) except *:
        cdef Actor actor
        self.ready, self.ready_next = self.ready_next, self.ready
        for actor in self.ready_next:
            actor.queued = False
            self.now_us = monotonic_us()
            self.now_ms = self.now_us // 1000
            try:
                actor.on_turn()
                if self.slice_count:
                    self.flush()
            except BaseException:
                self.crash(actor)
        self.ready_next.clear()

    cdef void run_timers(self) except *:
        cdef Actor actor
        cdef int64_t next_ms
        while True:
            actor = self.wheel.pop_due(self.now_ms)
            if actor is None:
                break
            try:
                actor.on_timer(self.now_ms)
                if self.slice_count:
                    self.flush()
            except BaseException:
                self.crash(actor)
        next_ms = self.wheel.next_ms()
        if next_ms and (self.wake_ms == 0 or next_ms < self.wake_ms or self.wake_ms <= self.now_ms):
            self.wake_at(next_ms)

    cdef void wake_at(self, int64_t at_ms) except *:
        if self.waker is not None:
            self.waker.close()
        self.wake_ms = at_ms
        self.waker = self.hub.loop.timer(max(at_ms - monotonic_us() // 1000, 0) / 1000.0)
        self.waker.start(self.on_wake, update=True)

    def on_wake(self):
        self.wake_ms = 0
        self.run_turn()

    cdef void crash(self, Actor actor) except *:
        """An exception of our own code: one actor goes, the batch goes on, and nobody misses it in the counters.

        What was gathered is lost with the event that it was lent in, so whoever gathered has to go too: its peer would miss bytes unseen.
        """
        cdef Gatherer gatherer = self.gatherer
        self.server[SERVER_EXCEPTIONS] += 1
        self.log.exception("event=exception place=%s", type(actor).__name__)
        self.slice_count = 0
        self.scratch_used = 0
        self.gatherer = None
        try:
            actor.on_crash()
            if gatherer is not None and gatherer is not actor:
                gatherer.on_crash()
        except BaseException:
            self.log.exception("event=exception_while_closing place=%s", type(actor).__name__)

    cdef void flush(self) except *:
        """Send what was gathered in this event."""
        cdef Gatherer gatherer = self.gatherer
        cdef int count = self.slice_count
        self.gatherer = None
        self.slice_count = 0
        self.scratch_used = 0                    # the slices are sent or copied before anything else can be composed
        if count:
            gatherer.flush_slices(self.slices, count)

    # -- timers, time, chance

    cdef void set_timer(self, Actor actor, int64_t deadline_ms) noexcept:
        cdef Timer *timer = &actor.timer
        timer.deadline_ms = deadline_ms
        if deadline_ms == 0 or (timer.filed_ms and timer.filed_ms <= deadline_ms):
            return
        self.wheel.unfile(timer)
        self.wheel.file(timer, deadline_ms)

    cdef void forget_timer(self, Actor actor) noexcept:
        actor.timer.deadline_ms = 0
        self.wheel.unfile(&actor.timer)

    def beat(self):
        """The heartbeat of a worker without traffic; also the loop's view of time for those who come from outside a turn."""
        self.now_us = monotonic_us()
        self.now_ms = self.now_us // 1000
        self.head.heartbeat_ms = self.now_ms

    def settle(self):
        """After work outside of a turn: send what was gathered, arm the hub's timer for what was filed."""
        cdef int64_t next_ms
        self.flush()
        next_ms = self.wheel.next_ms()
        if next_ms and (self.wake_ms == 0 or next_ms < self.wake_ms):
            self.wake_at(next_ms)

    cdef int64_t new_connection_id(self) noexcept:
        self.last_connection_id += 1
        return self.last_connection_id

    cdef uint64_t random(self) noexcept:
        """xoshiro256** (Blackman and Vigna 2018): for balancing and request ids, not for secrets."""
        cdef uint64_t *s = self.random_state
        cdef uint64_t result = s[1] * 5, t = s[1] << 17
        result = ((result << 7) | (result >> 57)) * 9
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = (s[3] << 45) | (s[3] >> 19)
        return result

    cdef const char *http_date(self) noexcept:
        """The Date header's value (RFC 9110 5.6.7), 29 bytes, made once a second."""
        cdef int64_t second = (self.unix_offset_us + self.now_us) // 1000000
        cdef bytes text
        if second != self.date_second:
            text = strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(second)).encode()
            memcpy(self.date, <const char *>text, 29)
            self.date_second = second
        return self.date

    # -- memory of queues

    cdef Block *take_block(self, size_t need) except NULL:
        cdef Block *block
        if need <= BLOCK_BYTES and self.free_blocks != NULL:
            block = self.free_blocks
            self.free_blocks = block.next
            self.free_block_count -= 1
        else:
            need = need if need > BLOCK_BYTES else BLOCK_BYTES
            block = <Block *>malloc(sizeof(Block) + need)
            if block == NULL:
                raise MemoryError(f"no room for {need} bytes of a queue")
            block.capacity = need
        block.next = NULL
        block.start = block.end = 0
        return block

    cdef void give_block(self, Block *block) noexcept:
        if block.capacity == BLOCK_BYTES and self.free_block_count < FREE_BLOCKS:
            block.next = self.free_blocks
            self.free_blocks = block
            self.free_block_count += 1
        else:
            free(block)


cdef class Alarm(Actor):
    """An actor that only notes when it was called."""
    cdef readonly int64_t fired_ms

    cdef void on_timer(self, int64_t now_ms) except *:
        self.fired_ms = now_ms


def try_wheel(int64_t start_ms, list deadlines_ms, list looks_ms):
    """For tests: file timers for `deadlines_ms`, look at `looks_ms` in turn; when each fired (0 = never), and what `next_ms` said before each look."""
    cdef Wheel wheel = Wheel()
    cdef Alarm alarm
    cdef list alarms = [Alarm() for _ in deadlines_ms], said = []
    cdef int64_t look
    wheel.now_tick = start_ms >> TICK_SHIFT
    for alarm, deadline in zip(alarms, deadlines_ms):
        alarm.timer.deadline_ms = deadline
        wheel.file(&alarm.timer, deadline)
    for look in looks_ms:
        said.append(wheel.next_ms())
        alarm = <Alarm>wheel.pop_due(look)
        while alarm is not None:
            alarm.on_timer(look)
            alarm = <Alarm>wheel.pop_due(look)
    for alarm in alarms:
        wheel.unfile(&alarm.timer)
    return [alarm.fired_ms for alarm in alarms], said, wheel.count
