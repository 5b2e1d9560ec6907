"""See the .pxd. Bytes are looked at with MSG_PEEK: whoever serves the connection finds them as the client sent them.

An edge-triggered socket that was peeked at tells of each further segment, so nobody polls. A peer that has sent its end raises no edge any
more, and peeking at bytes that stay never finds that end: then the filters have to make do with what is there.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset
from meshproxy.proxy.connection cimport ConnectionInfo, IpPort
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport sum_cell
from meshproxy.workers.listener cimport Inspector, Listener
from meshproxy.workers.loop cimport INBOX_BYTES, Loop
from meshproxy.workers.net cimport *

from meshproxy.model import SocketAddress

cdef enum:
    NO_CELL = -1


cdef class ListenerFilter:
    cdef bint wants_bytes(self, ConnectionInfo info) noexcept:
        return self.most > 0

    cdef int look(self, Inspection inspection, const char *data, size_t length, bint ended) except *:
        return LOOK_DONE


cdef class Waiting:
    def __init__(self, Loop loop):
        self.loop = loop

    cdef void add(self, Inspection inspection) except *:
        """Who waits counts as a connection of the worker. At its limit the one that has been silent longest goes: clients that mean it say
        something at once."""
        cdef int64_t room = inspection.listener.max_worker_connections - self.loop.server[SERVER_TOTAL_CONNECTIONS]
        cdef Inspection oldest = self.oldest
        if oldest is not None and self.count >= room:
            oldest.drop(LISTENER_DOWNSTREAM_PRE_CX_OVERFLOW)
        inspection.older = self.newest
        if self.newest is None:
            self.oldest = inspection
        else:
            self.newest.newer = inspection
        self.newest = inspection
        self.count += 1

    cdef void remove(self, Inspection inspection) noexcept:
        if inspection.older is None:
            self.oldest = inspection.newer
        else:
            inspection.older.newer = inspection.newer
        if inspection.newer is None:
            self.newest = inspection.older
        else:
            inspection.newer.older = inspection.older
        inspection.older = inspection.newer = None
        self.count -= 1

    def drain(self, bint close_idle):
        """With `close_idle` those that have not said a word close; the others are served."""
        cdef Inspection inspection = self.oldest, newer
        while inspection is not None:
            newer = inspection.newer
            if close_idle and inspection.peek() <= 0:
                inspection.drop(NO_CELL)                 # it may have ended by an error already
            inspection = newer
        poison(self.loop.inbox, INBOX_BYTES)


cdef class Destinations:
    def __init__(self):
        self.listeners = {}
        self.keys = {}

    def put(self, Listener listener):
        """It is there, perhaps with other addresses than before."""
        self.take_away(listener)
        keys = self.keys[listener] = []
        for address in listener.model.addresses:
            if isinstance(address, SocketAddress):
                keys += keys_of(address.host, address.port, listener.model.ipv6_only)
        for key in keys:
            self.listeners[key] = listener

    def take_away(self, Listener listener):
        for key in self.keys.pop(listener, ()):
            if self.listeners.get(key) is listener:
                del self.listeners[key]

    cdef Listener find(self, const IpPort *place):
        """By the exact address, else the one for every address of that port; None = neither is there."""
        cdef IpPort any_ip
        found = self.listeners.get(key_of(place))
        if found is None:
            any_ip = place[0]
            memset(&any_ip.ip[12 if place.family == 4 else 0], 0, 4 if place.family == 4 else 16)
            found = self.listeners.get(key_of(&any_ip))
        return <Listener>found


cdef bytes key_of(const IpPort *place):
    cdef char key[19]
    key[0] = place.family
    memcpy(&key[1], place.ip, 16)
    memcpy(&key[17], &place.port, 2)
    return key[:19]


cdef list keys_of(str host, int port, bint ipv6_only):
    """A listener's address; an IPv6 wildcard may stand for IPv4 as well."""
    cdef Sockaddr address
    cdef IpPort place
    cdef bytes text = host.encode()
    cdef list keys = []
    for text in (text, b"0.0.0.0") if text == b"::" and not ipv6_only else (text,):
        memset(&place, 0, sizeof(IpPort))
        if make_address(&address, text, len(text), port) == 0:
            place.family = put_binary_ip(place.ip, &address)
            place.port = port
            keys.append(key_of(&place))
    return keys


