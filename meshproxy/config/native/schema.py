"""JSON Schema of native YAML, for editors."""

from __future__ import annotations

from typing import Any

from meshproxy.config.native.node import TOP
from meshproxy.config.native.read import IGNORED_PREFIX


def json_schema() -> dict[str, Any]:
    """Draft 2020-12. It says the shape; what refers to what is checked by `meshproxy check` alone."""
    definitions: dict[str, Any] = {}
    TOP.schema(definitions)
    top = definitions.pop(TOP.name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "meshproxy configuration",
        **top,
        "patternProperties": {f"^{IGNORED_PREFIX}": {"description": "Ignored: a place for YAML anchors."}},
        "$defs": dict(sorted(definitions.items())),
    }
