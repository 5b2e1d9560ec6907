"""What an endpoint is told of a client before the client's first byte: the PROXY header."""

from meshproxy.proxy.connection cimport ConnectionInfo

# `cluster` is a model.Cluster with `proxy_protocol`.
cdef bytes introduction(cluster, ConnectionInfo info)
