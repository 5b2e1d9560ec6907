"""The `filter` of a page, as a predicate over names. RE2, so that no pattern can hang the agent."""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.admin.http import BadRequest

MAX_PATTERN_CHARS = 1000


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a name has a part that matches (Envoy's rule); "" matches all. Raises BadRequest for what is no RE2 expression."""
    if not pattern:
        return lambda name: True
    if len(pattern) > MAX_PATTERN_CHARS:
        raise BadRequest(400, f"the regular expression has {len(pattern)} characters, {MAX_PATTERN_CHARS} are taken")
    # Late: few ask with a pattern, and the engine is some megabytes.
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options).search
    except re2.error as error:
        raise BadRequest(400, f"the regular expression {pattern!r} is none that RE2 takes: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
