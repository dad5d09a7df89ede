"""Artifacts as the runner leaves them, without running anything."""

from __future__ import annotations

from infra.run.context import Context
from infra.run.manifest import MANIFEST, Funnel
from infra.store import Store
from workflows.run.plan import make_plan
from workflows.run.provenance import provenance
from workflows.stage import Workflow


def carry_out(
    workflow: Workflow, root: Store, *names: str, content: str = "", metrics=None, funnel: bool = False, facts=None
) -> None:
    """Commit the artifacts of the named stages (default: all)."""
    for stage in workflow:
        if names and stage.name not in names:
            continue
        folder = root.child(stage.folder)
        manifests = {name: make_plan(workflow, root)[source.name].manifest for name, source in stage.inputs.items()}
        origin = provenance(stage.run, stage.config, manifests)
        context = Context(
            folder,
            stage=stage.name,
            digest=stage.digest,
            identity=stage.identity,
            config=stage.config.resolved(),
            provenance=origin,
        )
        folder.delete("data")
        context.output.write("data/out", f"{stage.name}{content}".encode(), rows=2)
        rows = Funnel(unit="rows", entered=5, kept=2, dropped={"small": 3}) if funnel else None
        folder.write(MANIFEST, context.finish(metrics=metrics, funnel=rows, facts=facts).to_bytes())
