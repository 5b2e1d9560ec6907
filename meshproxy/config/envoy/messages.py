"""Envoy's message types by their full names, as `@type` gives them."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

# Well-known types that an Any may carry: known to the pool only once their modules are loaded.
from google.protobuf import any_pb2, duration_pb2, empty_pb2, struct_pb2, wrappers_pb2  # noqa: F401  isort: skip

TYPE_URL_PREFIX = "type.googleapis.com/"


class MessageTypes:
    """Finds message classes, importing their modules when they are first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, type[Message] | None] = {}

    def find(self, full_name: str) -> type[Message] | None:
        """The class, or None: Envoy's API has no such message."""
        if full_name not in self._known:
            self._known[full_name] = _find(full_name)
        return self._known[full_name]


def name_in(type_url: str) -> str:
    """The message's full name: what stands after the last slash."""
    return type_url.rpartition("/")[2]


def unknown_type(type_url: str) -> str:
    """What is wrong with a type that the API does not have."""
    return f'"{type_url}" is no type of Envoy\'s API that is known here. Correct or remove it.'


def _find(full_name: str) -> type[Message] | None:
    pool = descriptor_pool.Default()
    package = full_name.rpartition(".")[0]
    # The package of a message is a folder of modules; which one has it cannot be told from the name.
    while package:
        try:
            return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))
        except KeyError:
            pass
        if _import_package(package):
            try:
                return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))
            except KeyError:
                pass
        package = package.rpartition(".")[0]
    return None


def _import_package(package: str) -> bool:
    """Imports the message modules of a folder; only those of the API's own roots, so that a type's name cannot load anything else."""
    if package.split(".")[0] not in ("envoy", "xds", "udpa"):
        return False
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return False
    if found is None or not found.submodule_search_locations:
        return False
    for module in pkgutil.iter_modules(found.submodule_search_locations):
        if module.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{module.name}")
    return True
