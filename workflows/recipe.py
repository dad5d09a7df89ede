"""Finding a recipe, turning its dials, and setting fields of its stages.

A recipe is any Python file with ``def workflow(...) -> Workflow``; its keyword arguments are its dials. ``--set
dial=value`` turns one, ``--set stage.field=value`` sets a field of a stage's configuration, nested ones too.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from infra.config import Choice, Config
from infra.errors import ConfigError, UsageError
from workflows.stage import Stage, Workflow

C = TypeVar("C", bound=Config)

__all__ = ["Dial", "Recipe", "built_in", "load"]

_FOLDER = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class Dial:
    name: str
    default: Any
    annotation: str
    needed: bool
    note: str = ""  # the comment beside it in the recipe's file


@dataclass(frozen=True)
class Recipe:
    """A recipe's file and its ``workflow`` function."""

    path: Path
    function: Callable[..., Workflow]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def summary(self) -> str:
        """The first line of the file's docstring, without the recipe's own name before a colon."""
        first = (inspect.getdoc(inspect.getmodule(self.function)) or "").partition("\n")[0]
        return first.removeprefix(f"{self.name}: ")

    @property
    def dials(self) -> list[Dial]:
        notes = dict(re.findall(r"^ +(\w+):.*?  # (.*)$", inspect.getsource(self.function), re.MULTILINE))
        dials = []
        for name, p in inspect.signature(self.function).parameters.items():
            needed = p.default is p.empty
            dials.append(Dial(name, None if needed else p.default, _type(p.annotation), needed, notes.get(name, "")))
        return dials

    def build(self, settings: Iterable[str] = ()) -> Workflow:
        """The workflow with ``settings`` (``dial=value``, ``stage.field=value``) applied.

        Values are read as JSON, else as text; where a dial wants a list, one value will do. Raises UsageError or
        ConfigError for names and values that do not fit.
        """
        dials: dict[str, Any] = {}
        fields: dict[str, dict[str, Any]] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(f"--set {setting} has no value", expected="dial=value or stage.field=value")
            stage, dot, field = key.strip().partition(".")
            if dot:
                fields.setdefault(stage, {})[field] = _value(text)
            else:
                dials[stage] = _value(text)
        turnable = self.dials
        known = [dial.name for dial in turnable]
        for name in dials:
            if name not in known:
                raise UsageError(f"recipe {self.name} has no dial {name!r}", **_hint(name, known))
        if absent := [dial.name for dial in turnable if dial.needed and dial.name not in dials]:
            raise UsageError(
                f"recipe {self.name} needs a value for {', '.join(absent)}", fix=f"--set {absent[0]}=VALUE"
            )
        workflow = self.function(**{name: self._turn(name, value) for name, value in dials.items()})
        if not isinstance(workflow, Workflow):
            raise UsageError(f"{self.path}: workflow() returned {type(workflow).__name__}", expected="a Workflow")
        return _with_fields(workflow, fields) if fields else workflow

    def _turn(self, name: str, value: object) -> object:
        """A dial's value as its annotation wants it."""
        annotation = get_type_hints(self.function).get(name, Any)
        for candidate in (value, [value]):
            try:
                return TypeAdapter(annotation).validate_python(candidate)
            except ValidationError:
                continue
        raise UsageError(
            f"dial {name} of recipe {self.name} cannot be that", expected=_type(annotation), found=repr(value)
        )


