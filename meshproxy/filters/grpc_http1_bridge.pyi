"""Unary gRPC for HTTP/1.1 clients."""

from meshproxy.model import GrpcHttp1Bridge
from meshproxy.proxy.exchange import FilterMaker

class GrpcHttp1BridgeMaker(FilterMaker):
    def __init__(self, model: GrpcHttp1Bridge) -> None: ...
