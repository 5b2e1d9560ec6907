"""See the .pxd. Behind a UNIX socket nobody has an address to tell."""

from meshproxy.codecs.proxyproto cimport (
    PROXY_BYTES_AT_MOST, PROXY_V1_BYTES_AT_MOST, proxy_compose_v1, proxy_compose_v2, proxy_v2_length,
)
from meshproxy.workers.listener cimport find_local


cdef bytes introduction(cluster, ConnectionInfo info):
    cdef object wanted = cluster.proxy_protocol_tlvs
    cdef list tlvs = []
    cdef int family = 6
    cdef char v1[PROXY_V1_BYTES_AT_MOST]
    cdef bytearray v2
    find_local(info)
    if info.remote.family == 0 or info.local.family == 0:
        family = 0
    elif info.remote.family == 4 and info.local.family == 4:
        family = 4
    if cluster.proxy_protocol == "v1":
        return v1[:proxy_compose_v1(v1, family, info.remote.ip, info.remote.port, info.local.ip, info.local.port)]
    if info.proxy_tlvs is not None:
        tlvs = [tlv for tlv in info.proxy_tlvs if wanted is None or tlv[0] in wanted]
    if proxy_v2_length(family, tlvs) > PROXY_BYTES_AT_MOST:
        tlvs = []
    v2 = bytearray(proxy_v2_length(family, tlvs))
    proxy_compose_v2(<char *>v2, family, info.remote.ip, info.remote.port, info.local.ip, info.local.port, tlvs)
    return bytes(v2)
