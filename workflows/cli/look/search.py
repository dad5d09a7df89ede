"""The command ``search``: the images and captions of a run that are nearest to a text or an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infra.store import open_store
from workflows.cli.console import print_json
from workflows.cli.look.show import artifact_named
from workflows.cli.options import DEFAULT_ROOT, Json, Root
from workflows.cli.terminal import stdout
from workflows.run.records import find_run, finished

__all__ = ["search"]

Where = Annotated[str, typer.Argument(metavar="RUN", help="A run, or an artifact of vectors (`embed/3fa9`).")]
Query = Annotated[str, typer.Argument(metavar="QUERY", help="A text, or an image file.")]
StageName = Annotated[str | None, typer.Option("--stage", metavar="STAGE", help="The stage that embedded; the last.")]
Most = Annotated[int, typer.Option("--most", metavar="N", min=1, help="Images, and captions, to find.")]
Page = Annotated[
    Path | None,
    typer.Option(
        "--page",
        metavar="FILE",
        help="Write one HTML page, with the run's worst errors, too.",
    ),
]


def search(
    where: Where,
    query: Query,
    stage: StageName = None,
    most: Most = 12,
    page: Page = None,
    root: Root = DEFAULT_ROOT,
    as_json: Json = False,
) -> None:
    """Search the vectors of a run for the images and captions nearest to a text or an image."""
    from workflows.run.look import errors, search  # loads numpy, and torch to encode the query

    store = open_store(root)
    artifacts = [artifact_named(store, where)] if "/" in where else finished(store, find_run(store, where))
    found = search.search(store, search.embeddings_of(artifacts, stage), query, most)
    if page:
        from workflows.report.search import render

        page.write_text(render(found, errors.errors_of(store, artifacts, most)))
    if as_json:
        rows = {"images": found.images, "captions": found.texts}
        listed = {
            name: [{"cosine": one.cosine, "uid": one.uid, "caption": one.caption} for one in many]
            for name, many in rows.items()
        }
        print_json({"query": query, "artifact": found.artifact, **listed})
        return
    out = stdout()
    for title, many in (("images", found.images), ("captions", found.texts)):
        count = found.rows if title == "images" else found.captions
        if not count:
            continue
        out.print(f"nearest of {count:,} {title} in {found.artifact}", style="bold", markup=False)
        for one in many:
            out.print(f"  {one.cosine:+.3f}  {one.uid}  {one.caption}", markup=False, soft_wrap=True)
