"""The command ``ls``: runs with what sets them apart, and artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from fnmatch import fnmatchcase
from glob import has_magic
from typing import Annotated

import typer

from infra.errors import printable, redact
from infra.store import Store, open_store
from workflows.cli.console import print_json
from workflows.cli.options import DEFAULT_ROOT, Json, Root
from workflows.cli.terminal import stderr, stdout
from workflows.run.look import listing

__all__ = ["ls"]

_STYLES = {"done": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "stopped": "yellow"}
_WIDEST = 40  # characters of a parameter's value

Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="List only runs with this in their names, or that match this glob.")
]
Artifacts = Annotated[bool, typer.Option("--artifacts", help="List the artifacts of all stages.")]


def ls(
    stage: Annotated[str | None, typer.Argument(help="List the artifacts of this stage instead of runs.")] = None,
    name: Name = None,
    artifacts: Artifacts = False,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """List runs: when, state, main metric, and the parameters that differ from the recipe's; or artifacts."""
    store = open_store(root)
    if stage or artifacts:
        _list_artifacts(store, stage, as_json)
        return
    rows = listing.runs(store, _wanted(name))
    if as_json:
        print_json({"runs": [row.as_dict() for row in rows]})
        return
    if not rows:
        stderr().print(f"no runs{f' named {name}' if name else ''} below {redact(store.url)} yet", markup=False)
    out = stdout()
    metrics = [_metric(row) for row in rows]
    name_width, metric_width = (max(map(len, texts), default=0) + 2 for texts in ([row.run for row in rows], metrics))
    for row, metric in zip(rows, metrics, strict=True):
        when = datetime.fromtimestamp(row.started).strftime("%Y-%m-%d %H:%M")
        out.print(f"{row.run:<{name_width}}{when}  ", end="", markup=False)
        partly = f"{row.stages_done} of {row.stages} stages  " if row.state == "done" and _is_part(row) else ""
        settings = "  ".join(f"{key}={_value(value)}" for key, value in row.changed.items())
        rest = f"{metric:<{metric_width}}{partly}{settings}".rstrip()
        out.print(f"{row.state:<13}" if rest else row.state, end="", style=_STYLES.get(row.state, "dim"))
        out.print(rest, markup=False)


def _wanted(name: str | None) -> Callable[[str], bool]:
    if name is None:
        return lambda run: True
    return (lambda run: fnmatchcase(run, name)) if has_magic(name) else (lambda run: name in run)


def _is_part(row: listing.Row) -> bool:
    return row.stages_done is not None and row.stages_done < row.stages


def _metric(row: listing.Row) -> str:
    """The last main metric: that of an evaluation, where there is one."""
    return next((f"{name} {value:.4g}" for name, value in reversed(row.headline.items())), "")


def _value(value: object) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _list_artifacts(root: Store, stage: str | None, as_json: bool) -> None:
    found = listing.artifacts(root, [stage] if stage else None)
    if as_json:
        rows = [
            {
                "name": manifest.name,
                "files": manifest.file_count,
                "bytes": manifest.size,
                "kept": manifest.funnel.kept if manifest.funnel else None,
                "folder": root.locate(folder) if manifest.location is None else manifest.location,
            }
            for folder, manifest in found
        ]
        print_json({"artifacts": rows})
        return
    if not found:
        stderr().print(f"no artifacts{f' of {stage}' if stage else ''} below {redact(root.url)} yet", markup=False)
    out = stdout()
    for _, manifest in found:
        kept = f"{manifest.funnel.kept:>10,} kept" if manifest.funnel else ""
        out.print(f"{manifest.name:<26}{manifest.file_count:>6} files {manifest.size / 1e6:>10.1f} MB {kept}".rstrip())
