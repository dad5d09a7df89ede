"""``clipline trace``: a row's whole way, from its page to the models that learned from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import UsageError
from infra.run.manifest import Artifact
from infra.store import Store, open_store
from workflows.cli.console import column, print_json
from workflows.cli.options import DEFAULT_ROOT, Json, Root, RunName
from workflows.cli.terminal import stdout
from workflows.run.records import find_run, finished

if TYPE_CHECKING:
    from workflows.run.look.trace import Hit, Row

__all__ = ["trace"]


def trace(
    what: Annotated[str, typer.Argument(metavar="UID|URL", help="A row's `uid`, or the URL of an image or of a page.")],
    name: RunName = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Look in every artifact, not only those of a run.")] = False,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="Rows of a URL to trace at most.")] = 20,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Show what every stage of a run made of a row: found, fetched, dropped and why, where it lies, who learned it."""
    from workflows.run.look import trace as tracing  # imports pyarrow

    artifacts = tracing.in_order(_artifacts(open_store(root), name, everywhere))
    pages = [] if tracing.is_uid(what) else tracing.pages(artifacts, what)
    rows = list(tracing.trace(artifacts, what, most))
    rows = [row for row in rows if row.hits]
    if not rows and not pages:
        looked = ", ".join(artifact.manifest.stage for artifact in artifacts)
        raise UsageError(f"no row of {what}", expected=f"one that a stage has seen: {looked or 'none is finished'}")
    if as_json:
        found = [{**vars(row), "hits": [hit.as_dict() for hit in row.hits]} for row in rows]
        print_json({"pages": [hit.as_dict() for hit in pages], "rows": found})
        return
    for hit in pages:
        _print_hits([hit])
    for row in rows:
        _print_row(row)


def _artifacts(root: Store, name: str | None, everywhere: bool) -> list[Artifact]:
    """The finished artifacts of a run, or all below the root."""
    if not everywhere:
        return finished(root, find_run(root, name))
    folders = [
        f"artifacts/{stage}/{one}" for stage in root.folders("artifacts") for one in root.folders(f"artifacts/{stage}")
    ]
    return [artifact for folder in folders if (artifact := Artifact.find(root.child(folder)))]


def _print_row(row: Row) -> None:
    out = stdout()
    out.print(row.uid, style="bold")
    for title, text in (("image", row.url), ("page", row.page_url), ("caption", row.caption)):
        if text:
            out.print(f"  {title:<9}{text}", markup=False, soft_wrap=True)
    _print_hits(row.hits)


def _print_hits(hits: list[Hit] | Any) -> None:  # noqa: ANN401 - any sequence of them
    out, width = stdout(), column(hit.stage for hit in hits)
    for hit in hits:
        style = {"kept": "green", "dropped": "yellow"}.get(hit.outcome, "bold")
        out.print(f"  {hit.stage:<{width}}", end="")
        out.print(f"{hit.outcome:<9}", style=style, end="")
        place = "" if hit.row is None else f" row {hit.row}"
        place += "" if hit.offset is None else f" at byte {hit.offset:,}"
        out.print(
            "  ".join(filter(None, (hit.reason, f"{hit.file}{place}" or hit.artifact))), markup=False, soft_wrap=True
        )
        for detail, value in hit.details.items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            out.print(f"  {'':<{width}}  {detail} = {text}", markup=False, style="dim", soft_wrap=True)
