"""Node's gRPC (npm `@grpc/grpc-js`), client and server in processes of their own. The service is that of `grpc_server` and three more.

A call's message is text of bytes (latin-1). `Told` answers with the request's metadata `x-ask` and `x-ask-bin` as initial metadata `x-told`
and `x-told-bin`, and has `x-end` as trailing metadata; `Held` echoes each message and says nothing of its own; `Cancelled` answers how many
calls of `Held` clients have cancelled.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.peers.npm import package
from tests.peers.process import Peer, free_ports, peer_environment

VERSION = "1.14.7"
CALLS_LIMIT_S = 60

METHODS = """
const grpc = require("@grpc/grpc-js"), fs = require("fs");
const same = (bytes) => bytes;
const method = (name, asksMore, answersMore) => ({
  path: "/test.Echo/" + name, requestStream: asksMore, responseStream: answersMore,
  requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
});
const methods = {
  Unary: method("Unary", false, false), Fail: method("Fail", false, false), Slow: method("Slow", false, false),
  Told: method("Told", false, false), Cancelled: method("Cancelled", false, false), Stream: method("Stream", false, true),
  Collect: method("Collect", true, false), Both: method("Both", true, true), Held: method("Held", true, true),
};
const limits = {"grpc.max_receive_message_length": 64 << 20, "grpc.max_send_message_length": 64 << 20};
"""

SERVER = (
    METHODS
    + """
const [port, chain, key] = process.argv.slice(1);
let cancelled = 0;
const echo = (call) => { call.on("data", (message) => call.write(message)); call.on("end", () => call.end()); };
const server = new grpc.Server(limits);
server.addService(methods, {
  Unary: (call, done) => done(null, Buffer.concat([call.request, call.request])),
  Fail: (call, done) => {
    const [code, ...words] = call.request.toString().split(" "), metadata = new grpc.Metadata();
    metadata.set("x-trailing", "yes");
    done({code: Number(code), details: words.join(" "), metadata});
  },
  Slow: (call, done) => setTimeout(() => done(null, Buffer.from("late")), Number(call.request.toString())),
  Told: (call, done) => {
    const first = new grpc.Metadata(), last = new grpc.Metadata();
    first.set("x-told", call.metadata.get("x-ask")[0]);
    first.set("x-told-bin", call.metadata.get("x-ask-bin")[0]);
    last.set("x-end", "yes");
    call.sendMetadata(first);
    done(null, Buffer.from("told"), last);
  },
  Cancelled: (call, done) => done(null, Buffer.from(String(cancelled))),
  Stream: (call) => { for (let at = 0; at < call.request[0]; at++) call.write(call.request); call.end(); },
  Collect: (call, done) => { let count = 0; call.on("data", () => count++); call.on("end", () => done(null, Buffer.from(String(count)))); },
  Both: echo,
  Held: (call) => { call.on("cancelled", () => cancelled++); echo(call); },
});
const credentials = chain
  ? grpc.ServerCredentials.createSsl(null, [{cert_chain: fs.readFileSync(chain), private_key: fs.readFileSync(key)}])
  : grpc.ServerCredentials.createInsecure();
server.bindAsync("127.0.0.1:" + port, credentials, (error) => { if (error) throw error; });
"""
)

CALLS = (
    METHODS
    + """
const [port, asked, ca] = process.argv.slice(1);
const credentials = ca ? grpc.credentials.createSsl(fs.readFileSync(ca)) : grpc.credentials.createInsecure();
const name = {"grpc.ssl_target_name_override": "mesh.test", "grpc.default_authority": "mesh.test"};
const client = new grpc.Client("127.0.0.1:" + port, credentials, {...limits, ...name});
const told = (metadata) => {
  const said = {};
  for (const [key, value] of Object.entries(metadata.getMap())) said[key] = value.toString("latin1");
  return said;
};
const ask = (call) => new Promise((resolve) => {
  const {path, requestStream, responseStream} = methods[call.method], metadata = new grpc.Metadata(), seen = {}, got = [];
  for (const [key, value] of Object.entries(call.metadata || {})) {
    metadata.set(key, key.endsWith("-bin") ? Buffer.from(value, "latin1") : value);
  }
  const rest = call.timeout ? {deadline: Date.now() + call.timeout * 1000} : {};
  const message = Buffer.alloc((call.message || "").length * (call.times || 1), Buffer.from(call.message || " ", "latin1"));
  const messages = [...Array(call.count || 0).keys()].map((at) => Buffer.from(String(at)));
  // The status, with the trailing metadata, is told after the answer.
  const done = (error, answer) => setImmediate(() => {
    if (error) resolve({code: error.code, details: error.details, trailing: told(error.metadata), ...seen});
    else resolve({code: 0, length: answer.length, answer: answer.toString("latin1", 0, 64), ...seen});
  });
  let stream;
  if (requestStream && responseStream) stream = client.makeBidiStreamRequest(path, same, same, metadata, rest);
  else if (requestStream) stream = client.makeClientStreamRequest(path, same, same, metadata, rest, done);
  else if (responseStream) stream = client.makeServerStreamRequest(path, same, same, message, metadata, rest);
  else stream = client.makeUnaryRequest(path, same, same, message, metadata, rest, done);
  stream.on("metadata", (initial) => { seen.initial = told(initial); });
  stream.on("status", (status) => { if (!status.code) seen.trailing = told(status.metadata); });
  if (requestStream) {
    for (const each of messages) stream.write(each);
    if (call.method !== "Held") stream.end();
  }
  if (!responseStream) return;
  stream.on("data", (each) => {
    got.push(each);
    if (call.method === "Held" && got.length === messages.length) stream.cancel();
  });
  stream.on("error", (error) => resolve({code: error.code, details: error.details, trailing: told(error.metadata), count: got.length}));
  stream.on("end", () => {
    const same = messages.length === got.length && got.every((each, at) => each.equals(messages[at]));
    if (call.method !== "Held") resolve({code: 0, count: got.length, same});
  });
});
(async () => {
  const answers = [];
  for (const call of JSON.parse(asked)) answers.push(await ask(call));
  console.log(JSON.stringify(answers));
  client.close();
})();
"""
)


def _environment() -> dict[str, str]:
    return peer_environment() | {"NODE_PATH": str(package("@grpc/grpc-js", VERSION) / "node_modules")}


class GrpcJsServer(Peer):
    """grpc-js's server, HTTP/2 in plaintext, or with `files` (chain and key) by TLS."""

    name = "grpc-js"

    def __init__(self, directory: Path, files: tuple[Path, Path] | None = None) -> None:
        super().__init__(directory)
        self.port = free_ports(1)[0]
        self.files = files

    def command(self) -> list[str]:
        return ["node", "-e", SERVER, str(self.port), *map(str, self.files or ())]

    def environment(self) -> dict[str, str]:
        return _environment()

    def ports(self) -> list[int]:
        return [self.port]


def js_calls(port: int, *asked: dict, ca: Path | None = None) -> list[dict]:
    """What grpc-js's client gets from each call, one after the other on one channel; by TLS with `ca`."""
    command = ["node", "-e", CALLS, str(port), json.dumps(asked), *([os.fspath(ca)] if ca else [])]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=CALLS_LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
