"""What every translator of a message does first: take its fields, refusing by name what is not supported yet.

A translator is a function `(message, path, translation) -> model`. It gets protobuf messages, so the same one serves files and xDS, and it
says in a table which fields it takes; all others, when set, are problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from google.protobuf import descriptor, json_format
from google.protobuf.message import DecodeError, Message

from meshproxy.config.envoy import constraints
from meshproxy.config.envoy.messages import MessageTypes, name_in, unknown_type
from meshproxy.config.envoy.reader import Reader
from meshproxy.config.problems import Path, Problems, keys_of, text_of
from meshproxy.model import ConfigSource


class Takes(NamedTuple):
    """How much of a message type is supported.

    `fields` are translated. `ignored` change nothing here, with the reason; one that starts with "!" is told as a warning.
    `only` are taken with these values alone (enum names, numbers, bools). `later` are refused in a file as all others are; control planes
    send them to everyone, so there they are told as not in force. None of them decides who may pass or where a request goes.
    """

    fields: frozenset[str]
    ignored: Mapping[str, str]
    only: Mapping[str, tuple[Any, ...]]
    later: frozenset[str] = frozenset()


def takes(fields: str = "", only: Mapping[str, tuple[Any, ...]] | None = None, later: str = "", **ignored: str) -> Takes:
    """A row of a table: names of fields in one text, and fields that are ignored with the reason."""
    return Takes(frozenset(fields.split()), ignored, only or {}, frozenset(later.split()))


TYPED_STRUCTS = frozenset(("udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"))
Table = dict[str, Takes]
"""Full message name -> what is taken."""

Handle = Callable[[Any, Path], None]


class _Plan(NamedTuple):
    """A message type's fields: name -> what to do with a set value, None = just take it."""

    handles: dict[str, Handle | None]
    required: list[tuple[str, str]]
    oneofs: list[tuple[list[str], str]]


