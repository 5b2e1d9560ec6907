"""Session rules: a stale build fails at once, the long forms are asked for, nothing is left behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support import build

WHOLE_BUILD = ("tests/processes", "tests/e2e")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of fuzzing, soak and sanitizer suite")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--long"):
        # Tests and the processes they start read it from one place.
        os.environ["MESHPROXY_LONG"] = "1"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Only what this session has loaded or will start must be fresh, so that one stale module does not stop another's tests."""
    wanted = build.sources()
    if os.environ.get("MESHPROXY_TESTS_ON") == "envoy" or not any(item.nodeid.startswith(WHOLE_BUILD) for item in session.items):
        wanted = [pyx for pyx in wanted if _module(pyx) in sys.modules]
    reasons = build.complaints(wanted)
    if reasons and session.items:
        pytest.exit(build.remedy(reasons), returncode=pytest.ExitCode.USAGE_ERROR)


def _module(pyx: Path) -> str:
    return ".".join(pyx.relative_to(build.PACKAGE.parent).with_suffix("").parts)


@pytest.fixture(scope="session")
def long_run() -> bool:
    """Whether the long form of a test was asked for (`--long` or MESHPROXY_LONG=1)."""
    return os.environ.get("MESHPROXY_LONG") == "1"
