"""A driver to be killed: ``python victim.py STAGE INPUT OUTPUT CONFIG_JSON`` runs one stage as the runner would.

Prints a line per event, and leaves ``manifest.json``'s content on success in ``OUTPUT.manifest``.
"""

import importlib
import sys
from pathlib import Path

from infra import cluster
from infra.events import Event, ShardRetry
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest


def say(event: Event) -> None:
    sys.stdout.write(f"{event.kind} {event.shard if isinstance(event, ShardRetry) else ''}\n")
    sys.stdout.flush()


def main(stage: str, source: str, target: str, config: str) -> None:
    module = importlib.import_module(f"pipelines.{stage}")
    before = Artifact(source, Manifest.from_bytes(Path(f"{source}.manifest").read_bytes(), source))
    inputs = {{"download": "pairs", "extract": "pages"}[stage]: before}
    with cluster.connect():
        done = module.run(module.Config.model_validate_json(config), inputs, Context(target, stage=stage, emit=say))
    Path(f"{target}.manifest").write_bytes(done.to_bytes())


main(*sys.argv[1:])
