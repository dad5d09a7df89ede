"""Configurations: frozen, strict about names, and precise about what identifies a result.

A field decides the result unless it is marked :data:`Runtime` (workers, timeouts, retries). Only deciding fields that
differ from their defaults enter the identity, recursively: a new field with a default leaves every finished artifact
valid, and moving a run to another machine never invalidates it. That makes defaults part of a stage's code: a changed
default needs a raised ``code_version``, which tests/test_defaults.py enforces.

:class:`StageConfig` adds what a stage declares: its code version, its inputs and what it produces.
:class:`Choice` is the base of open sets of configurations: rules, objectives, evaluation tasks. A subclass anywhere, in
a recipe file or an installed package, is one more member.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from pydantic.fields import FieldInfo

from infra.errors import ConfigError, did_you_mean

__all__ = [
    "EXTENSIONS",
    "Choice",
    "Config",
    "Input",
    "Runtime",
    "StageConfig",
    "canonical_json",
    "configs_in",
    "digest",
    "flatten",
    "is_runtime",
]

EXTENSIONS = "clipline.extensions"
"""Entry point group of installed packages that add choices: each entry names a module to import."""


class _RuntimeMark:
    """Marks a field that cannot change the result."""


T = TypeVar("T")
Runtime = Annotated[T, _RuntimeMark()]


def canonical_json(value: object) -> bytes:
    """One byte string per JSON value: sorted keys, no spaces, UTF-8, no NaN (RFC 8785 in spirit)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: object) -> str:
    """sha256 of :func:`canonical_json`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one, keys joined by dots: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    if isinstance(value, dict) and value:
        parts = (flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
        return {key: item for part in parts for key, item in part.items()}
    return {prefix: value} if prefix else {}


def is_runtime(field: FieldInfo) -> bool:
    """True for a field that never enters the identity."""
    return any(isinstance(mark, _RuntimeMark) for mark in field.metadata)


class Config(BaseModel):
    """Base of every configuration.

    ``code_version``: raise it when the same values give another result, or when a default changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    code_version: ClassVar[int] = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's signature
        """Refuse class definitions under which two different configurations would look the same."""
        for name, field in cls.model_fields.items():
            if any(isinstance(mark, _RuntimeMark) for mark in _marks_inside(field.annotation)):
                raise TypeError(f"{cls.__qualname__}.{name}: Runtime goes outermost, as in Runtime[int | None]")
            if len(configs_in(field.annotation)) > 1:
                raise TypeError(f"{cls.__qualname__}.{name}: to choose from several configurations use a Choice")

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - pydantic validates
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(type(self), error) from None

    def identity(self) -> dict[str, Any]:
        """The deciding fields that differ from their defaults, as plain JSON values; nested ones likewise."""
        identity = {}
        for name, field in self._deciding():
            value = _plain(getattr(self, name), _identity)
            # A nested configuration shows its raised code version, so it counts even where its values are the default.
            if field.is_required() or _versioned(value) or value != _default(field):
                identity[name] = value
        return identity

    def resolved(self) -> dict[str, Any]:
        """All deciding fields with their values, defaults too, as plain JSON values."""
        return {name: _plain(getattr(self, name), _values) for name, _ in self._deciding()}

    def parts(self) -> Iterator[Config]:
        """This configuration and every one nested in it, at any depth, runtime fields too."""
        yield self
        for name in type(self).model_fields:
            for config in _configs_within(getattr(self, name)):
                yield from config.parts()

    def extras(self) -> tuple[str, ...]:
        """Return the extras of clipline that the work needs, names of :data:`infra.extras.EXTRAS`; none by default."""
        return ()

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401
        """Return a validated copy with ``changes`` applied."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})

    def _deciding(self) -> Iterator[tuple[str, FieldInfo]]:
        return ((name, field) for name, field in type(self).model_fields.items() if not is_runtime(field))

    def _named_identity(self) -> dict[str, Any]:
        """The identity as it stands inside another's: with the code version, once that was raised."""
        return ({"code_version": self.code_version} if self.code_version != 1 else {}) | self.identity()

    def _named_values(self) -> dict[str, Any]:
        return self.resolved()


