"""The program of `peers.xds_server`: a gRPC server that takes any stream and does as it is told, a line of JSON a time.

On standard output: `{"stream": N, "open": METHOD, "metadata": {...}}`, `{"stream": N, "request": BASE64}`, `{"stream": N, "end": ""}`.
From standard input: `{"stream": N, "send": BASE64}`, `{"stream": N, "close": STATUS}`, `{"listen": true}`, `{"stop": true}` (the port
refuses), `{"refuse": STATUS}` (new streams end with it; "" = none any more). Run by path, in a process of its own: grpcio's threads and a
test's hub or forks do not mix.
"""

from __future__ import annotations

import base64
import itertools
import json
import queue
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 256 << 20), ("grpc.so_reuseport", 0))


class Relay(grpc.GenericRpcHandler):
    """All streams of one process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._numbers = itertools.count(1)
        self._streams: dict[int, queue.Queue] = {}
        self._writing = threading.Lock()
        self._refused = ""
        self._server: grpc.Server | None = None

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._stream(method, metadata, requests, context))

    def _stream(self, method: str, metadata: dict[str, str], requests: Any, context: grpc.ServicerContext) -> Any:
        if self._refused:
            self.tell(refused=method)
            context.abort(_status(self._refused), "refused by the test")
        number, orders = next(self._numbers), queue.Queue()
        self._streams[number] = orders
        self.tell(stream=number, open=method, metadata=metadata)
        context.add_callback(lambda: orders.put(("gone", "")))
        threading.Thread(target=self._read, args=(number, requests, orders), daemon=True).start()
        while True:
            verb, what = orders.get()
            if verb == "send":
                yield base64.b64decode(what)
            elif verb == "close" and what != "OK":
                context.abort(_status(what), "closed by the test")
            else:
                return

    def _read(self, number: int, requests: Any, orders: queue.Queue) -> None:
        try:
            for request in requests:
                self.tell(stream=number, request=base64.b64encode(request).decode())
        except grpc.RpcError:
            pass
        except Exception as error:  # a stream that the other side cut
            self.tell(note=type(error).__name__)
        self.tell(stream=number, end="")
        orders.put(("gone", ""))

    def tell(self, **what: Any) -> None:
        with self._writing:
            print(json.dumps(what), flush=True)

    def listen(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(32), handlers=(self,), options=OPTIONS)
        tls = self._settings.get("tls")
        if tls:
            key, chain, ca = (Path(tls[name]).read_bytes() if tls.get(name) else None for name in ("key", "chain", "ca"))
            credentials = grpc.ssl_server_credentials([(key, chain)], ca, bool(ca))
            port = self._server.add_secure_port(self._settings["address"], credentials)
        else:
            port = self._server.add_insecure_port(self._settings["address"])
        self._server.start()
        # Again on the same port, when it listens again.
        self._settings["address"] = self._settings["address"].replace("127.0.0.1:0", f"127.0.0.1:{port}")
        self.tell(listening=True, port=port)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
        self.tell(listening=False)

    def run(self) -> None:
        self.listen()
        for line in sys.stdin:
            order = json.loads(line)
            if "listen" in order:
                self.listen()
            elif "stop" in order:
                self.stop()
            elif "refuse" in order:
                self._refused = order["refuse"]
            else:
                stream = self._streams.get(order["stream"])
                verb = "send" if "send" in order else "close"
                if stream is not None:
                    stream.put((verb, order[verb]))
        self.stop()


def _status(name: str) -> grpc.StatusCode:
    return grpc.StatusCode[name]


if __name__ == "__main__":
    Relay(json.loads(sys.argv[1])).run()
