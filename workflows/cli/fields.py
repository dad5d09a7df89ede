"""The configuration fields of the stages, for ``clipline fields`` and docs/reference.md."""

from __future__ import annotations

import importlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal, get_args, get_origin

from infra.config import Choice, Config, is_runtime
from infra.errors import UsageError, did_you_mean
from workflows.recipe import comments_in

__all__ = ["STAGES", "Row", "built_in", "markdown", "tables"]

# Stages that come with clipline, in the order of the data. A recipe may name its stages otherwise and add its own.
STAGES = {
    "crawl": "pipelines.crawl",
    "extract": "pipelines.extract",
    "urls": "pipelines.urls",
    "download": "pipelines.download",
    "filter": "pipelines.curate.filter",
    "embed": "pipelines.curate.embed",
    "score": "pipelines.curate.score",
    "dedup": "pipelines.curate.dedup",
    "textdedup": "pipelines.curate.textdedup",
    "semdedup": "pipelines.curate.semdedup",
    "decontaminate": "pipelines.curate.decontaminate",
    "entries": "pipelines.curate.entries",
    "balance": "pipelines.curate.balance",
    "subset": "pipelines.curate.subset",
    "shard": "pipelines.curate.shard",
    "reshard": "pipelines.curate.reshard",
    "train": "training.train",
    "embed_tests": "evaluation.embed",
    "evaluate": "evaluation.evaluate",
    "compare": "evaluation.compare",
    "suite": "evaluation.suite",
    "robustness": "evaluation.robustness",
    "adopt": "pipelines.adopt",
}

_REQUIRED = object()

_HEADER = """\
# Configuration reference

Every field of every stage of clipline, as `--set stage.field=value` sets it; values are JSON or plain text.
A field marked *runtime* cannot change the result, so it never enters the fingerprint and changing it re-runs nothing.
Fields of parts that several stages share are listed once. A part that is chosen from several kinds has a row per kind
and field, as `rules[image_side].min`. This page is made by `python -m workflows.cli fields --markdown`;
`clipline fields --recipe my_recipe.py` does the same for the stages of your own recipe.
"""


@dataclass(frozen=True)
class Row:
    """One field. ``path`` is what follows the stage's name in ``--set``; ``[kind]`` in it names a choice."""

    path: str
    type: str
    default: str  # as Python writes it; empty for a required field and for a part whose own fields follow
    required: bool
    runtime: bool
    description: str

    @property
    def assigned(self) -> str:
        """The default as it follows the type in a signature."""
        return "  (required)" if self.required else f" = {self.default}" if self.default else ""


def built_in() -> dict[str, type[Config]]:
    """The configuration class of each stage that comes with clipline."""
    return {name: importlib.import_module(module).Config for name, module in STAGES.items()}


def tables(configs: Mapping[str, type[Config]], stage: str | None = None) -> dict[str, list[Row]]:
    """The rows of each stage, or of the one named. A part met a second time is only referred to.

    Raises UsageError if there is no such stage.
    """
    if stage is not None and stage not in configs:
        fix = did_you_mean(stage, configs)
        raise UsageError(f"there is no stage {stage!r}", expected=", ".join(configs), fix=fix)
    met: dict[type, str] = {}
    chosen = configs if stage is None else {stage: configs[stage]}
    return {name: list(_Walk(name, met).rows(config)) for name, config in chosen.items()}


def markdown(tables: Mapping[str, list[Row]]) -> str:
    """The tables as docs/reference.md."""
    parts = [_HEADER]
    for name, rows in tables.items():
        parts.append(f"\n## {name}\n\n| field | type | default | |\n|---|---|---|---|\n")
        for row in rows:
            default = "required" if row.required else f"`{row.default}`" if row.default else ""
            note = f"*runtime* {row.description}" if row.runtime else row.description
            cells = (f"`{row.path}`", f"`{row.type}`", default, note)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


class _Walk:
    """Lists the fields of one stage. ``met``: the place of each part listed so far, shared by all stages."""

    def __init__(self, stage: str, met: dict[type, str]) -> None:
        self._stage, self._met = stage, met

    def rows(self, config: type[Config], prefix: str = "", runtime: bool = False) -> Iterator[Row]:
        for name, field in config.model_fields.items():
            default = _REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
            marked = runtime or is_runtime(field)
            yield from self._field(f"{prefix}{name}", field.annotation, default, marked, field.description or "")

    def _field(self, path: str, annotation: Any, default: object, runtime: bool, description: str) -> Iterator[Row]:  # noqa: ANN401
        """The row of a field, then those of the configurations it may hold."""
        parts = _parts_in(annotation)
        fresh = {kind: part for kind, part in parts.items() if part not in self._met}
        if known := [self._met[part] for part in parts.values() if part in self._met]:
            description = _joined(description, f"fields as of `{known[0]}`")
        if kinds := ", ".join(filter(None, parts)):
            description = _joined(description, f"kinds: {kinds}")
        required = default is _REQUIRED
        yield Row(path, _type(annotation), "" if required else _shown(default), required, runtime, description)
        for kind, part in fresh.items():
            place = f"{path}[{kind}]" if kind else path
            self._met[part] = f"{self._stage}.{place}"
            if issubclass(part, Config):
                yield from self.rows(part, f"{place}.", runtime)
            else:
                yield from self._dataclass(part, f"{place}.", runtime)

    def _dataclass(self, part: type, prefix: str, runtime: bool) -> Iterator[Row]:
        hints, comments = typing.get_type_hints(part), comments_in(part)
        for field in dataclass_fields(part):
            made = _REQUIRED if field.default_factory is MISSING else field.default_factory()
            default = made if field.default is MISSING else field.default
            yield from self._field(
                f"{prefix}{field.name}", hints[field.name], default, runtime, comments.get(field.name, "")
            )


def _parts_in(annotation: Any) -> dict[str, type]:  # noqa: ANN401 - any annotation
    """Configurations and dataclasses that a field of this type may hold, by kind; "" where there is no choice."""
    if isinstance(annotation, type) and issubclass(annotation, Choice) and annotation.is_family():
        return dict(sorted(annotation.all_members().items()))
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return {"": annotation}
    if isinstance(annotation, type) and is_dataclass(annotation):
        return {"": annotation}
    found: dict[str, type] = {}
    for part in get_args(annotation):
        found |= _parts_in(part)
    return found


def _type(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """A type as people write it: ``list[str] | None``, ``'host' | 'any'``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type, arguments))
    if origin is tuple and arguments[-1:] == (...,):
        return f"list[{_type(arguments[0])}]"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, arguments))}]"
    return "None" if annotation is types.NoneType else getattr(annotation, "__name__", str(annotation))


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _shown(default: object) -> str:
    """A default value as Python writes it: choices by their kinds, nothing for a part with fields of its own."""
    if isinstance(default, tuple):
        return f"[{', '.join(map(_shown, default))}]"
    if isinstance(default, Choice):
        return default.kind
    if isinstance(default, Config):
        return ""
    if is_dataclass(default):
        return ""
    return repr(default) if not isinstance(default, float) or default != int(default) else f"{default:g}"
