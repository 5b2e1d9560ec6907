"""`${NAME}` and `${NAME:-default}` in native YAML; `$${` stands for `${` itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshproxy.config.problems import did_you_mean

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{([^}]*)\}?")


class Substitution:
    """Called on a scalar's text. What could not be replaced is kept in `missing`: the reference as it is written -> what is wrong."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.missing: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        return _REFERENCE.sub(self._replace, text)

    def _replace(self, found: re.Match[str]) -> str:
        if found.group() == "$${":
            return "${"
        name, default, _ = found.groups()
        if name is None:
            remedy = 'Write ${NAME}, ${NAME:-default}, or $${ for "${" itself.'
            self.missing[found.group()] = f'"{found.group()}" is no reference to the environment. {remedy}'
            return ""
        value = self._env.get(name)
        if value or (value is not None and default is None):
            return value
        if default is None:
            near = did_you_mean(name, self._env)
            self.missing[found.group()] = f"environment variable {name} is not set{near}. Set it, or write ${{{name}:-default}}."
        return default or ""