@dataclass(frozen=True)
class Input:
    """One named input of a stage.

    ``holds``: what the artifact must contain, a word that the producing stage lists in ``StageConfig.produces``.
    ``repeated``: ``name`` may be followed by ``name_anything``, any number of times.
    """

    holds: str
    required: bool = True
    repeated: bool = False
    description: str = ""


class StageConfig(Config):
    """Base of a stage's configuration: its fields, its inputs and what it produces.

    ``inputs`` by name; ``produces``: what later stages can find in the artifact (``"images"``, ``"selection"``, ...).
    """

    inputs: ClassVar[Mapping[str, Input]] = {}
    produces: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def input_named(cls, name: str) -> Input | None:
        """The declaration that the input ``name`` falls under."""
        for declared, spec in cls.inputs.items():
            if name == declared or (spec.repeated and name.startswith(f"{declared}_")):
                return spec
        return None

    @classmethod
    def given(cls, name: str, inputs: Mapping[str, T]) -> list[T]:
        """Those of ``inputs`` that fall under the declared input ``name``, ``name_2`` before ``name_10``."""
        ordered = sorted(inputs, key=lambda given: (len(given), given))
        return [inputs[given] for given in ordered if cls.input_named(given) is cls.inputs[name]]

    def check_inputs(self, given: Collection[str]) -> None:
        """Raise UsageError where the inputs ``given`` do not go together or with the fields."""

    def outputs(self) -> tuple[str, ...]:
        """Return the kinds of content of the artifact; ``produces`` unless they depend on a field."""
        return self.produces

    def progress(self, folder: Any) -> str:  # noqa: ANN401 - a Store; storage stands on this module
        """Describe the progress of unfinished work in an artifact's folder, for ``plan``; empty by default."""
        return ""

    def location(self) -> str | None:
        """URL of the file, or of the folder (with a slash at its end), that is adopted in place; else None."""
        return None


class Choice(Config):
    """Base of a family of configurations of which a field takes one.

    A family is a direct subclass (``class Rule(Choice)``); its members are the subclasses of that, wherever they are
    defined. ``kind`` is a member's name in JSON, on the command line and in identities; by default the class's name in
    snake case. ``home``: a package with members in packages of their own, imported when one is asked for by kind. Where
    a field's type is the family, it accepts an instance, ``{"kind": "image_side", "min": 64}`` or
    just ``"image_side"``; members of modules not imported yet are found as ``"package.module:Class"`` or through the
    entry point group ``clipline.extensions``. ``implementation``: ``module:name`` of what does a member's work,
    which :meth:`implemented` imports when it is due, so that a configuration loads no libraries.
    """

    kind: ClassVar[str] = ""
    home: ClassVar[str] = ""
    implementation: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's signature
        super().__pydantic_init_subclass__(**kwargs)
        if not cls.is_family() and "kind" not in vars(cls):
            cls.kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @classmethod
    def is_family(cls) -> bool:
        return Choice in cls.__bases__

    @classmethod
    def family(cls) -> type[Choice]:
        """The direct subclass of Choice that this one belongs to."""
        return next(base for base in cls.__mro__ if issubclass(base, Choice) and base.is_family())

    @classmethod
    def members(cls) -> dict[str, type[Choice]]:
        """The concrete members known to this process, by kind."""
        found: dict[str, type[Choice]] = {}
        for member in _subclasses(cls):
            if member.kind and not inspect.isabstract(member):
                earlier = found.get(member.kind)
                if earlier is not None and not _same_place(earlier, member):
                    raise ConfigError(
                        f"two classes are called {member.kind!r} among the {cls.__name__} configurations",
                        found=f"{_place(earlier)} and {_place(member)}",
                        fix="give one of them another kind",
                    )
                found[member.kind] = member
        return found

    @classmethod
    def all_members(cls) -> dict[str, type[Choice]]:
        """The members in this process, in the packages of the family's home and in installed extensions, by kind."""
        if home := cls.family().home:
            for module in pkgutil.iter_modules(importlib.import_module(home).__path__, f"{home}."):
                if module.ispkg:
                    importlib.import_module(module.name)
        for entry in importlib.metadata.entry_points(group=EXTENSIONS):
            entry.load()
        return cls.members()

    @classmethod
    def named(cls, kind: str) -> type[Choice]:
        """The member of that kind, or at that ``module:Class``. Raises ConfigError."""
        if kind in (known := cls.members()):
            return known[kind]
        module, colon, name = kind.partition(":")
        if colon:
            member = _load(module, name)
            if isinstance(member, type) and issubclass(member, cls):
                return member
            raise ConfigError(f"{kind} is not a {cls.__name__}", expected=f"a subclass of {_place(cls)}")
        if kind in (known := cls.all_members()):
            return known[kind]
        raise ConfigError(
            f"there is no {cls.__name__} {kind!r}",
            expected=f"{', '.join(sorted(known))}, or one of your own as module:Class",
            fix=did_you_mean(kind, known),
        )

    def implemented(self) -> Any:  # noqa: ANN401 - a class or a function of the family's own
        """Import what ``implementation`` names. Raises ConfigError if there is none."""
        module, _, name = self.implementation.partition(":")
        if not name:
            raise ConfigError(
                f"the {self.family().__name__} {self.kind!r} has no implementation", expected="module:name"
            )
        return getattr(importlib.import_module(module), name)

    @model_validator(mode="wrap")
    @classmethod
    def _choose(cls, value: Any, handler: Callable[[Any], Self]) -> Self:  # noqa: ANN401 - anything may be given
        if isinstance(value, cls):
            return value
        if not cls.is_family():
            return handler(value)
        if isinstance(value, str):
            value = {"kind": value}
        if not (isinstance(value, dict) and isinstance(value.get("kind"), str)):
            raise ValueError(f"a {cls.__name__}, its kind, or a dictionary with its kind")
        member: Any = cls.named(value["kind"])
        return member(**{key: item for key, item in value.items() if key != "kind"})  # type: ignore[no-any-return]

    @model_serializer(mode="plain")
    def _with_kind(self) -> dict[str, Any]:
        """Serialise the fields along with the kind, so that the JSON can be read back."""
        return {"kind": self.kind, **{name: getattr(self, name) for name in type(self).model_fields}}

    def _named_identity(self) -> dict[str, Any]:
        return {"kind": self.kind} | super()._named_identity()

    def _named_values(self) -> dict[str, Any]:
        return {"kind": self.kind} | self.resolved()


