"""What a route table means, written as plainly as possible: every route is looked at in turn, nothing is prepared.

Patterns go through Python's own `re`, so tests keep to the syntax that it shares with RE2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from meshproxy.model import HeaderMatch, HeaderMutations, PathMatch, Redirect, Route, RouteTable, StringMatch, VirtualHost
from meshproxy.model.route import QueryMatch
from meshproxy.proxy.router import Edits

LISTS = {"accept", "referer", "user-agent", "x-forwarded-for"}
"""Names whose fields are one list, of those that tests use."""


@dataclass(frozen=True)
class Request:
    """A request as the router sees it. `headers` are the fields of the head, in order, without Host."""

    method: str
    authority: str
    path: str
    headers: tuple[tuple[str, str], ...] = field(default=())
    tls: bool = False

    @property
    def bare_path(self) -> str:
        return re.split(r"[?#]", self.path, maxsplit=1)[0]


def without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and "]" not in port else host


def virtual_host(table: RouteTable, authority: str) -> VirtualHost | None:
    """Exact before suffix before prefix before "*"; of two suffixes or prefixes the longer."""
    host = (without_port(authority) if table.ignore_port_in_host else authority).lower()
    candidates = []
    for candidate in table.virtual_hosts:
        for domain in map(str.lower, candidate.domains):
            if domain == "*":
                candidates.append((0, 0, candidate))
            elif domain == host:
                candidates.append((3, 0, candidate))
            elif domain.startswith("*") and host.endswith(domain[1:]) and len(host) >= len(domain):
                candidates.append((2, len(domain), candidate))
            elif domain.endswith("*") and host.startswith(domain[:-1]) and len(host) >= len(domain):
                candidates.append((1, len(domain), candidate))
    return max(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None


def text_matches(match: StringMatch, text: str) -> bool:
    if match.kind == "regex":
        return re.fullmatch(match.value, text) is not None
    value = match.value
    if match.ignore_case:
        value, text = value.lower(), text.lower()
    return {
        "exact": text == value, "prefix": text.startswith(value), "suffix": text.endswith(value), "contains": value in text,
    }[match.kind]


def header_values(request: Request, name: str) -> list[str]:
    pseudo = {":method": request.method, ":path": request.path, ":authority": request.authority, "host": request.authority}
    pseudo[":scheme"] = "https" if request.tls else "http"
    if name in pseudo:
        return [pseudo[name]]
    values = [value.strip(" \t") for field_name, value in request.headers if field_name.lower() == name]
    return [",".join(values)] if name in LISTS and values else values


def header_matches(match: HeaderMatch, request: Request) -> bool:
    values = header_values(request, match.name.lower())
    if not values and match.treat_missing_as_empty:
        values = [""]
    if match.string is not None:
        verdict = any(text_matches(match.string, value) for value in values)
    elif match.range is not None:
        start, end = match.range
        verdict = any(re.fullmatch(r"[+-]?[0-9]+", value) and start <= int(value) < end for value in values)
    else:
        return (bool(values) == (match.present is not False)) != match.invert
    return bool(values) and bool(verdict) != match.invert


def query_matches(match: QueryMatch, path: str) -> bool:
    query = path.partition("?")[2]
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if name == match.name:
            return match.string is None or text_matches(match.string, value)
    return False


def path_matches(match: PathMatch, path: str) -> bool:
    if match.kind == "regex":
        return re.fullmatch(match.value, path) is not None
    value = match.value
    if not match.case_sensitive:
        value, path = value.lower(), path.lower()
    if match.kind == "prefix":
        return path.startswith(value)
    if match.kind == "exact":
        return path == value
    value = value.removesuffix("/")
    return path == value or path.startswith(value + "/")


def route_matches(route: Route, request: Request) -> bool:
    return (
        path_matches(route.path, request.bare_path)
        and all(header_matches(match, request) for match in route.headers)
        and all(query_matches(match, request.path) for match in route.query)
    )


def route(table: RouteTable, request: Request) -> tuple[VirtualHost, Route] | None:
    host = virtual_host(table, request.authority)
    if host is None:
        return None
    return next(((host, candidate) for candidate in host.routes if route_matches(candidate, request)), None)


def rewritten(route: Route, path: str) -> str:
    """Path and query after the rewrite of a ForwardAction or a Redirect."""
    action = route.action
    bare = re.split(r"[?#]", path, maxsplit=1)[0]
    rest = path[len(bare):]
    if action.regex_rewrite is not None:
        pattern, substitution = action.regex_rewrite
        return (re.sub(pattern, substitution, bare) or "/") + rest
    if not action.prefix_rewrite:
        return path
    if route.path.kind == "prefix":
        return action.prefix_rewrite + bare[len(route.path.value):] + rest
    if route.path.kind == "segment_prefix":
        return action.prefix_rewrite + bare[len(route.path.value.removesuffix("/")):] + rest
    return action.prefix_rewrite + rest


def location(route: Route, request: Request) -> str:
    action: Redirect = route.action
    own_scheme = "https" if request.tls else "http"
    scheme = action.scheme or ("https" if action.https else own_scheme)
    host = action.host
    if not host:
        host = request.authority
        port = host[len(without_port(host)):]
        if action.port or (scheme != own_scheme and port == {"http": ":80", "https": ":443"}[own_scheme]):
            host = without_port(host)
    port = f":{action.port}" if action.port else ""
    if action.path:
        path = action.path
        if "?" not in path and "?" in request.path:
            path += "?" + request.path.partition("?")[2]
    else:
        path = rewritten(route, request.path)
    if action.strip_query and "?" not in action.path:
        path = path.partition("?")[0]
    return f"{scheme}://{host}{port}{path}"


def mutated(headers: list[tuple[str, str]], levels: list[HeaderMutations], side: str) -> list[tuple[str, str]]:
    """Headers after the mutations of each level in turn."""
    for level in levels:
        removed = {name.lower() for name in getattr(level, f"{side}_remove")}
        headers = [header for header in headers if header[0].lower() not in removed]
        additions = [value for value in getattr(level, f"{side}_add") if value.value or value.keep_empty]
        overwriting = [value for value in additions if value.append.startswith("overwrite")]
        for value in overwriting:
            there = any(name.lower() == value.name.lower() for name, _ in headers)
            if value.append == "overwrite" or there:
                headers = [header for header in headers if header[0].lower() != value.name.lower()]
                headers.append((value.name, value.value))
        for value in additions:
            there = any(name.lower() == value.name.lower() for name, _ in headers)
            if value.append == "append" or (value.append == "add_if_absent" and not there):
                headers.append((value.name, value.value))
    return headers


def edited(edits: Edits | None, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers after compiled edits: all removals, then the additions one by one."""
    if edits is None:
        return headers
    gone = {name.decode().lower() for name in edits.removed}
    headers = [header for header in headers if header[0].lower() not in gone]
    for raw_name, raw_value, how in edits.added:
        name, value = raw_name.decode(), raw_value.decode()
        there = any(header[0].lower() == name.lower() for header in headers)
        if (how == "add_if_absent" and there) or (how == "overwrite_if_exists" and not there):
            continue
        if how.startswith("overwrite"):
            headers = [header for header in headers if header[0].lower() != name.lower()]
        headers.append((name, value))
    return headers
