"""The command ``diff``: two runs or two artifacts side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from infra.config import flatten
from infra.errors import UsageError, printable
from infra.run.manifest import Manifest
from infra.store import Store, open_store
from workflows.cli.console import print_json, strict
from workflows.cli.look.show import artifact_named
from workflows.cli.options import DEFAULT_ROOT, Json, Root
from workflows.cli.terminal import stderr, stdout
from workflows.run.look.differences import Differences, Pair, Score, differences
from workflows.run.plan import short
from workflows.run.records import find_run

__all__ = ["diff"]

Name = Annotated[
    str, typer.Argument(metavar="RUN|ARTIFACT", help="A run, or an artifact as `stage/digest`, or its beginning.")
]


def diff(one: Name, other: Name, root: Root = DEFAULT_ROOT, as_json: Json = False) -> None:
    """Compare two runs or two artifacts: configuration, inputs, code, funnel and metrics."""
    store = open_store(root)
    kinds = [_is_artifact(store, name) for name in (one, other)]
    if kinds[0] != kinds[1]:
        raise UsageError("a run and an artifact cannot be compared", expected="two runs, or two artifacts")
    if kinds[0]:
        _diff_artifacts(store, one, other, as_json)
        return
    found = differences(store, find_run(store, one), find_run(store, other))
    if as_json:
        print_json(found.as_dict())
        return
    _show(found)
    for run, stages in found.unfinished.items():
        stderr().print(f"{run} has no result of {', '.join(stages)} yet", style="yellow", markup=False)
    if not found:
        stderr().print("no difference")
    elif any(score.has_interval for score in found.metrics.values()):
        hint = f"clipline compare {found.runs[0]} {found.runs[1]}"
        stderr().print(f"Which of them are real: {hint} (paired, so it sees more than two intervals do)", markup=False)


def _is_artifact(root: Store, name: str) -> bool:
    return "/" in name or name in root.folders("artifacts")


# --- runs


def _show(found: Differences) -> None:
    lines: dict[str, Mapping[str, Pair]] = {
        "parameters": found.parameters,
        "stages": {name: ("there" if a else None, "there" if b else None) for name, (a, b) in found.stages.items()},
        "config": found.config,
        "inputs": found.inputs,
        "code": found.code | {f"{stage} source": (_few(names), None) for stage, names in found.modules.items()},
    }
    for title, pairs in lines.items():
        table = _table(title, found)
        for name, pair in pairs.items():
            table.add_row(printable(name), *(printable(_text(value)) for value in pair))
        _print(table)
    counts = _table("funnel", found, "difference")
    for name, (old, new) in found.funnel.items():
        change = f"{new - old:+,}" if None not in (old, new) else ""
        counts.add_row(printable(name), *("-" if value is None else f"{value:,}" for value in (old, new)), change)
    _print(counts)
    metrics = _table("metrics, with 95% intervals", found, "difference")
    for name, score in found.metrics.items():
        metrics.add_row(name, *_shown(score))
    _print(metrics)


def _table(title: str, found: Differences, *more: str) -> Table:
    table = Table("", *found.runs, *more, box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    return table


def _print(table: Table) -> None:
    if table.row_count:
        stdout().print(table, markup=False)


def _shown(score: Score) -> Iterable[str]:
    for value, low, high in zip(score.values, score.low, score.high, strict=True):
        interval = f"  {low:.3f} - {high:.3f}" if low is not None and high is not None else ""
        yield "-" if value is None else f"{value:.4g}{interval}"
    old, new = score.values
    yield f"{new - old:+.4g}" if None not in (old, new) else ""


def _text(value: object) -> str:
    return "-" if value is None else value if isinstance(value, str) and len(value) <= 120 else short(value)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"differs in {', '.join(names[:3])}{more}"


# --- artifacts


def _diff_artifacts(root: Store, one: str, other: str, as_json: bool) -> None:
    before, after = (_facts(artifact_named(root, name).manifest) for name in (one, other))
    rows = {
        key: [before.get(key), after.get(key)]
        for key in sorted({*before, *after})
        if strict(before.get(key)) != strict(after.get(key))
    }
    if as_json:
        print_json(rows)
    elif rows:
        out = stdout()
        for key, (old, new) in rows.items():
            out.print(f"{key}: {old} -> {new}", markup=False)
    else:
        stderr().print("no difference")


def _facts(manifest: Manifest) -> dict[str, object]:
    funnel = manifest.funnel.to_json() if manifest.funnel else {}
    whole = {"config": manifest.config, "inputs": manifest.identity.get("inputs", {})}
    return flatten({**whole, "funnel": funnel, "metrics": manifest.metrics})
