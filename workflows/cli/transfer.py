"""The commands ``export`` and ``import``: artifacts and runs between roots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from infra.errors import UsageError, redact
from infra.run.transfer import Shipment
from infra.store import Store, open_store
from workflows.cli.console import column, print_json, size
from workflows.cli.look.show import artifact_named
from workflows.cli.options import DEFAULT_ROOT, Group, Json, Root, grouped
from workflows.cli.terminal import stderr, stdout
from workflows.run.records import find_run, finished
from workflows.run.transfer import shipments, transfer, within

__all__ = ["export_to", "import_from"]

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Freight:
    """A run or an artifact to copy, and within what bounds."""

    name: str
    inputs: bool
    max_bytes: int | None
    plan_only: bool


def _freight(
    name: Annotated[
        str, typer.Argument(metavar="RUN|ARTIFACT", help="A run, or an artifact as `stage/digest`, or its beginning.")
    ],
    inputs: Annotated[bool, typer.Option("--inputs", help="With an artifact also all that it was made from.")] = False,
    max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Copy nothing if it were more: 500MB, 2TB, a number.")
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what would be copied, with its bytes.")] = False,
) -> Freight:
    return Freight(name, inputs, _bytes(max_bytes), plan_only)


Freighted = Annotated[Freight, Group(_freight)]


@grouped
def export_to(
    freight: Freighted,
    target: Annotated[str, typer.Argument(metavar="DEST", help="The root to copy to: a folder or s3://...")],
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Copy a run's artifacts, or one artifact, to another root. The same command again continues."""
    _carry(open_store(root), open_store(target), freight, as_json)


@grouped
def import_from(
    freight: Freighted,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The root to copy from: a folder or s3://...")],
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Copy a run's artifacts, or one artifact, from another root. The same command again continues."""
    _carry(open_store(source), open_store(root), freight, as_json)


def _carry(source: Store, target: Store, freight: Freight, as_json: bool) -> None:
    name, plan_only = freight.name, freight.plan_only
    record = None if "/" in name or name in source.folders("artifacts") else find_run(source, name)
    artifacts = finished(source, record) if record else [artifact_named(source, name)]
    planned = shipments(source, target, artifacts, inputs=freight.inputs)
    gone = [0]
    within(planned, freight.max_bytes)
    if not plan_only:
        err, seen = stderr(), set()

        def copied(one: Shipment, number: int) -> None:
            if number and one.folder not in seen:
                seen.add(one.folder)
                err.print(f"  {one.manifest.name}  {size(one.bytes_left)}", markup=False)
            gone[0] += number

        transfer(source, target, planned, record, copied)
    if as_json:
        print_json({"copied": not plan_only, "bytes_copied": gone[0], "artifacts": [_row(one) for one in planned]})
    else:
        _show(planned, target, gone[0], plan_only)


def _show(planned: list[Shipment], target: Store, gone: int, plan_only: bool) -> None:
    out, width = stdout(), column(one.manifest.name for one in planned)
    for one in planned:
        location = one.manifest.location
        todo = f"{size(one.bytes_left)} of {size(one.bytes)} to copy" if plan_only else "copied"
        stays = f", its files stay at {redact(location)}" if location is not None else ""
        out.print(f"{one.manifest.name:<{width}}{'is there' if one.there else todo}{stays}", markup=False)
    left = sum(one.bytes_left for one in planned)
    said = f"{size(left)} would be copied" if plan_only else f"{size(gone)} copied"
    stderr().print(f"{said} to {redact(target.url)}", markup=False)


def _row(one: Shipment) -> dict[str, object]:
    return {
        "name": one.manifest.name,
        "folder": one.folder,
        "bytes": one.bytes,
        "bytes_left": one.bytes_left,
        "there": one.there,
        "location": one.manifest.location,
    }


def _bytes(text: str | None) -> int | None:
    """Bytes of ``500MB`` or ``1000``. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text)
    if not match:
        raise UsageError(f"--max-bytes {text} is no size", expected="a number of bytes, kB, MB, GB or TB: 500MB")
    return int(float(match[1]) * _UNITS[match[2]])
