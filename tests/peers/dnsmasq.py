"""dnsmasq as the name server of a few names, which a test may change while it runs."""

from __future__ import annotations

import getpass
import signal
from pathlib import Path

from tests.peers.process import Peer, PeerFailedError, program
from tests.support.processes import wait_until


class Dnsmasq(Peer):
    """Answers for everything below `.test` from `names` (address by name), and refuses to speak of the rest."""

    name = "dnsmasq"

    def __init__(
        self, directory: Path, port: int, names: dict[str, str], *, address: str = "127.0.0.1", ttl_s: int = 60, **more: str
    ) -> None:
        super().__init__(directory)
        self.port = port
        self.address = address
        self.ttl_s = ttl_s
        self.more = [f"--{option}={value}" for option, value in more.items()]
        self.hosts = directory / "names"
        self._write(names)

    def _write(self, names: dict[str, str]) -> None:
        self.hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()))

    def command(self) -> list[str]:
        return [
            program("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=",
            f"--user={getpass.getuser()}", f"--port={self.port}", f"--listen-address={self.address}", "--bind-interfaces",
            "--no-resolv", "--no-hosts", "--local=/test/", f"--addn-hosts={self.hosts}", f"--local-ttl={self.ttl_s}",
            "--log-queries", "--log-facility=-", *self.more,
        ]  # fmt: skip

    def ports(self) -> list[int]:
        return []

    def wait_ready(self) -> None:
        self._wait_read(1)

    def asked(self, name: str) -> int:
        """How often it was asked for a name."""
        return sum(f"] {name} from " in line for line in self.output().splitlines() if ": query[" in line)

    def change(self, names: dict[str, str]) -> None:
        """From now on these are the names."""
        read = self._reads()
        self._write(names)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        self._wait_read(read + 1)

    def _reads(self) -> int:
        return self.output().count(f"read {self.hosts}")

    def _wait_read(self, times: int) -> None:
        if not wait_until(lambda: self._reads() >= times, 20, self.pid):
            raise PeerFailedError(f"dnsmasq did not read its names:\n{self.output()[-2000:]}")
