"""Rules of the mesh that both forms obey: each takes a value and returns what is wrong with it, "" when nothing is."""

from __future__ import annotations

import re
import socket

import re2

HEADER_NAME = re.compile(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
"""RFC 9110 5.6.2 token; a colon in front for HTTP/2's pseudo-headers."""
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110 5.5: what no field value may have. A tab may."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z)(?:{_LABEL}\.)*{_LABEL}\.?\Z")
_UNTOUCHABLE = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "proxy-connection"}
"""Headers that frame a message or rule a connection: a change by configuration would break it or smuggle."""
_MOST_REGEX_PROGRAM = 1 << 20
"""Bytes of RE2's program; Envoy warns at 100 instructions, this lets thousands pass and still bounds memory."""


def regex(pattern: str) -> str:
    """RE2 syntax: no back-references or look-around, so that matching takes linear time whatever a client sends."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_REGEX_PROGRAM
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        return f'regex "{pattern}" is not valid RE2: {told}. Correct it (RE2 has no look-around and no back-references).'
    return ""


def tag_regex(pattern: str) -> str:
    """RE2 with a group for the value, or two."""
    wrong = regex(pattern)
    if not wrong and re2.compile(pattern).groups < 1:
        return f'regex "{pattern}" has no group: nothing of the name would be the value. Put it in parentheses.'
    return wrong


def substitution(pattern: str, replacement: str) -> str:
    """`\\1` to `\\9` refer to groups that the pattern has."""
    if wrong := regex(pattern):
        return wrong
    groups = re2.compile(pattern).groups
    for found in re.finditer(r"\\(.?)", replacement):
        what = found.group(1)
        if what == "\\":
            continue
        if not what.isdigit():
            return f'substitution "{replacement}" has "\\{what}". Write "\\\\" for a backslash or \\0 to \\9 for a group.'
        if int(what) > groups:
            return f'substitution "{replacement}" refers to group {what} but the pattern has {groups}. Use a group that is there.'
    return ""


def header_name(name: str) -> str:
    if HEADER_NAME.match(name):
        return ""
    return f'"{name}" is no header name. Use letters, digits and "-".'


def header_value(value: str) -> str:
    found = _NOT_IN_VALUE.search(value)
    return f"header value {value!r} has the control character {found.group()!r}. Remove it." if found else ""


def changed_header(name: str) -> str:
    """A header that may be added, set or removed."""
    if wrong := header_name(name):
        return wrong
    if name.lower() == "host":
        return f'"{name}" cannot be changed here. Use host_rewrite.'
    if name.startswith(":"):
        return f'"{name}" cannot be changed here: it is part of the request line. Use prefix_rewrite, host_rewrite or a redirect.'
    if name.lower() in _UNTOUCHABLE:
        return f'"{name}" cannot be changed: it frames the message or rules the connection, which meshproxy does itself. Remove this entry.'
    return ""


def ip(host: str) -> bool:
    """Whether it is an IPv4 or IPv6 literal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True


def host_name(host: str) -> bool:
    """Whether a resolver could be asked for it. A last label of digits is a mistyped address (RFC 3696 2)."""
    return bool(_HOST_NAME.match(host)) and not host.rstrip(".").rsplit(".", 1)[-1].isdigit()


def domain(pattern: str) -> str:
    """A virtual host's domain: exact, `*.suffix`, `-suffix` after a star, `prefix.*` or `*`; a port may follow."""
    if not pattern:
        return 'a domain is empty. Use "*" for all hosts.'
    if pattern.count("*") > 1 or ("*" in pattern[1:-1]):
        return f'domain "{pattern}" has "*" inside. It may stand at the beginning or at the end, once.'
    if re.search(r"[\x00-\x20\x7f/?#@]", pattern):
        return f'domain "{pattern}" has a character that no Host header has. Use a host name, without scheme and path.'
    return ""
