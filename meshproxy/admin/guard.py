"""Who may ask. The admin API has no passwords: it trusts whoever reaches its address, so a web page must not reach it through a browser.

Two ways are closed: a page on a name that its owner points to loopback (DNS rebinding), told by the Host header; and a page of
another site that makes the browser POST here (CSRF), told by Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from meshproxy.admin.http import Request, Response, text

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def refusal(request: Request, names: Collection[str], over_unix: bool) -> Response | None:
    """Why the request is not taken, or None. `names` are further host names of this node, lower case."""
    if not over_unix and "host" in request.headers and not _host_is_ours(request.headers["host"], names):
        return text(
            f"403: Host {request.headers['host']!r} is no name of this admin address. "
            "Use an IP address or localhost (a web site may not reach the admin API through a browser).",
            403,
        )
    if request.method not in SAFE_METHODS and _from_another_site(request):
        return text("403: a request made by a page of another site is not taken. Use a command such as curl.", 403)
    return None


def _host_is_ours(authority: str, names: Collection[str]) -> bool:
    """An address is always ours: rebinding needs a name. Of names only localhost, and what `names` has."""
    host = host_of(authority)
    if host == "localhost" or host.endswith(".localhost") or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_of(authority: str) -> str:
    """Without the port and IPv6 brackets, lower case."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    host, colon, port = authority.rpartition(":")
    return (host if colon and port.isdecimal() else authority).lower().rstrip(".")


def _from_another_site(request: Request) -> bool:
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.lower() != f"http://{request.headers.get('host', '').lower()}"
