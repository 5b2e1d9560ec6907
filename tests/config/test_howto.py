"""The examples of docs/howto/access-control.md, tls.md, tracing.md, discovery.md and consul.md are good configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshproxy.config.load import load_with_warnings
from meshproxy.config.native.endpoint_list import parse
from tests.support.certificates import Authority

PAGES = Path(__file__).resolve().parents[2] / "docs" / "howto"
_WHOLE = ("tls.md", "access-control.md", "tracing.md")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", "".join((PAGES / page).read_text() for page in _WHOLE), re.DOTALL)
*DISCOVERY, ENDPOINTS = re.findall(r"```yaml\n(.*?)```", (PAGES / "discovery.md").read_text(), re.DOTALL)
DISCOVERY += [
    example for example in re.findall(r"```yaml\n(.*?)```", (PAGES / "consul.md").read_text(), re.DOTALL)
    if "config: mesh" not in example  # which needs a Consul: tests/processes/test_consul_configuration.py
]
CLUSTERS = "\nclusters: {web: [], shop: [], db: []}\n"


def whole(example: str) -> str:
    """An example with what it leaves to the reader."""
    if example.startswith("  "):
        example = f"listeners:\n- address: 0.0.0.0:443\n  to: web\n{example}"
    elif example.startswith("- "):
        example = f"listeners:\n{example}"
    return example if "clusters:" in example else example + CLUSTERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("howto")
    authority = Authority()
    for name in ("web", "a", "shop", "me"):
        issued = authority.issue(f"{name}.example.com")
        issued.write(made, name)
        (made / f"{name}.ocsp").write_bytes(authority.ocsp(issued))
    authority.issue("b.example.com").write(made, "b", b"secret")
    (made / "mesh-ca.pem").write_bytes(authority.pem)
    (made / "mesh.crl").write_bytes(authority.crl())
    return made


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example(example: str, folder: Path) -> None:
    (folder / "f.yaml").write_text(whole(example))

    assert load_with_warnings(str(folder / "f.yaml"), {"B_PASSPHRASE": "secret"}).warnings == []


@pytest.mark.parametrize("example", DISCOVERY, ids=range(len(DISCOVERY)))
def test_an_example_of_discovery(example: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(example)

    assert load_with_warnings(str(tmp_path / "f.yaml"), {}).warnings == []


def test_the_example_of_an_endpoint_file() -> None:
    assert len(parse("e.yaml", ENDPOINTS)) == 3
