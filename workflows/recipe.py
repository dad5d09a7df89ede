"""Find a recipe, set its parameters, and set fields of its stages.

A recipe is any Python file, or module of an installed package, with ``def workflow(...) -> Workflow``; the arguments
of that function are its parameters.
``--set parameter=value`` sets one, ``--set stage.field=value`` sets a field of a stage's configuration, at any depth;
``--set parameter.key=value`` sets a key of a parameter that is a mapping.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from infra.config import Choice, Config
from infra.errors import ConfigError, UsageError, did_you_mean
from workflows import user
from workflows.stage import Stage, Workflow

C = TypeVar("C", bound=Config)

__all__ = ["Parameter", "Recipe", "built_in", "comments_in", "load"]

_OF_ANY_STAGE: dict[str, Any] = {
    "retries": Annotated[int, Field(ge=0)],
    "timeout_s": Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
}
"""What ``--set stage.field`` sets of the stage itself, where its configuration has no such field."""

_FOLDER = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True)
class Parameter:
    """One argument of a recipe's ``workflow`` function; its description is the comment behind it in the file."""

    name: str
    default: Any
    type: str
    required: bool
    description: str = ""


@dataclass(frozen=True)
class Recipe:
    """A recipe's file and its ``workflow`` function."""

    path: Path
    function: Callable[..., Workflow]

    @property
    def name(self) -> str:
        return self.path.stem

    def recorded_as(self, given: str) -> str:
        """The recipe as runs record it: absolute where a file was ``given``, else the name itself."""
        return str(self.path) if Path(given).exists() else given

    @property
    def summary(self) -> str:
        """The first line of the file's docstring, without the recipe's own name before a colon."""
        first = (inspect.getdoc(inspect.getmodule(self.function)) or "").partition("\n")[0]
        return first.removeprefix(f"{self.name}: ")

    @property
    def parameters(self) -> list[Parameter]:
        comments = comments_in(self.function)
        found = []
        for name, p in inspect.signature(self.function).parameters.items():
            required = p.default is p.empty
            default = None if required else p.default
            found.append(Parameter(name, default, _type(p.annotation), required, comments.get(name, "")))
        return found

    def build(self, settings: Iterable[str] = ()) -> Workflow:
        """The workflow with ``settings`` (``parameter=value``, ``stage.field=value``) applied.

        Values are read as JSON, else as text; a parameter that takes a list accepts a single value too. Raises
        UsageError or ConfigError for names and values that do not fit.
        """
        values, fields = _split(settings)
        parameters = self.parameters
        known = [parameter.name for parameter in parameters]
        hints = get_type_hints(self.function)
        for name in [name for name in fields if name in known and _takes_mapping(hints.get(name))]:  # web.retries=3
            values[name] = (values.get(name) or {}) | fields.pop(name)
        for name in values:
            if name not in known:
                raise UsageError(f"recipe {self.name} has no parameter {name!r}", **_hint(name, known))
        if absent := [p.name for p in parameters if p.required and p.name not in values]:
            raise UsageError(
                f"recipe {self.name} needs a value for {', '.join(absent)}", fix=f"--set {absent[0]}=VALUE"
            )
        given = {name: self._validated(name, value) for name, value in values.items()}
        workflow = self.function(**given)
        if not isinstance(workflow, Workflow):
            raise UsageError(f"{self.path}: workflow() returned {type(workflow).__name__}", expected="a Workflow")
        values = {p.name: given.get(p.name, p.default) for p in parameters}
        changed = {p.name: values[p.name] for p in parameters if p.required or values[p.name] != p.default}
        workflow = replace(workflow, parameters=values, changed=changed)
        return _with_fields(workflow, fields) if fields else workflow

    def _validated(self, name: str, value: object) -> object:
        """The value of a parameter, converted to its annotated type. Raises UsageError."""
        annotation = get_type_hints(self.function).get(name, Any)
        for candidate in (value, [value]):
            try:
                return TypeAdapter(annotation).validate_python(candidate)
            except ValidationError:
                continue
        raise UsageError(
            f"Invalid value for parameter {name} of recipe {self.name}", expected=_type(annotation), found=repr(value)
        )


def _takes_mapping(annotation: Any) -> bool:  # noqa: ANN401 - any type
    """True if a value of that type can be a mapping; of another type ``name.key`` can only mean a stage."""
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return True
    return origin in (Any, None) or any(
        map(_takes_mapping, get_args(annotation) if origin in (Union, UnionType) else ())
    )


def comments_in(source: Callable[..., Any]) -> dict[str, str]:
    """The comment behind each annotated name, one a line, in the source of a function or class."""
    return dict(re.findall(r"^ +(\w+):.*?  # (.*)$", inspect.getsource(source), re.MULTILINE))


