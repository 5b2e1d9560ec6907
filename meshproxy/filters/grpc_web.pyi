"""gRPC-Web to gRPC and back."""

from meshproxy.proxy.exchange import FilterMaker

class GrpcWebMaker(FilterMaker):
    def __init__(self) -> None: ...
