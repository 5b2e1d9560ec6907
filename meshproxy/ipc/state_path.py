"""Where a node keeps what it has to know at its next start."""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "MESHPROXY_STATE"


def state_path(env: Mapping[str, str], uid: int) -> str:
    """$MESHPROXY_STATE, else systemd's $STATE_DIRECTORY, else root's in /var/lib or a user's own; "" when there is none."""
    if asked := env.get(VARIABLE) or env.get("STATE_DIRECTORY", "").partition(":")[0]:
        return asked
    if uid == 0:
        return "/var/lib/meshproxy"
    if base := env.get("XDG_STATE_HOME") or (os.path.join(env["HOME"], ".local", "state") if env.get("HOME") else ""):
        return os.path.join(base, "meshproxy")
    return ""
