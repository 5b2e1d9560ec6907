"""A gRPC server and calls to it, by grpcio, in processes of their own: its threads and ours do not mix.

The service `test.Echo` speaks bytes. `Unary` answers its message twice over, `Fail` ends with the status and words that the message says,
`Slow` sleeps as many milliseconds as it says, `Stream` sends the message so many times as its first byte says, `Both` echoes each message
as it comes, `Collect` answers the number of messages, `Numbered` sends what `numbered` says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.peers.process import Peer, free_ports, peer_environment

SERVER = """
import json, sys, time
from concurrent import futures
import grpc

def fail(message, context):
    code, _, words = message.decode().partition(" ")
    context.set_trailing_metadata((("x-trailing", "yes"),))
    context.abort([each for each in grpc.StatusCode if each.value[0] == int(code)][0], words)

def slow(message, context):
    time.sleep(int(message) / 1000)
    return b"late"

def both(messages, context):
    for message in messages:
        yield message

def numbered(message, context):
    tag, count, size = message.split()
    for number in range(int(count)):
        yield (tag + b" %d " % number).ljust(int(size), b".")

methods = {
    "Numbered": grpc.unary_stream_rpc_method_handler(numbered),
    "Unary": grpc.unary_unary_rpc_method_handler(lambda message, context: message * 2),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Stream": grpc.unary_stream_rpc_method_handler(lambda message, context: (message for _ in range(message[0]))),
    "Collect": grpc.stream_unary_rpc_method_handler(lambda messages, context: str(sum(1 for _ in messages)).encode()),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}
options = [("grpc.max_receive_message_length", 64 << 20), *json.loads(sys.argv[3]).items()]
server = grpc.server(futures.ThreadPoolExecutor(int(sys.argv[2])), options=options)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""

CALLS = """
import json, sys
import grpc

channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=(("grpc.max_receive_message_length", 64 << 20),))

def told(error):
    return {"code": error.code().value[0], "details": error.details(), "trailing": dict(error.trailing_metadata() or ())}

def main(call):
    method = "/test.Echo/" + call["method"]
    message = bytes(call.get("message", ""), "latin-1") * call.get("times", 1)
    rest = {"timeout": call.get("timeout"), "metadata": list(call.get("metadata", {}).items())}
    try:
        if call["method"] in ("Unary", "Fail", "Slow"):
            answer = channel.unary_unary(method)(message, **rest)
            return {"code": 0, "length": len(answer), "answer": answer[:64].decode("latin-1")}
        if call["method"] == "Stream":
            return {"code": 0, "count": sum(1 for _ in channel.unary_stream(method)(message, **rest))}
        messages = [str(number).encode() for number in range(call["count"])]
        if call["method"] == "Collect":
            return {"code": 0, "answer": channel.stream_unary(method)(iter(messages), **rest).decode()}
        return {"code": 0, "same": list(channel.stream_stream(method)(iter(messages), **rest)) == messages}
    except grpc.RpcError as error:
        return told(error)

print(json.dumps([main(call) for call in json.loads(sys.argv[2])]))
"""


def numbered(tag: bytes, number: int, size_bytes: int) -> bytes:
    """A message of `Numbered`, which is asked for by "tag count size"."""
    return (tag + b" %d " % number).ljust(size_bytes, b".")


class GrpcServer(Peer):
    """grpcio's server, HTTP/2 in plaintext."""

    name = "grpcio"

    def __init__(self, directory: Path, threads: int = 16, **options: int) -> None:
        """`options`: grpc's, without the `grpc.` before their names."""
        super().__init__(directory)
        self.port = free_ports(1)[0]
        self.threads = threads
        self.options = {f"grpc.{name}": value for name, value in options.items()}

    def command(self) -> list[str]:
        return [sys.executable, "-c", SERVER, str(self.port), str(self.threads), json.dumps(self.options)]

    def ports(self) -> list[int]:
        return [self.port]


def calls(port: int, *asked: dict) -> list[dict]:
    """What grpcio's client gets from each call, one after the other on one channel."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(port), json.dumps(asked)],
        env=peer_environment(), capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
