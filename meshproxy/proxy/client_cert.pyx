"""See the .pxd. Envoy's five modes; only over TLS with a client's certificate is anything said or, but for one mode, forwarded."""

import re

from meshproxy.codecs.http1 cimport HEADER_X_FORWARDED_CLIENT_CERT, HeaderField
from meshproxy.proxy.connection cimport TlsFacts
from meshproxy.proxy.headers cimport drop_known
from meshproxy.proxy.lines cimport lines_add, lines_raw

CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")
"""A certificate says what its maker liked; a header's value is one line (RFC 9110 5.5)."""
SEPARATORS = re.compile(rb'[,;="]')
MODES = ("sanitize", "forward_only", "append_forward", "sanitize_set", "always_forward_only")

cdef enum:
    NAME_LENGTH = 23

cdef const char *NAME = b"x-forwarded-client-cert"


cdef class ClientCertRule:
    def __init__(self, model):
        self.mode = MODES.index(model.mode)
        self.subject, self.cert, self.chain, self.dns, self.uri = model.subject, model.cert, model.chain, model.dns, model.uri

    cdef void apply(self, ConnectionInfo info, const char *bytes, Head *head, Lines *lines) except *:
        cdef TlsFacts facts = info.tls_facts
        if self.mode == CERT_ALWAYS_FORWARD_ONLY:
            return
        if self.mode == CERT_SANITIZE or facts is None or not facts.presented:
            drop_known(head, HEADER_X_FORWARDED_CLIENT_CERT)
            return
        if self.mode == CERT_FORWARD_ONLY:
            return
        if facts.forwarded_by is not self:
            facts.forwarded = said(self, facts)
            facts.forwarded_by = self
        if self.mode == CERT_SANITIZE_SET:
            drop_known(head, HEADER_X_FORWARDED_CLIENT_CERT)
            lines_add(lines, NAME, NAME_LENGTH, <const char *>facts.forwarded, len(facts.forwarded))
            return
        lines_raw(lines, b"x-forwarded-client-cert: ", 25)
        take_over(bytes, head, lines)
        lines_raw(lines, <const char *>facts.forwarded, len(facts.forwarded))
        lines_raw(lines, b"\r\n", 2)


cdef void take_over(const char *bytes, Head *head, Lines *into) except *:
    """Drop the header that came; its values go, each with a comma behind it, to `into`."""
    cdef HeaderField *field
    cdef int i = head.known[HEADER_X_FORWARDED_CLIENT_CERT]
    while 0 <= i < head.count:
        field = &head.fields[i]
        if field.id == HEADER_X_FORWARDED_CLIENT_CERT and not field.hop_by_hop:
            field.hop_by_hop = 1
            lines_raw(into, bytes + field.value_at, field.value_length)
            lines_raw(into, b",", 1)
        i += 1


def percent(found):
    return b"%%%02X" % found[0][0]


def quoted(value: bytes) -> bytes:
    """A value of an element, in double quotes where it would not be read back as one: a name must not look like elements of its own."""
    return b'"' + value.replace(b'"', b'\\"') + b'"' if SEPARATORS.search(value) else value


cdef bytes said(ClientCertRule rule, TlsFacts facts):
    """The element for this hop: by whom (our certificate's URI), the hash, and what was asked for."""
    cdef list parts = []
    if not facts.loaded:
        facts.load()
    if facts.local_uri_sans:
        parts.append(b"By=" + quoted(facts.local_uri_sans[0]))
    parts.append(b"Hash=" + facts.fingerprint_256)
    if rule.cert:
        parts.append(b'Cert="' + facts.pem + b'"')
    if rule.chain:
        parts.append(b'Chain="' + facts.chain_pem + b'"')
    if rule.subject:
        parts.append(b'Subject="' + facts.subject + b'"')        # RFC 2253 has put a backslash before quotes
    if rule.uri:
        parts += [b"URI=" + quoted(uri) for uri in facts.uri_sans] or [b"URI="]
    if rule.dns:
        parts += [b"DNS=" + quoted(name) for name in facts.dns_sans]
    return CONTROLS.sub(percent, b";".join(parts))
