"""The examples of docs/howto/tls.md are good configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshproxy.config.load import load_with_warnings
from tests.support.certificates import Authority

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "tls.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
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
