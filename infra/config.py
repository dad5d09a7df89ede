"""Configuration of a stage: frozen, strict about names, and sure of what makes up its identity.

A field decides the result unless it is marked :data:`Runtime` (workers, timeouts, retries, addresses);
only deciding fields enter a fingerprint, so moving a run to another machine never invalidates it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import ConfigError

__all__ = ["Config", "Runtime", "canonical_json", "digest", "flatten"]


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


class Config(BaseModel):
    """Base of every stage's configuration.

    ``code_version`` is the stage's declared code version: raise it when the same configuration gives another result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    code_version: ClassVar[int] = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's signature
        """Refuse, when the class is defined, what would make two different configurations look the same."""
        for name, field in cls.model_fields.items():
            if any(isinstance(mark, _RuntimeMark) for mark in _marks_inside(field.annotation)):
                raise TypeError(f"{cls.__qualname__}.{name}: Runtime goes outermost, as in Runtime[int | None]")
            choices = _configs_in(field.annotation)
            if len(choices) > 1 and not set.intersection(*(_literals(choice) for choice in choices)):
                raise TypeError(f"{cls.__qualname__}.{name}: configurations to choose from need a discriminator field")

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - pydantic validates
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(type(self), error) from None

    def identity(self) -> dict[str, Any]:
        """The deciding fields as plain JSON values; nested configurations likewise."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not any(isinstance(mark, _RuntimeMark) for mark in field.metadata)
        }

    def replace(self, **changes: Any) -> Self:  # noqa: ANN401
        """A copy with ``changes`` applied and validated anew."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**values, **changes})


def _explain(cls: type[Config], error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    name, field = f"{cls.__module__}.{cls.__qualname__}", ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, cls.model_fields, n=1)
        fix = f"did you mean {close[0]!r}?" if close else ""
        return ConfigError(f"{name} has no field {field!r}", expected=", ".join(cls.model_fields), fix=fix)
    return ConfigError(f"{name}.{field} is not valid", expected=first["msg"], found=repr(first["input"])[:200])


def _configs_in(annotation: object) -> set[type[Config]]:
    """The configuration classes an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return {annotation}
    return set[type[Config]]().union(*(_configs_in(part) for part in get_args(annotation)))


def _literals(config: type[Config]) -> set[str]:
    return {name for name, field in config.model_fields.items() if get_origin(field.annotation) is Literal}


def _marks_inside(annotation: object) -> Iterator[object]:
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks_inside(part)


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON has no tighter type
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=canonical_json)
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(
        f"a configuration value of type {type(value).__name__} has no canonical JSON form", found=repr(value)
    )