def configs_in(annotation: object) -> set[type[Config]]:
    """The configuration classes an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return {annotation}
    return set[type[Config]]().union(*(configs_in(part) for part in get_args(annotation)))


def _explain(cls: type[Config], error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    name, field = f"{cls.__module__}.{cls.__qualname__}", ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        fix = did_you_mean(field, cls.model_fields)
        return ConfigError(f"{name} has no field {field!r}", expected=", ".join(cls.model_fields), fix=fix)
    return ConfigError(f"{name}.{field} is not valid", expected=first["msg"], found=repr(first["input"])[:200])


def _subclasses(cls: type[Choice]) -> Iterator[type[Choice]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _place(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _same_place(one: type, other: type) -> bool:
    """True for two versions of one class, from a recipe file that was loaded again after an edit; the later counts."""
    return one.__qualname__ == other.__qualname__ and inspect.getsourcefile(one) == inspect.getsourcefile(other)


def _load(module: str, name: str) -> object:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{module}:{name} cannot be imported", found=str(error)) from error


def _marks_inside(annotation: object) -> Iterator[object]:
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks_inside(part)


def _configs_within(value: object) -> Iterator[Config]:
    if isinstance(value, Config):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _configs_within(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _configs_within(item)


def _identity(config: Config) -> dict[str, Any]:
    return config._named_identity()


def _values(config: Config) -> dict[str, Any]:
    return config._named_values()


def _default(field: FieldInfo) -> Any:  # noqa: ANN401 - JSON
    return _plain(field.get_default(call_default_factory=True), _identity)


def _versioned(value: object) -> bool:
    """True if a nested configuration's identity holds a raised code version."""
    if isinstance(value, dict):
        return "code_version" in value or any(map(_versioned, value.values()))
    return isinstance(value, list) and any(map(_versioned, value))


def _plain(value: object, nested: Callable[[Config], dict[str, Any]]) -> Any:  # noqa: ANN401 - JSON has no tighter type
    """``value`` as JSON; configurations inside it by ``nested``. Raises ConfigError for what has no canonical form."""
    if isinstance(value, Config):
        return nested(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item, nested) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, nested) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item, nested) for item in value), key=canonical_json)
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(
        f"a configuration value of type {type(value).__name__} has no canonical JSON form", found=repr(value)
    )
