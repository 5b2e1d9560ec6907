"""A name server that a test lets answer: it knows one address, and says it for every name when it may."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import dns.message
import dns.rdatatype
import dns.rrset


class SlowNameServer:
    """`asked` is set by the first question; answers go out once `may_answer` is set."""

    def __init__(self, address: str, port: int, says: str) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self._says = says
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((address, port))
        self._thread = threading.Thread(target=self._run, name="name server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.may_answer.set()
        # An empty datagram wakes the thread that waits in recvfrom; close alone does not.
        self._sock.sendto(b"", self._sock.getsockname())
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        while True:
            data, client = self._sock.recvfrom(4096)
            if not data:
                return
            self.asked.set()
            self.may_answer.wait()
            self._sock.sendto(self._answer(data), client)

    def _answer(self, data: bytes) -> bytes:
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        asked = question.question[0]
        if asked.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", self._says))
        return answer.to_wire()