cdef class ListenerFilters:
    def __init__(self, Loop loop, Waiting waiting, list filters, model, Destinations destinations):
        self.loop = loop
        self.waiting = waiting
        self.filters = filters
        self.timeout_ms = int(model.filters_timeout_s * 1000)
        self.continues = model.continue_on_filters_timeout
        self.destinations = destinations if model.use_original_dst else None

    cdef void inspect(self, Listener listener, int fd, ConnectionInfo info) except *:
        self.begin(listener, fd, info, self.destinations is None)

    cdef void begin(self, Listener listener, int fd, ConnectionInfo info, bint handed) except *:
        cdef Inspection inspection = Inspection()
        cdef ListenerFilter listener_filter
        inspection.owner = self
        inspection.listener = listener
        inspection.info = info
        inspection.handed = handed
        inspection.fd = fd
        try:
            while inspection.at < len(self.filters):
                listener_filter = <ListenerFilter>self.filters[inspection.at]
                if listener_filter.wants_bytes(info):
                    break
                listener_filter.look(inspection, NULL, 0, False)
                inspection.at += 1
            else:
                inspection.finish()
                return
            self.waiting.add(inspection)
            listener.cells[LISTENER_DOWNSTREAM_PRE_CX_ACTIVE] += 1
            if self.timeout_ms:
                self.loop.set_timer(inspection, self.loop.now_ms + self.timeout_ms)
            self.loop.watch(inspection, EPOLLIN | EPOLLRDHUP | EPOLLET)
        except BaseException:
            inspection.drop(NO_CELL)
            raise

    cdef void pass_on(self, Listener listener, int fd, ConnectionInfo info) except *:
        """To the listener that is for the address that the client meant: its own filters have their turn. Without one, this is the one."""
        cdef Listener meant = self.destinations.find(&info.local) if info.local.family else None
        cdef int64_t limit
        if meant is None or meant is listener:
            listener.on_inspected(fd, info)
            return
        meant.cells[LISTENER_DOWNSTREAM_CX_TOTAL] += 1
        limit = meant.max_connections
        if limit and sum_cell(meant.pages, meant.slots, meant.first_cell + LISTENER_DOWNSTREAM_CX_ACTIVE) >= limit:
            meant.cells[LISTENER_DOWNSTREAM_CX_OVERFLOW] += 1
            close(fd)
        elif meant.inspector is None:
            meant.on_inspected(fd, info)
        else:
            (<ListenerFilters>meant.inspector).begin(meant, fd, info, True)


cdef class Inspection:
    cdef void on_events(self, uint32_t events) except *:
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.ended = True
        self.advance()

    cdef void advance(self) except *:
        """The filters in their order, as far as the bytes that are there take them."""
        cdef ListenerFilter listener_filter
        cdef char *inbox = self.owner.loop.inbox
        cdef ssize_t there = -1
        cdef int said
        cdef size_t seen
        while self.at < len(self.owner.filters):
            listener_filter = <ListenerFilter>self.owner.filters[self.at]
            seen = 0
            if listener_filter.wants_bytes(self.info):
                if there < 0:
                    there = self.peek()
                if there <= 0:
                    if there == 0:
                        self.drop(LISTENER_DOWNSTREAM_LISTENER_FILTER_REMOTE_CLOSE)
                    return
                seen = min(<size_t>there, listener_filter.most)
            said = listener_filter.look(self, inbox, seen, self.ended)
            if said == LOOK_MORE:
                self.scanned = seen
                poison(inbox, INBOX_BYTES)
                return
            if said == LOOK_REFUSED:
                poison(inbox, INBOX_BYTES)
                self.drop(NO_CELL)                       # the filter has counted why
                return
            if self.taken:
                recv(self.fd, inbox, self.taken, 0)      # they are there: they were seen
                self.taken = 0
                there = -1
            self.scanned = 0
            self.at += 1
        poison(inbox, INBOX_BYTES)
        self.finish()

    cdef ssize_t peek(self) except? -2:
        """What has come, in the inbox; 0 = the peer's end; -1 = nothing yet, or an error that has ended it."""
        cdef Loop loop = self.owner.loop
        cdef ssize_t there
        unpoison(loop.inbox, INBOX_BYTES)
        there = recv(self.fd, loop.inbox, INBOX_BYTES, MSG_PEEK)
        if there >= 0:
            return there
        if errno == EAGAIN:
            return -1
        if errno == EINTR:
            loop.make_ready(self)
            return -1
        self.drop(LISTENER_DOWNSTREAM_LISTENER_FILTER_ERROR)
        return -1

    cdef void on_turn(self) except *:
        if self.fd >= 0:
            self.advance()

    cdef void on_timer(self, int64_t now_ms) except *:
        self.listener.cells[LISTENER_DOWNSTREAM_PRE_CX_TIMEOUT] += 1
        if self.owner.continues:
            self.finish()
        else:
            self.drop(NO_CELL)

    cdef void on_crash(self) except *:
        self.drop(NO_CELL)

    cdef void leave(self) except *:
        cdef Loop loop = self.owner.loop
        if self.place:
            loop.unwatch(self)
        loop.forget_timer(self)
        if self.older is not None or self.newer is not None or self.owner.waiting.oldest is self:
            self.owner.waiting.remove(self)
            self.listener.cells[LISTENER_DOWNSTREAM_PRE_CX_ACTIVE] -= 1

    cdef void finish(self) except *:
        cdef int fd = self.fd
        self.leave()
        self.fd = -1
        if self.handed:
            self.listener.on_inspected(fd, self.info)
        else:
            self.owner.pass_on(self.listener, fd, self.info)

    cdef void drop(self, int cell) except *:
        """Close it; `cell` counts why."""
        cdef int fd
        if self.fd < 0:
            return
        if cell != NO_CELL:
            self.listener.cells[cell] += 1
        self.leave()
        fd = self.fd
        self.fd = -1
        self.listener.refuse(fd, self.info)
