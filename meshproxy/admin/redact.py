"""What must not be shown: values whose name says that they are secret, wherever they are in a configuration."""

from __future__ import annotations

import re

SHOWN = "[redacted]"
# Anywhere in a name: hiding `token_bucket_size` too is harmless, showing one secret is not.
SECRET_NAME = re.compile(
    r"passw(?:or)?d|passphrase|secret|token|credential|(?:api|access|private|signing|encryption)[_-]?key|"
    r"authorization|cookie|session[_-]?id|bearer|jwt|hmac",
    re.IGNORECASE,
)
EXACT_NAMES = frozenset({"key", "key_pem", "auth", "pwd", "pass", "initial_metadata"})
"""Headers of calls to control planes (`initial_metadata`) are where their tokens are."""
USER_INFO = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)")
"""`user:password` in an URL, under any name."""


def is_secret(name: str) -> bool:
    """Whether a value of this name is hidden."""
    return name.lower() in EXACT_NAMES or SECRET_NAME.search(name) is not None


def redact(value: object) -> object:
    """A copy of a tree of dicts and lists without secrets; bytes become text.

    A dict that names what it is about (`{"name": "authorization", "value": ...}`, a header to add or to match) is judged by that name.
    """
    if isinstance(value, dict):
        named = isinstance(value.get("name"), str) and ("value" in value or "string" in value) and is_secret(value["name"])
        return {key: _field(str(key), entry, named and key in ("value", "string", "range")) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(entry) for entry in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return USER_INFO.sub(SHOWN, value) if isinstance(value, str) else value


def _field(key: str, value: object, hidden: bool) -> object:
    if (hidden or is_secret(key)) and value not in (None, "", b"", [], {}, ()):
        # A switch or a number under such a name (`token_required: true`) tells nothing, except a number that may be a key.
        return value if isinstance(value, bool) else SHOWN
    return redact(value)
