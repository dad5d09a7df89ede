"""Run pickled stages, each in a process of its own, and note the first-party modules that they loaded.

``python one_stage.py FILE...``: each the pickle of a stage's function, configuration, inputs (folders by name) and
folder; the list of its modules becomes FILE.json. The processes are forks of one that has imported the libraries, which
would be most of each one's time, and nothing of ours. What Ray would do elsewhere is done here: shards one after the
other, one training process, a rate limiter of our own.
"""

import json
import multiprocessing
import pickle
import sys
from contextlib import nullcontext
from importlib import import_module

LIBRARIES = ("cv2", "matplotlib.figure", "open_clip", "pyarrow.parquet", "ray.train.torch", "scipy.stats", "torch")
PACKAGES = ("infra", "pipelines", "training", "evaluation", "workflows")


def shards_in_this_process(context, shards, work, limits=None, on_done=None, *, size=None):
    import_module("infra.cluster.loop")  # as the original does
    from infra.run.context import ShardOutput
    from infra.run.pieces import Records

    shards, records, size = list(shards), {}, size or 1
    for start in range(0, len(shards), size):
        for record in work([(spec, ShardOutput(context.store, name)) for name, spec in shards[start : start + size]]):
            records[record.shard] = record
            if on_done is not None:
                on_done(record)
    return Records(context.store, rest=[records[name] for name, _ in shards])


def train_in_this_process(config, inputs, context):
    from pathlib import Path

    from training.distributed.world import World
    from training.inputs import Inputs
    from training.loop import train

    train(config, Inputs.of(inputs, Path("unused")), context, World())


def without_ray(run) -> None:
    if run.__module__ == "training.train":
        on_ray = import_module("training.on_ray")
        on_ray._launch, on_ray._check_room = train_in_this_process, lambda config: None
    elif run.__module__ in ("pipelines.crawl.stage", "pipelines.download.stage"):
        actor, client = import_module("pipelines.web.politeness.actor"), "pipelines.web.politeness.client"
        actor.shared_limiter = lambda web: nullcontext(import_module(client).LocalLimiter(web))


def first_party() -> list[str]:
    return sorted(name for name in sys.modules if name.partition(".")[0] in PACKAGES)


def carry_out(file: str) -> None:
    from infra.run.context import Context
    from infra.run.manifest import MANIFEST, Artifact

    with open(file, "rb") as source:
        package = pickle.load(source)
        if package["shards"]:
            cluster = import_module("infra.cluster")
            import_module("ray").cluster_resources = lambda: {"CPU": 1.0}
            cluster.run_batches = sys.modules["infra.cluster.shards"].run_batches = shards_in_this_process
        run, config, inputs = pickle.loads(package["stage"])
    without_ray(run)
    context = Context(package["folder"], location=config.location(), config=config.resolved())
    manifest = run(config, {name: Artifact.load(folder) for name, folder in inputs.items()}, context)
    context.store.write(MANIFEST, manifest.to_bytes())
    with open(f"{file}.json", "w") as sink:
        json.dump(first_party(), sink)


def main(files: list[str]) -> None:
    for library in LIBRARIES:
        import_module(library)
    assert first_party() == []
    fork = multiprocessing.get_context("fork")
    for file in files:
        process = fork.Process(target=carry_out, args=(file,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{file}: exit code {process.exitcode}")


if __name__ == "__main__":
    main(sys.argv[1:])
