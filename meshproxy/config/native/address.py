"""Addresses in native YAML."""

from __future__ import annotations

import re
from typing import Any

from meshproxy.config import rules
from meshproxy.config.native.kinds import Definitions
from meshproxy.config.native.rows import WRONG
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import Address, PipeAddress, SocketAddress


class Place:
    """An address: `10.0.0.1:80`, `[::1]:80`, `name:80` where names are taken, `unix:/run/x.sock`, or `{unix, mode}`."""

    def __init__(self, names: bool = False, zero_port: bool = True, unix: bool = True) -> None:
        self._names = names
        self._zero_port = zero_port
        self._unix = unix
        self.label = "address" if not names else "address or name with port"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is dict and "unix" in value:
            return self._read_unix(value, path, problems)
        if type(value) is not str:
            remedy = f'Write "0.0.0.0:{value}".' if type(value) is int else f'Write {self._forms()}.'
            problems.error(path, f"{told(value)} is no address. {remedy}")
            return WRONG
        if value.startswith("unix:"):
            return self._read_unix({"unix": value[5:]}, path, problems)
        host, colon, port = value.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            problems.error(path, f'"{value}": an IPv6 address needs brackets. Write "[{value}]:80" or "[{host}]:{port}".')
            return WRONG
        wrong = self._wrong_host(host, value) if colon and host else f'"{value}" is no address. Write {self._forms()}.'
        if not wrong and not (port.isdecimal() and (0 if self._zero_port else 1) <= int(port) <= 65535):
            wrong = f'"{value}": port "{port}" is no number from {0 if self._zero_port else 1} to 65535. Correct it.'
        if wrong:
            problems.error(path, wrong)
            return WRONG
        return SocketAddress(host, int(port))

    def write(self, value: Address) -> Any:
        if isinstance(value, SocketAddress):
            return str(value)
        return {"unix": value.path, "mode": f"0{value.mode:o}"} if value.mode else f"unix:{value.path}"

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        unix = {"type": "object", "required": ["unix"], "properties": {"unix": {"type": "string"}, "mode": {"type": ["integer", "string"]}}}
        unix["additionalProperties"] = False
        return {"anyOf": [{"type": "string", "pattern": ":"}, unix]} if self._unix else {"type": "string", "pattern": ":[0-9]+$"}

    def _forms(self) -> str:
        forms = ['"10.0.0.1:80"', '"[::1]:80"'] + ['"name:80"'] * self._names + ['"unix:/run/x.sock"'] * self._unix
        return ", ".join(forms[:-1]) + " or " + forms[-1]

    def _wrong_host(self, host: str, value: str) -> str:
        if rules.ip(host) or (self._names and rules.host_name(host)):
            return ""
        if self._names:
            return f'"{value}": "{host}" is neither an address nor a host name. Correct it.'
        local = {"localhost": ' ("localhost" is 127.0.0.1)', "*": ' ("*" is 0.0.0.0)'}.get(host, "")
        return f'"{value}": "{host}" is no IP address{local}. Write the address in numbers.'

    def _read_unix(self, value: dict[str, Any], path: Path, problems: Problems) -> Any:
        socket_path, mode = value["unix"], value.get("mode", 0)
        if not self._unix:
            problems.error(path, "a UNIX socket is not taken here. Use an IP address and port.")
            return WRONG
        if extra := [key for key in value if key not in ("unix", "mode")]:
            problems.error((path, extra[0]), f'an address has no setting "{extra[0]}". Use "unix" and "mode".')
            return WRONG
        wrong = pipe_path(socket_path)
        if not wrong and type(mode) is str:
            mode = int(mode, 8) if re.fullmatch(r"0?[0-7]{3}", mode) else -1
        if not wrong and not (type(mode) is int and 0 <= mode <= 0o777):
            wrong = f'mode {told(value["mode"])} is no file mode. Write it like "0660".'
        wrong = wrong or pipe_mode(socket_path, mode)
        if wrong:
            problems.error(path, wrong)
            return WRONG
        return PipeAddress(socket_path, mode)


def pipe_path(text: Any) -> str:
    """The kernel takes 107 bytes; `@` in front is Linux' abstract namespace."""
    if type(text) is not str or not (text.startswith(("/", "@")) and len(text) > 1):
        return f'UNIX socket path {told(text)} is not absolute. Write "unix:/run/name.sock" or "unix:@name".'
    if len(text.encode()) > 107:
        return f'UNIX socket path "{text}" has {len(text.encode())} bytes, the kernel takes 107. Use a shorter one.'
    return ""


def pipe_mode(path: str, mode: int) -> str:
    """An abstract socket is no file."""
    return f'UNIX socket "{path}" is abstract and cannot have a mode. Remove the mode.' if mode and path.startswith("@") else ""
