"""Who may do what over HTTP. It decides when a request's head is here; one that may pass costs nothing more.

Tunnels (WebSocket, CONNECT) are asked about too: their head says what is wanted as that of any request does.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memchr
from meshproxy.proxy cimport headers
from meshproxy.proxy.connection cimport ConnectionInfo, IpPort
from meshproxy.proxy.exchange cimport Exchange, FilterMaker, StreamFilter
from meshproxy.proxy.outcome cimport ACCESS_DENIED
from meshproxy.proxy.rbac cimport Asking, PolicyList, put_ip, refusal
from meshproxy.proxy.request_match cimport Offer, RouteInput
from meshproxy.scoreboard.cells cimport HTTP_RBAC_ALLOWED, HTTP_RBAC_DENIED, RBAC_SHADOW_SHADOW_ALLOWED, RBAC_SHADOW_SHADOW_DENIED
from meshproxy.scoreboard.region cimport Region


cdef class RbacMaker(FilterMaker):
    cdef PolicyList rules, shadow        # None = there are none
    cdef int64_t *cells                  # the HTTP_RBAC block
    cdef int64_t *shadow_cells           # the RBAC_SHADOW block

    def __init__(self, model, Region region, int slot, int64_t cell, int64_t shadow_cell):
        """`shadow_cell` is of no meaning without shadow rules. Raises ConfigError for patterns that are none."""
        self.decides = True
        self.rules = None if model.rules is None else PolicyList(model.rules)
        self.shadow = None if model.shadow is None else PolicyList(model.shadow)
        self.cells = region.page(slot) + cell
        self.shadow_cells = region.page(slot) + shadow_cell

    cdef StreamFilter make(self, Exchange x):
        cdef ConnectionInfo info = x.downstream.info
        cdef RouteInput request
        cdef Offer offer
        cdef Asking asking
        cdef IpPort client
        cdef const char *query
        cdef bytes name
        headers.fill_input(x, &request)
        offer.request = &request
        offer.added, offer.added_length = x.request_lines.at, x.request_lines.length
        query = <const char *>memchr(request.path, b'?', request.path_length)
        offer.query = NULL if query == NULL else query + 1
        offer.query_length = 0 if query == NULL else <uint32_t>(request.path_length - (query + 1 - request.path))
        asking.request, asking.remote = &offer, &info.remote
        if x.client_ip_length:
            put_ip(&client, x.client_ip, x.client_ip_length)
            asking.remote = &client
        if self.shadow is not None:
            self.shadow_cells[
                RBAC_SHADOW_SHADOW_ALLOWED if self.shadow.lets_pass(self.shadow.find(info, &asking)) else RBAC_SHADOW_SHADOW_DENIED
            ] += 1
        if self.rules is None:
            return None
        name = self.rules.find(info, &asking)
        if self.rules.lets_pass(name):
            self.cells[HTTP_RBAC_ALLOWED] += 1
            return None
        self.cells[HTTP_RBAC_DENIED] += 1
        x.details = refusal(name)
        return Denial()


cdef class Denial(StreamFilter):
    cdef void on_request_head(self) except *:
        self.exchange.answer(ACCESS_DENIED, 403, b"RBAC: access denied", 0, b"text/plain")