def built_in() -> list[str]:
    """Names of the built-in recipes: quickstart first, then in alphabetical order."""
    names = (path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return sorted(names, key=lambda name: (name != "quickstart", name))


def load(name: str) -> Recipe:
    """Load a recipe by its built-in name, the path of its file, or as ``package.module``. Raises UsageError."""
    path = _FOLDER / f"{name}.py" if name in built_in() else Path(name)
    installed = None if path.is_file() else _installed(name)
    if installed is not None:
        path = installed
    elif not path.is_file():
        raise UsageError(
            f"there is no recipe {name!r}",
            expected=f"a file, a module of an installed package, or one of {', '.join(built_in())}",
            fix=did_you_mean(name, built_in()),
        )
    module = _import(path.resolve(), name if installed else None)
    function = getattr(module, "workflow", None)
    if not callable(function):
        raise UsageError(f"{path} is not a recipe", expected="a function workflow(...) returning a Workflow")
    return Recipe(path.resolve(), function)


def _installed(name: str) -> Path | None:
    """The file of a module ``package.module``; None if there is none."""
    if not re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+", name):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # the package; an error inside it is not caught
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _import(path: Path, module: str | None = None) -> ModuleType:
    """Import a recipe, from its file or as an installed ``module``. Raises UsageError."""
    if path.parent == _FOLDER:
        module = f"workflows.recipes.{path.stem}"
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file", expected="a file ending in .py")
    try:
        return importlib.import_module(module) if module else user.load(path)
    except Exception as error:
        # Whatever a recipe raises is for its author to fix: name the line, without clipline's own frames.
        lines = [
            str(frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        place = ":".join([str(path), *lines[-1:]])
        raise UsageError(f"the recipe {place} does not load", found=f"{type(error).__name__}: {error}") from error


def _split(settings: Iterable[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Values by parameter, and by stage and field. Raises UsageError for a setting without ``=``."""
    values: dict[str, Any] = {}
    fields: dict[str, dict[str, Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting} has no value", expected="parameter=value or stage.field=value")
        name, dot, field = key.strip().partition(".")
        if dot:
            fields.setdefault(name, {})[field] = _value(text)
        else:
            values[name] = _value(text)
    return values, fields


def _type(annotation: Any) -> str:  # noqa: ANN401 - a type, its name, or inspect's word for none
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(text)
    except ValueError:
        return text


def _hint(name: str, known: list[str]) -> dict[str, str]:
    return {"expected": ", ".join(known) or "none: it has no parameters", "fix": did_you_mean(name, known)}


def _with_fields(workflow: Workflow, fields: dict[str, dict[str, Any]]) -> Workflow:
    names = [stage.name for stage in workflow]
    for name in fields:
        if name not in names:
            raise UsageError(f"workflow {workflow.name} has no stage {name!r}", **_hint(name, names))
    rebuilt: dict[str, Stage] = {}
    changed = dict(workflow.changed)
    for stage in workflow:
        config, own = stage.config, {}
        for field, value in _together(stage.config, fields.get(stage.name, {})).items():
            if field in _OF_ANY_STAGE and field not in type(config).model_fields:
                own[field] = _attempts_setting(stage, field, value)
                differs = own[field] != getattr(stage, field)
            else:
                before, config = config, _set(config, field.split("."), value)
                differs = config != before
            if differs:
                changed[f"{stage.name}.{field}"] = value
        inputs = {name: rebuilt[source.name] for name, source in stage.inputs.items()}
        rebuilt[stage.name] = replace(stage, config=config, inputs=inputs, **own)
    return replace(workflow, stages=tuple(rebuilt.values()), changed=changed)


def _together(config: Config, fields: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` with those of a configuration that is not set yet as one value: it is made of all of them at once."""
    found: dict[str, Any] = {}
    made = set()
    for field, value in fields.items():
        path = field.split(".")
        depth = _depth_unset(config, path)
        whole = ".".join(path[:depth])
        if not depth or (whole in found and whole not in made):  # or it was set before, whole
            found[field] = value
            made.discard(field)
            continue
        made.add(whole)
        inner = found.setdefault(whole, {})
        for key in path[depth:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return found


def _depth_unset(config: Config, path: Sequence[str]) -> int:
    """Return how deep in ``path`` a configuration is that is not set yet; 0 if there is none on the way."""
    for depth, name in enumerate(path[:-1], 1):
        inner = getattr(config, name, config)
        if inner is None and _takes_config(type(config), name):
            return depth
        if inner is config or not isinstance(inner, Config):
            return 0
        config = inner
    return 0


def _takes_config(kind: type[Config], name: str) -> bool:
    """True if the field ``name`` is annotated with a configuration or None."""
    parts = get_args(kind.model_fields[name].annotation)
    return any(isinstance(part, type) and issubclass(part, Config) for part in parts)


def _attempts_setting(stage: Stage, field: str, value: object) -> Any:  # noqa: ANN401 - of any of the types
    """The value of ``retries`` or ``timeout_s`` of a stage. Raises UsageError."""
    try:
        return TypeAdapter(_OF_ANY_STAGE[field]).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UsageError(f"Invalid value for {stage.name}.{field}", expected=problem, found=repr(value)) from error


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
