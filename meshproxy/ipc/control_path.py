"""Where the control socket of a node is: one rule for the master that binds it and the commands that look for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping


def control_path(asked: str, env: Mapping[str, str], uid: int) -> str:
    """`asked` (a command line's or a configuration's), else $MESHPROXY_CONTROL, else the default of this user."""
    return asked or env.get("MESHPROXY_CONTROL", "") or default_control_path(env, uid)


def default_control_path(env: Mapping[str, str], uid: int) -> str:
    """Root's is in /run; a user's in the session's own directory, or below the temporary one under a name with the user's number."""
    if uid == 0:
        return "/run/meshproxy/control.sock"
    if env.get("XDG_RUNTIME_DIR"):
        return os.path.join(env["XDG_RUNTIME_DIR"], "meshproxy", "control.sock")
    return os.path.join(env.get("TMPDIR") or tempfile.gettempdir(), f"meshproxy-{uid}", "control.sock")
