"""The suite on a build with bound checks, AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the tree.

The short form runs the tests of compiled modules; `--long` adds real nodes. The copy is kept in the user's cache under the hash of
what it was built from, so that only a change of sources costs a build.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.process import program

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("meshproxy", "tests", "conf", "docs", "setup.py", "setup.cfg", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("*.so", "*.c", "__pycache__", ".hypothesis")
COMPILED_FROM = (".pyx", ".pxd", ".pxi", ".h")
SHORT = (
    "tests/codecs", "tests/proxy", "tests/scoreboard", "tests/telemetry", "tests/workers/test_tls_transport.py",
    "tests/workers/test_tls_context.py",
)
LONG = ("tests/processes/test_http1.py", "tests/processes/test_smuggling.py", "tests/processes/test_reload.py")
LIMIT_S = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * LIMIT_S),
    pytest.mark.skipif(os.environ.get("MESHPROXY_BUILD") == "sanitize", reason="this is the sanitized run"),
]


def fingerprint() -> str:
    """Of everything that the compiled modules are made from."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(path for path in (ROOT / "meshproxy").rglob("*") if path.suffix in COMPILED_FROM):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    digest.update((ROOT / "setup.py").read_bytes())
    return digest.hexdigest()[:16]


def copy_tree(target: Path) -> None:
    """Sources and tests as they are now, compiled files left alone."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=LEFT_OUT, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, target / name)


@pytest.fixture(scope="module")
def sanitized() -> Path:
    """A built copy of the tree."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    cache.mkdir(parents=True, exist_ok=True)
    copy = cache / f"sanitized-{fingerprint()}"
    with (cache / "sanitized.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for older in cache.glob("sanitized-*"):
            if older != copy:
                shutil.rmtree(older)
        copy_tree(copy)
        built = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=copy, capture_output=True, text=True, timeout=LIMIT_S,
            env=os.environ | {"MESHPROXY_BUILD": "sanitize", "MESHPROXY_MODULES": ""},
        )  # fmt: skip
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-4000:]
    return copy


def sanitizer_environment() -> dict[str, str]:
    """The preload, without which the modules do not load; Python's own allocator is off, or an overrun of a bytes object is silent."""
    # libstdc++ too: a C++ extension that is loaded later throws, and the sanitizer must have found the real throw before.
    libraries = [
        subprocess.run([program("gcc", "gcc"), f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    return os.environ | {
        "MESHPROXY_BUILD": "sanitize",
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }


def test_compiled_modules_pass_their_tests_under_sanitizers(sanitized: Path, long_run: bool) -> None:
    wanted = [*SHORT, *(LONG if long_run else ())]
    chosen = [name for name in wanted if (sanitized / name).exists()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", f"timeout={LIMIT_S}", "-p", "no:cacheprovider", *chosen],
        cwd=sanitized, capture_output=True, text=True, timeout=LIMIT_S, env=sanitizer_environment(),
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
