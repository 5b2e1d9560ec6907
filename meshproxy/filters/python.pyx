"""The user's filters, in plain Python.

    class Deny:
        def __init__(self, **settings): ...
        def on_request(self, request):
            if request.path.startswith("/internal"):
                request.respond(403, "not for you")

`on_request` runs in a greenlet, so it may wait: gevent's sockets, locks and sleeps let other requests go on meanwhile.
"""

import re

import greenlet as _greenlet
from gevent import get_hub

from libc.stdint cimport uint32_t
from meshproxy.codecs.http1 cimport HeaderField
from meshproxy.proxy.headers cimport drop_fields
from meshproxy.proxy.lines cimport lines_add, lines_find, lines_remove, strncasecmp
from meshproxy.proxy.outcome cimport BY_FILTER, FILTER_FAILED
from meshproxy.proxy.runtime cimport Actor
from meshproxy.scoreboard.cells cimport SERVER_PYTHON_FILTER_ERRORS

cdef extern from "greenlet/greenlet.h":
    object PyGreenlet_Switch(greenlet g, object args, object kwargs)
    greenlet PyGreenlet_New(object run, greenlet parent)
    void PyGreenlet_Import()

PyGreenlet_Import()

cdef enum:
    PARKED_MOST = 256                    # greenlets kept for the next burst; each holds some KiB of stack

cdef tuple NOTHING = ()


def _token(text, what):
    """`text` as bytes that may stand in a head, or ValueError."""
    data = text.encode("latin-1") if isinstance(text, str) else bytes(text)
    if any(byte < 32 and byte != 9 or byte == 127 for byte in data):
        raise ValueError(f"{what} {text!r} has a control character")
    return data


cdef class Request:
    @property
    def method(self):
        """The method, as sent: `GET`."""
        self.check()
        cdef Exchange x = self.exchange
        return (<const char *>(x.bytes + x.head.method_at))[:x.head.method_length].decode("ascii")

    @property
    def path(self):
        """Path and query, as the router will see them."""
        self.check()
        return self.exchange.path[:self.exchange.path_length].decode("latin-1")

    @property
    def host(self):
        """The authority: host, with its port if the client sent one."""
        self.check()
        return self.exchange.authority[:self.exchange.authority_length].decode("latin-1")

    @property
    def remote_address(self):
        """The IP address of the socket's peer; "" for a UNIX socket."""
        self.check()
        return self.exchange.downstream.info.remote_ip[:self.exchange.downstream.info.remote_ip_length].decode("ascii")

    def header(self, name, default=None):
        """The first value of a header, whatever its case, as it will go upstream."""
        self.check()
        cdef Exchange x = self.exchange
        cdef bytes key = name.encode("latin-1")
        cdef uint32_t length = 0
        cdef const char *value = lines_find(&x.request_lines, <const char *>key, len(key), &length)
        cdef HeaderField *field
        cdef int i
        if value != NULL:
            return value[:length].decode("latin-1")
        for i in range(x.head.count):
            field = &x.head.fields[i]
            if field.name_length == <uint32_t>len(key) and not field.hop_by_hop and strncasecmp(x.bytes + field.name_at, <const char *>key, len(key)) == 0:
                return (<const char *>(x.bytes + field.value_at))[:field.value_length].decode("latin-1")
        return default

    def headers(self):
        """All headers as they came, in order: pairs of name and value. A new list each time."""
        self.check()
        cdef Exchange x = self.exchange
        cdef HeaderField *field
        cdef int i
        pairs = []
        for i in range(x.head.count):
            field = &x.head.fields[i]
            if not field.hop_by_hop:
                pairs.append((
                    (<const char *>(x.bytes + field.name_at))[:field.name_length].decode("latin-1"),
                    (<const char *>(x.bytes + field.value_at))[:field.value_length].decode("latin-1"),
                ))
        return pairs

    def add_header(self, name, value):
        """Send one more header upstream."""
        self.check()
        cdef bytes key = _token(name, "header name"), data = _token(value, "header value")
        if not TOKEN.fullmatch(key) or key.lower() in FRAMING:
            raise ValueError(f"header {name!r} cannot be set by a filter: it is no name, or it frames the message")
        lines_add(&self.exchange.request_lines, <const char *>key, len(key), <const char *>data, len(data))

    def set_header(self, name, value):
        """Send this header upstream in place of all of its name."""
        self.remove_header(name)
        self.add_header(name, value)

    def remove_header(self, name):
        """Send no header of this name upstream."""
        self.check()
        cdef bytes key = _token(name, "header name")
        if key.lower() in FRAMING:
            raise ValueError(f"header {name!r} cannot be removed by a filter: it frames the message")
        drop_fields(self.exchange.bytes, &self.exchange.head, <const char *>key, len(key))
        lines_remove(&self.exchange.request_lines, <const char *>key, len(key))

    def respond(self, int status, body=b"", content_type="text/plain"):
        """Answer from here; the request goes nowhere. The first answer counts."""
        self.check()
        if not 200 <= status <= 599:
            raise ValueError(f"status {status} is no answer: 200 to 599")
        if not self.answer_status:
            self.answer_status = status
            self.answer_body = body.encode() if isinstance(body, str) else bytes(body)
            self.answer_type = _token(content_type, "content type")

    cdef void check(self) except *:
        if self.cancelled or self.done:
            raise RuntimeError("this request is over; keep values, not the request")


TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"trailer", b"te"))


cdef class Greenlets:
    def __init__(self):
        self.parked = []
        self.hub = get_hub()


def run_parked(Greenlets greenlets, PythonFilters owner, Request request):
    """A greenlet's life: run one request's filters, park, be handed the next. Parked, it holds nothing of the last."""
    while True:
        owner.run_filters(request)
        owner = request = None
        if len(greenlets.parked) >= PARKED_MOST:
            return
        greenlets.parked.append(_greenlet.getcurrent())
        _, owner, request = greenlets.hub.switch()


cdef class PythonFilters(FilterRunner):
    def __init__(self, on_requests, Greenlets greenlets, log):
        self.filters = tuple(on_requests)
        self.greenlets = greenlets
        self.log = log

    cdef bint run(self, Exchange exchange) except *:
        """Called in the hub. A filter that does not wait is done when this returns."""
        cdef Request request = Request.__new__(Request)
        cdef Greenlets greenlets = self.greenlets
        cdef object chosen = greenlets.parked.pop() if greenlets.parked else PyGreenlet_New(run_parked, greenlets.hub)
        request.exchange = exchange
        exchange.filter_state = request
        PyGreenlet_Switch(chosen, (greenlets, self, request), None)
        if not request.done:
            request.waits = True
            return False
        self.finish(request)
        return True

    def run_filters(self, Request request):
        """In the greenlet: every filter in turn, until one answers or the client is gone."""
        try:
            for on_request in self.filters:
                on_request(request)
                if request.answer_status or request.cancelled:
                    break
        except BaseException:                    # gevent.Timeout is no Exception; nothing may end a parked greenlet
            if not request.cancelled:
                request.exchange.runtime.server[SERVER_PYTHON_FILTER_ERRORS] += 1
                self.log.exception("event=filter_failed")
                request.answer_status = -1
        request.done = True
        if request.waits and not request.cancelled:
            request.exchange.runtime.make_ready(FilterEnd(self, request))

    cdef void finish(self, Request request) except *:
        """In the hub: carry out what the filters decided."""
        cdef Exchange exchange = request.exchange
        exchange.filter_state = None
        request.exchange = None
        if request.answer_status == -1:
            exchange.fail(FILTER_FAILED)
        elif request.answer_status:
            exchange.answer(
                BY_FILTER, request.answer_status, <const char *>request.answer_body, len(request.answer_body), <const char *>request.answer_type,
            )

    cdef void cancel(self, Exchange exchange) except *:
        """The client is gone while a filter waits: it may end in peace, its word no longer counts."""
        (<Request>exchange.filter_state).cancelled = True
        exchange.filter_state = None


cdef class FilterEnd(Actor):
    """On the ready list: filters that had to wait are through."""
    cdef PythonFilters owner
    cdef Request request
    cdef Exchange exchange

    def __init__(self, PythonFilters owner, Request request):
        self.owner = owner
        self.request = request
        self.exchange = request.exchange

    cdef void on_crash(self) except *:
        if self.exchange.filter_state is None and not self.request.cancelled:
            self.exchange.on_crash()

    cdef void on_turn(self) except *:
        cdef Exchange exchange = self.exchange
        if not self.request.cancelled:
            self.owner.finish(self.request)
            exchange.on_filters_done()
