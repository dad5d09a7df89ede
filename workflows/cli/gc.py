"""The command ``gc``: what nothing needs any more, and its removal."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from infra.errors import UsageError, redact
from infra.store import open_store
from workflows.cli.console import print_json, size
from workflows.cli.options import DEFAULT_ROOT, Json, Root
from workflows.cli.terminal import stderr, stdout
from workflows.run.reclaim import Item, Rules, reclaim, survey

__all__ = ["gc"]

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHORTEST_S = 3600  # a run between two stages holds no lease, and must not look forgotten

Delete = Annotated[bool, typer.Option("--delete", help="Remove it. Without this nothing is changed.")]
OlderThan = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Keep nothing for runs in which nothing happened for so long: 14d, 12h, 8w."),
]
Keep = Annotated[list[str] | None, typer.Option(metavar="RUN", help="Keep this run whatever its age. Repeatable.")]


def gc(
    delete: Delete = False,
    older_than: OlderThan = None,
    keep: Keep = None,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Show what no run and no registered model needs, and remove it with `--delete`."""
    store = open_store(root)
    rules = Rules(tuple(keep or ()), _age(older_than))
    found = survey(store, rules)
    rows = [(item, "") for item in found.due]
    if delete:
        rows = list(reclaim(store, rules, found.due))
    done = [item for item, stayed in rows if not stayed]
    held = [(item, f"held by {item.why}") for item in found.of("held")]
    stayed = [*((item, why) for item, why in rows if why), *held]
    kept = found.of("kept")
    if as_json:
        print_json(
            {
                "deleted": delete,
                "reclaimed": [_row(item) for item in done],
                "stayed": [{**_row(item), "why": why} for item, why in stayed],
                "bytes": sum(item.bytes for item in done),
                "kept": {"artifacts": len(kept), "bytes": sum(item.bytes for item in kept)},
                "runs_let_go": found.let_go,
            }
        )
        return
    out, err = stdout(), stderr()
    for item in done:
        out.print(f"{item.state:<11}{item.name:<38}{size(item.bytes):>9}  {item.why}", markup=False)
    for item, why in stayed:
        err.print(f"stays      {item.name:<38}{size(item.bytes):>9}  {why}", markup=False, style="yellow")
    total = f"{size(sum(item.bytes for item in done))} {'removed' if delete else 'can go, --delete removes it'}"
    rest = f"{len(kept)} artifacts of {size(sum(item.bytes for item in kept))} are kept"
    err.print(f"{total if done else 'nothing can go'}; {rest} below {redact(store.url)}", markup=False)


def _row(item: Item) -> dict[str, object]:
    return {
        "name": item.name,
        "state": item.state,
        "files": item.files,
        "bytes": item.bytes,
        "why": item.why,
        "folder": item.folder,
    }


def _age(text: str | None) -> float | None:
    """Seconds. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)([mhdw])", text)
    age = int(match[1]) * _UNITS[match[2]] if match else 0
    if age < _SHORTEST_S:
        raise UsageError(f"--older-than {text} is no age", expected="a number of h, d or w, from 1h: 14d")
    return float(age)