class Translation:
    """What translators work with. It may be kept, with what it learned of message types: set `problems` anew for each use."""

    def __init__(self, problems: Problems, table: Table, types: MessageTypes) -> None:
        self.problems = problems
        self.types = types
        self.secrets: dict[str, Any] = {}
        """The bootstrap's own secrets by name (`secrets.Named`)."""
        self.owner: ConfigSource | None = None
        """Whom what is translated came from, for what says `self`; None = nobody."""
        self.notes: dict[str, None] | None = None
        """What is not in force of a control plane's resource, in the order of finding; None = what is translated is in a file."""
        self.asked: dict[str, str] = {}
        """Secrets that are waited for, by name: as which of the API's kinds they are used."""
        self._table = table
        self._plans: dict[type, _Plan] = {}
        self._reader: Reader | None = None

    @property
    def dynamic(self) -> bool:
        """Whether what is translated came from a control plane."""
        return self.notes is not None

    def fields(self, message: Message, path: Path) -> dict[str, Any]:
        """The fields that are set and supported, by name. What is wrong with the others is told."""
        plan = self._plans.get(type(message)) or self._plan(message)
        handles = plan.handles
        found: dict[str, Any] = {}
        for field, value in message.ListFields():
            name = field.name
            handle = handles[name]
            if handle is not None:
                handle(value, (path, name))
            found[name] = value
        for name, wrong in plan.required:
            if name not in found:
                self.problems.error(path, f"{message.DESCRIPTOR.name}: {wrong}")
        for names, wrong in plan.oneofs:
            if found.keys().isdisjoint(names):
                self.problems.error(path, f"{message.DESCRIPTOR.name}: {wrong}")
        return found

    def error(self, path: Path, message: str) -> None:
        self.problems.error(path, message)

    def refuse(self, path: Path, what: str, remedy: str = "Remove it.") -> None:
        """`what` is Envoy's and would be understood there."""
        self.problems.error(path, f"{what} is not supported yet. {remedy}")

    def later(self, path: Path, what: str, remedy: str = "Remove it.") -> None:
        """`what` is refused in a file, and told as not in force where a control plane sends it."""
        if self.notes is None:
            self.refuse(path, what, remedy)
        else:
            self._note(path, what)

    def _note(self, path: Path, what: str) -> None:
        assert self.notes is not None
        # Without indexes: a thousand endpoints with a priority are one note.
        keys = [key for key in keys_of(path)[1] if isinstance(key, str)]
        place, field = text_of(keys), what.strip('"').partition(":")[0]
        inside = what.strip('"').removeprefix(field) if keys and keys[-1] == field else f": {what}"
        self.notes[f"{place}{inside} is not in force"] = None

    def resolved(self, packed: Any, path: Path) -> Any:
        """The Any, or what a TypedStruct in it stands for: the type that it names, with fields out of its Struct."""
        if name_in(packed.type_url) not in TYPED_STRUCTS:
            return packed
        struct = self._parsed(name_in(packed.type_url), packed.value, path)
        if struct is None:
            return packed
        found = self.types.find(name_in(struct.type_url))
        made = type(packed)(type_url=struct.type_url)
        if found is not None:
            inner = found()
            self._reader = self._reader or Reader(self.problems, self.types)
            self._reader.reading(self.problems, self.dynamic).read(inner, json_format.MessageToDict(struct.value), (path, "value"))
            made.value = inner.SerializeToString()
        return made

    def _parsed(self, name: str, content: bytes, path: Path) -> Message | None:
        found = self.types.find(name)
        assert found is not None, name
        inner = found()
        try:
            inner.ParseFromString(content)
        except DecodeError:
            self.error(path, f"the bytes are no {name}. Send a message of the type that its type_url names.")
            return None
        return inner

    def unpack(
        self, packed: Any, path: Path, supported: Iterable[str], what: str, optional: bool = False, later: bool = False
    ) -> Message | None:
        """The message in an Any of a supported type; None after another was refused (or, when optional, skipped with a warning, and when
        `later`, skipped with a note where a control plane sends it)."""
        packed = self.resolved(packed, path)
        name = name_in(packed.type_url)
        if name not in supported:
            if later and self.notes is not None:
                self._note(path, f"{what} {name}")
            elif optional:
                self.problems.warning(path, f"{what} {name} is not supported yet and is skipped, because it is optional.")
            elif name and self.types.find(name) is None:
                self.error((path, "@type"), unknown_type(packed.type_url))
            elif name:
                self.refuse(path, f"{what} {name}")
            return None
        return self._parsed(name, packed.value, path)

    def _plan(self, message: Message) -> _Plan:
        of = message.DESCRIPTOR
        taken = self._table.get(of.full_name, takes())
        handles = {field.name: self._handle(field, taken) for field in of.fields}
        required = [(field.name, wrong) for field in of.fields if field.containing_oneof is None and (wrong := constraints.required(field))]
        oneofs = []
        for oneof in of.oneofs:
            names = [field.name for field in oneof.fields]
            if constraints.oneof_required(oneof):
                offered = [name for name in names if name in taken.fields] or names
                oneofs.append((names, f"one of {', '.join(offered)} is missing. Add it."))
        plan = self._plans[type(message)] = _Plan(handles, required, oneofs)
        return plan

    def _handle(self, field: descriptor.FieldDescriptor, taken: Takes) -> Handle | None:
        name = field.name
        if constraints.refused_by_envoy(field):
            return lambda value, path: self.error(path, f'"{name}" is deprecated and Envoy refuses it too. Use what took its place.')
        if name in taken.ignored:
            reason = taken.ignored[name]
            return (lambda value, path: self.problems.warning(path, f'"{name}" {reason[1:]}')) if reason.startswith("!") else None
        if name in taken.only:
            return self._only(field, taken.only[name], name in taken.later)
        if name in taken.later:
            return lambda value, path: self.later(path, f'"{name}"')
        if name not in taken.fields:
            return lambda value, path: self.refuse(path, f'"{name}"')
        check = constraints.check_of(field)
        if field.enum_type is not None and not field.is_repeated:
            return self._known(field.enum_type)
        if check is None:
            return None

        def tell(value: Any, path: Path) -> None:
            if wrong := check(value):
                self.error(path, wrong)

        return tell

    def _known(self, of: descriptor.EnumDescriptor) -> Handle:
        """Files have words; bytes may have any number."""
        numbers = of.values_by_number

        def tell(value: int, path: Path) -> None:
            if value not in numbers:
                self.error(path, f"{value} is no {of.name} that is known here. Use one of: {', '.join(of.values_by_name)}.")

        return tell

    def _only(self, field: descriptor.FieldDescriptor, allowed: tuple[Any, ...], later: bool) -> Handle:
        def tell(value: Any, path: Path) -> None:
            given = value.value if isinstance(value, Message) else value
            if field.enum_type is not None:
                known = field.enum_type.values_by_number.get(given)
                given = known.name if known is not None else given
            if given not in allowed:
                what = f"{field.name}: {str(given).lower() if isinstance(given, bool) else given}"
                self.later(path, what) if later else self.refuse(path, what)

        return tell


def enum_name(message: Message, field: str) -> str:
    """The word of an enum field's value; the default's when it is not set."""
    described = message.DESCRIPTOR.fields_by_name[field]
    found = described.enum_type.values_by_number.get(getattr(message, field))
    return found.name if found is not None else str(getattr(message, field))
