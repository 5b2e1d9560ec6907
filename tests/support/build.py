"""Is what was compiled what is in the sources? Testing yesterday's build wastes today."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "meshproxy"
CIMPORT = re.compile(r"^\s*from\s+(meshproxy[\w.]*)\s+cimport\s+([\w, ]+)|^\s*cimport\s+(meshproxy[\w.]+)", re.MULTILINE)
HEADER = re.compile(r'^\s*cdef extern from "([^"<]+\.h)"', re.MULTILINE)
INCLUDE = re.compile(r'^include "([^"]+\.pxi)"', re.MULTILINE)


def built(pyx: Path) -> Path:
    """Where the compiled module of a source is."""
    return pyx.with_name(pyx.stem + sysconfig.get_config_var("EXT_SUFFIX"))


def _declarations(source: Path, seen: set[Path]) -> set[Path]:
    """The source with all .pxd, .pxi and .h files that it is compiled from."""
    if source in seen or not source.exists():
        return seen
    seen.add(source)
    text = source.read_text()
    for module, names, whole in CIMPORT.findall(text):
        base = PACKAGE.parent.joinpath(*(module or whole).split("."))
        _declarations(base.with_suffix(".pxd"), seen)
        for name in filter(None, (part.split(" as ")[0].strip() for part in names.split(","))):
            _declarations(base / f"{name}.pxd", seen)
    for included in INCLUDE.findall(text):
        _declarations(source.with_name(included), seen)
    for header in HEADER.findall(text):
        seen.update(PACKAGE.rglob(header))
    return _declarations(source.with_suffix(".pxd"), seen)


def stale(pyx: Path) -> str:
    """Why a compiled module must be built again; "" when it is fresh."""
    target = built(pyx)
    name = pyx.relative_to(PACKAGE.parent)
    if not target.exists():
        return f"{name} is not built"
    newest = max(_declarations(pyx, set()), key=lambda path: path.stat().st_mtime_ns)
    if newest.stat().st_mtime_ns > target.stat().st_mtime_ns:
        return f"{name} was built before {newest.relative_to(PACKAGE.parent)} changed"
    return ""


def sources() -> list[Path]:
    """Every .pyx of the package."""
    return sorted(PACKAGE.rglob("*.pyx"))


def complaints(wanted: list[Path]) -> list[str]:
    """One line for each module of `wanted` that is stale or missing."""
    return [reason for pyx in wanted if (reason := stale(pyx))]


def remedy(reasons: list[str]) -> str:
    """What to print: the reasons, then the command to run."""
    return "\n".join(["stale build:", *(f"  {reason}" for reason in reasons), "build with: PYTHON=$(which python) scripts/build"])
