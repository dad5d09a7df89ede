"""The command ``show``: one artifact."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from infra.config import flatten
from infra.errors import CliplineError, UsageError
from infra.rows import FACT
from infra.run.manifest import MANIFEST, Artifact
from infra.schema import Drop
from infra.store import Store, open_store
from workflows.cli.console import print_json
from workflows.cli.options import DEFAULT_ROOT, Json, Root
from workflows.cli.terminal import stderr, stdout
from workflows.run.accepted import acceptances

__all__ = ["artifact_named", "show"]

ArtifactName = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="`stage/digest` as `ls` prints it, or its beginning.")
]


def show(
    name: ArtifactName,
    root: Root = DEFAULT_ROOT,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with the manifest.")] = False,
    as_json: Json = False,
) -> None:
    """Show an artifact: its configuration, inputs, files and metrics, and why rows were dropped."""
    artifact = artifact_named(open_store(root), name)
    if as_json:
        print_json(artifact.manifest.to_json())
    else:
        _print_manifest(open_store(root), artifact)
    if verify:
        _verify(artifact)


def _print_manifest(root: Store, artifact: Artifact) -> None:
    manifest, out = artifact.manifest, stdout()
    out.print(manifest.name, style="bold")
    out.print(f"  {artifact.store.url}")
    if manifest.funnel:
        out.print(f"  {manifest.funnel.entered:,} {manifest.funnel.unit} entered, {manifest.funnel.kept:,} kept")
        for reason, count in manifest.funnel.dropped.items():
            out.print(f"    {count:>10,} {reason}")
    for message, count in manifest.facts.get(FACT, {}).items():
        out.print(f"    {count:>10,} {Drop.UNFORESEEN}: {message}", markup=False)
    for title, values in (("metrics", manifest.metrics), ("config", manifest.config)):
        for key, value in flatten(values).items():
            out.print(f"  {title}  {key} = {value}", markup=False)
    for kind, digest in manifest.identity.get("inputs", {}).items():
        out.print(f"  input   {kind} = {digest[:12]}")
    for one in acceptances(root.child(f"artifacts/{manifest.stage}/{manifest.digest[:16]}")):
        when = datetime.fromtimestamp(one.at).strftime("%Y-%m-%d %H:%M")
        names = ", ".join((*one.source, *one.inputs))
        out.print(f"  accepted  {when} by {one.by}: {one.why} ({names})", markup=False)
    size = manifest.size
    out.print(f"  {manifest.file_count} files, {size / 1e6:,.1f} MB")


def _verify(artifact: Artifact) -> None:
    """Compare every file with the manifest. Raises CliplineError if one differs."""
    manifest, err = artifact.manifest, stderr()
    wrong = list(artifact.verify())
    for file, problem in wrong:
        err.print(f"{file.path}: {problem}", style="red")
    if wrong:
        raise CliplineError(
            f"{len(wrong)} files of {manifest.name} are not what its manifest says", fix=f"--force {manifest.stage}"
        )
    err.print("every file matches the manifest", style="green")


def artifact_named(root: Store, name: str) -> Artifact:
    """The finished artifact that ``stage/digest`` names; the digest may be cut short or left out. Raises UsageError."""
    stage, _, start = name.partition("/")
    found = [
        digest
        for digest in root.folders(f"artifacts/{stage}")
        if digest.startswith(start[:16]) and root.exists(f"artifacts/{stage}/{digest}/{MANIFEST}")
    ]
    if not found:
        stages = root.folders("artifacts")
        others = ", ".join(f"{stage}/{digest[:12]}" for digest in root.folders(f"artifacts/{stage}"))
        others = f"one of {others}" if others else f"one of these stages: {', '.join(stages)}" if stages else ""
        raise UsageError(
            f"there is no artifact {name!r} below {root.url}",
            expected=others,
            fix="clipline ls --artifacts lists them" if others else "clipline run quickstart makes some",
        )
    if len(found) > 1:
        others = ", ".join(f"{stage}/{digest[:12]}" for digest in found)
        raise UsageError(f"{name!r} names {len(found)} artifacts", expected=f"one of {others}")
    return Artifact.load(root.child(f"artifacts/{stage}/{found[0]}"))