def built_in() -> list[str]:
    """Names of the recipes that come with clipline: the one to read first, then the others."""
    names = (path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return sorted(names, key=lambda name: (name != "quickstart", name))


def load(name: str) -> Recipe:
    """A recipe by the name of a built-in one or by the path of a file. Raises UsageError."""
    path = _FOLDER / f"{name}.py" if name in built_in() else Path(name)
    if not path.is_file():
        raise UsageError(
            f"there is no recipe {name!r}",
            expected=f"a file, or one of {', '.join(built_in())}",
            **_hint(name, built_in(), only_fix=True),
        )
    module = _import(path.resolve())
    function = getattr(module, "workflow", None)
    if not callable(function):
        raise UsageError(f"{path} is not a recipe", expected="a function workflow(...) returning a Workflow")
    return Recipe(path.resolve(), function)


def _import(path: Path) -> ModuleType:
    if path.parent == _FOLDER:
        return importlib.import_module(f"workflows.recipes.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"clipline_recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", expected="a file ending in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        # Its author's to mend, whatever it is: say where, without the frames of ours that led there.
        lines = [
            str(frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        place = ":".join([str(path), *lines[-1:]])
        raise UsageError(f"the recipe {place} does not load", found=f"{type(error).__name__}: {error}") from error
    return module


def _type(annotation: Any) -> str:  # noqa: ANN401 - a type, its name, or inspect's word for none
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except ValueError:
        return text


def _hint(name: str, known: list[str], *, only_fix: bool = False) -> dict[str, str]:
    close = difflib.get_close_matches(name, known, n=1)
    fix = {"fix": f"did you mean {close[0]!r}?"} if close else {}
    return fix if only_fix else {"expected": ", ".join(known) or "none: it has no dials", **fix}


def _with_fields(workflow: Workflow, fields: dict[str, dict[str, Any]]) -> Workflow:
    names = [stage.name for stage in workflow]
    for name in fields:
        if name not in names:
            raise UsageError(f"workflow {workflow.name} has no stage {name!r}", **_hint(name, names))
    rebuilt: dict[str, Stage] = {}
    for stage in workflow:
        config = stage.config
        for field, value in fields.get(stage.name, {}).items():
            config = _set(config, field.split("."), value)
        inputs = {name: rebuilt[source.name] for name, source in stage.inputs.items()}
        rebuilt[stage.name] = replace(stage, config=config, inputs=inputs)
    return replace(workflow, stages=tuple(rebuilt.values()))


def _set(config: C, path: list[str], value: object) -> C:
    name, *rest = path
    inner = getattr(config, name, None)
    if rest and isinstance(inner, Config):
        value = _set(inner, rest, value)
    elif rest and isinstance(inner, tuple) and any(isinstance(item, Choice) for item in inner):
        value = _set_member(_field_name(config, name), inner, rest, value)
    elif len(rest) == 1 and is_dataclass(inner) and not isinstance(inner, type):
        value = {**asdict(inner), rest[0]: value}  # the configuration it belongs to validates it
    elif rest and name in type(config).model_fields:
        raise ConfigError(f"{_field_name(config, name)} has no fields to set", found=".".join(path))
    try:
        return config.replace(**{name: value})
    except ConfigError:
        if isinstance(value, (list, tuple)) or not _takes_tuple(config, name):
            raise
    return config.replace(**{name: [value]})  # plain text for a tuple of one


def _set_member(field: str, members: tuple[Any, ...], path: list[str], value: object) -> tuple[Any, ...]:
    """``members`` with a field of one of them set. ``path``: the member's kind or position, then its field."""
    which, *rest = path
    kinds = [member.kind for member in members]
    if which.isdecimal() and int(which) < len(members):
        places = [int(which)]
    else:
        places = [place for place, kind in enumerate(kinds) if kind == which]
    if not places:
        raise ConfigError(f"{field} has no {which!r}", **_hint(which, kinds))
    if len(places) > 1:
        raise ConfigError(
            f"{field} has several {which!r}",
            expected=f"the position of one, counted from 0: {' or '.join(map(str, places))}",
            found=which,
        )
    (place,) = places
    if not rest:
        raise ConfigError(
            f"{field}.{which} is a configuration, not a field",
            expected=", ".join(f"{which}.{name}" for name in type(members[place]).model_fields) or "no fields to set",
        )
    return (*members[:place], _set(members[place], rest, value), *members[place + 1 :])


def _takes_tuple(config: Config, name: str) -> bool:
    """True if the annotation of the field is a tuple, or a union with one."""
    field = type(config).model_fields.get(name)
    return field is not None and any(
        get_origin(part) is tuple for part in (field.annotation, *get_args(field.annotation))
    )


def _field_name(config: Config, name: str) -> str:
    return f"{type(config).__module__}.{type(config).__qualname__}.{name}"
