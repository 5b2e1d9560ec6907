"""The shape of the package: who may import whom, how long a file may be, what no file may say."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import build

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "meshproxy"
TEXT_SUFFIXES = {".py", ".pyx", ".pxd", ".pyi", ".h", ".md", ".cfg", ".toml", ".yaml", ".yml", ".json", ".service", ".socket", ""}

LINES_AT_MOST = 600
LONG_FILES: dict[str, str] = {
    "meshproxy/proxy/exchange.pyx": "one request from head to outcome; a cdef class is one file, and a second class a call at each step",
}
"""Files over the limit, each with its reason."""

FORBIDDEN_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|managers?|misc)(_|$)")
ENVOYS_WORDS = {"http_connection_manager"}
"""Names that are vague here and exact there."""
FORBIDDEN_TEXT = re.compile(r"(?<![\w/])/w[o]rk/|https?://[\w.-]*(?:registry|pypi|crates|goproxy|proxy\.go)[\w-]*\.\w+")


def tracked() -> list[Path]:
    """Files that are in the repository, or every file of an unpacked source archive."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]
    return [path for path in PACKAGE.rglob("*") if path.is_file()]


def sources(*suffixes: str) -> list[Path]:
    return [path for path in tracked() if path.suffix in suffixes and PACKAGE in path.parents and path.name != "cells.pxd"]


def layers() -> list[set[str]]:
    """The layers of setup.cfg, the lowest first."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    rows = config["importlinter:contract:direction"]["layers"].split("\n")
    return [set(re.findall(r"\w+", row)) for row in reversed(rows) if row.strip()]


def test_imports_go_down_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed: pip install -e .[test]")
    checked = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_cimports_go_down_only() -> None:
    """import-linter cannot read Cython; the same layers hold there. telemetry may read codecs' structs: they are one layer."""
    height = {package: level for level, packages in enumerate(layers()) for package in packages}
    upward = []
    for path in sources(".pyx", ".pxd"):
        package = path.relative_to(PACKAGE).parts[0]
        for imported in re.findall(r"^\s*(?:from|cimport|import)\s+meshproxy\.(\w+)", path.read_text(), re.MULTILINE):
            if imported in height and package in height and height[imported] > height[package]:
                upward.append(f"{path.relative_to(ROOT)} imports meshproxy.{imported}")

    assert upward == []


def loaded_after(statement: str) -> set[str]:
    """Top-level names of all modules in a fresh interpreter after `statement`."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {"google.protobuf" if name.startswith("google.protobuf") else name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("meshproxy.master.main", {"gevent", "grpc", "google.protobuf"}),
        ("meshproxy.workers.main", {"grpc", "google.protobuf"}),
        ("meshproxy.agent.main", {"google.protobuf", "grpc"}),
    ],
)
def test_process_keeps_its_diet(module: str, forbidden: set[str]) -> None:
    assert loaded_after(f"import {module}") & forbidden == set()


def test_command_line_starts_light() -> None:
    """`meshproxy --help` and `status` are typed by people: nothing heavy is imported for them."""
    heavy = {"gevent", "grpc", "google.protobuf", "re2", "yaml"}

    assert loaded_after("import meshproxy.cli.main") & heavy == set()


def test_master_imports_start_no_thread() -> None:
    """A second thread at the time of a fork is a deadlock waiting in the child."""
    code = "import threading, os, meshproxy.master.main; print(threading.active_count(), len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.split() == ["1", "1"], done.stderr


def test_compiled_modules_show_python_their_types() -> None:
    """A .pyi for whatever Python sees, unless the module is for compiled code alone and its .pxd says all."""
    bare = [
        str(pyx.relative_to(ROOT))
        for pyx in sources(".pyx")
        if not pyx.with_suffix(".pyi").exists() and not pyx.with_suffix(".pxd").exists()
    ]

    assert bare == []


def test_files_are_read_in_one_sitting() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources(".py", ".pyx", ".pxd", ".h")}
    long_files = {name: lines for name, lines in lengths.items() if lines > LINES_AT_MOST and name not in LONG_FILES}

    assert long_files == {}
    assert [name for name in LONG_FILES if lengths.get(name, 0) <= LINES_AT_MOST] == [], "no longer long: take the reason out"


def test_names_say_what_a_thing_is() -> None:
    named = [path for path in sources(".py", ".pyx", ".h") if path.stem not in ENVOYS_WORDS]
    vague = [str(path.relative_to(ROOT)) for path in named if FORBIDDEN_NAMES.search(path.stem)]

    assert vague == []


def test_no_file_speaks_of_the_workshop() -> None:
    spoken = []
    for path in tracked():
        if path.suffix not in TEXT_SUFFIXES or path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        spoken += [f"{path.relative_to(ROOT)}: {found.group()}" for found in FORBIDDEN_TEXT.finditer(text)]

    assert spoken == []


def test_modules_keep_no_changing_globals() -> None:
    """State belongs to an object that somebody owns; a `global` statement is how module state changes."""
    changing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Global)
    ]
    changing += [
        f"{path.relative_to(ROOT)}" for path in sources(".pyx") if re.search(r"^\s+global\s+\w", path.read_text(), re.MULTILINE)
    ]

    assert changing == []


def test_every_module_says_what_it_is_for() -> None:
    written = [path for path in sources(".py", ".pyx") if path.read_text().strip()]
    silent = [
        str(path.relative_to(ROOT))
        for path in written
        if not re.match(r'(#[^\n]*\n|\s)*r?"""', path.read_text())
    ]

    assert silent == []


def test_only_the_clock_reads_time() -> None:
    """`meshproxy.clock` is the only place; compiled code and the parts with a reason are named."""
    readers = re.compile(r"\btime\.(time|monotonic|perf_counter|time_ns|monotonic_ns)\(|\bdatetime\.now\(|\butcnow\(")
    found = [str(path.relative_to(ROOT)) for path in sources(".py") if path.name != "clock.py" and readers.search(path.read_text())]

    assert found == []


def test_a_source_newer_than_its_build_is_named(tmp_path: Path) -> None:
    """The check that conftest makes before every session can say no."""
    pyx = next(iter(build.sources()), None)
    if pyx is None:
        pytest.skip("no compiled module yet")
    unbuilt = PACKAGE / "codecs" / "not_there.pyx"

    assert build.stale(unbuilt) == "meshproxy/codecs/not_there.pyx is not built"
    assert "scripts/build" in build.remedy(["x"])


def test_what_a_source_includes_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "meshproxy"
    (package / "codecs").mkdir(parents=True)
    monkeypatch.setattr(build, "PACKAGE", package)
    pyx, included = package / "codecs" / "a.pyx", package / "codecs" / "a_body.pxi"
    pyx.write_text('include "a_body.pxi"\n')
    for path, at_ns in ((pyx, 1), (included, 1), (build.built(pyx), 2)):
        path.touch()
        os.utime(path, ns=(at_ns, at_ns))
    assert build.stale(pyx) == ""

    os.utime(included, ns=(3, 3))

    assert build.stale(pyx) == "meshproxy/codecs/a.pyx was built before meshproxy/codecs/a_body.pxi changed"
