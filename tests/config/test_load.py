"""Which form a file is in, and what loading leaves behind."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from meshproxy.config.load import form_of, load, load_text, load_with_warnings
from meshproxy.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("data", "form"),
    [
        ({"static_resources": {}}, "envoy"),
        ({"staticResources": {}}, "envoy"),
        ({"admin": {"address": {"socket_address": {}}}}, "envoy"),
        ({"admin": {"address": {"pipe": {"path": "/x"}}}}, "envoy"),
        ({"admin": {"address": {"unix": "/x"}}}, "native"),
        ({"admin": "127.0.0.1:1", "listeners": []}, "native"),
        ({"node": {"id": "x"}}, "native"),
        (None, "native"),
        ([], "native"),
    ],
)
def test_told_apart_by_content(data: object, form: str) -> None:
    assert form_of(data) == form


def test_an_empty_file_is_an_empty_configuration() -> None:
    assert load_text("", {}).snapshot.listeners == ()


def test_a_list_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match=r"a list is given where the configuration needs a mapping"):
        load_text("- a\n", {})


def test_the_collector_is_as_it_was() -> None:
    load_text("", {})
    assert gc.isenabled()
    with pytest.raises(ConfigError):
        load_text("nope: 1", {})
    assert gc.isenabled()


def test_native_form_loads_no_protobuf() -> None:
    code = f"import sys; from meshproxy.config.load import load; load({str(ROOT / 'conf' / 'quickstart.yaml')!r}, {{}})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('google.protobuf' in sys.modules)"], cwd=ROOT, capture_output=True, text=True
    )

    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("name", ["quickstart.yaml", "meshproxy.yaml"])
def test_the_examples_are_good(name: str) -> None:
    assert load_with_warnings(str(ROOT / "conf" / name), {}).warnings == []


def test_the_quickstart_has_its_addresses() -> None:
    snapshot = load(str(ROOT / "conf" / "quickstart.yaml"), {})

    assert str(snapshot.admin.address) == "127.0.0.1:9901"
    assert [str(listener.addresses[0]) for listener in snapshot.listeners] == ["127.0.0.1:8080", "127.0.0.1:9001", "127.0.0.1:9002"]
