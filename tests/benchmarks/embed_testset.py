"""The pass over a test set beside CLIP_benchmark's own: images per CPU second, same model, same shards, one run.

    CLIP_BENCHMARK_PYTHON=.../bin/python python -m tests.benchmarks.embed_testset [--images 512] [--repeats 2]

``CLIP_BENCHMARK_PYTHON`` is a Python with the package clip-benchmark (and torch and open_clip, of the same versions if
the comparison is to be fair). Its side is what its command does for zero-shot classification: its reader of WebDataset
shards in a DataLoader without workers, its loop over the batches, both without autocast, which our pass has not either.
Ours is the work of the stage ``embed``, files written. Both run in processes of their own, in turn, on one thread.
Data wait: the share of our pass's wall time in which the model waits for decoded images.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.pictured_set import adopted, make

_THEIRS = """
import json, resource, sys
import open_clip, torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification as zeroshot

folder = sys.argv[1]
torch.set_num_threads(1)
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}/model")
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}/model")
model.eval()
dataset = build_dataset("wds/pictures", root=f"{folder}/sets/data/pictures", transform=preprocess, split="test")
loader = torch.utils.data.DataLoader(dataset.batched(64), batch_size=None, shuffle=False, num_workers=0)
before = resource.getrusage(resource.RUSAGE_SELF)
classifier = zeroshot.zero_shot_classifier(model, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False)
logits, _ = zeroshot.run_classification(model, classifier, loader, "cpu", amp=False)
after = resource.getrusage(resource.RUSAGE_SELF)
seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"images": len(logits), "seconds": seconds}))
"""


def ours(folder: Path) -> dict[str, float]:
    """The stage's work, with the time that its model waits for images."""
    import torch

    from evaluation.embed import Config
    from evaluation.embed.config import Part
    from evaluation.embed.work import embed
    from infra.encoder.open_clip import OpenClipEncoder
    from infra.formats.testset import EvalSet
    from infra.run.context import Context, ShardOutput

    torch.set_num_threads(1)
    inputs, waited = adopted(folder), 0.0
    plain = OpenClipEncoder.encode_prepared

    def watched(self: OpenClipEncoder, pixels: Iterator[object]) -> object:
        def each() -> Iterator[object]:
            nonlocal waited
            source = iter(pixels)
            while True:
                begin = time.perf_counter()
                found = next(source, None)
                waited += time.perf_counter() - begin
                if found is None:
                    return
                yield found

        return plain(self, each())

    OpenClipEncoder.encode_prepared = watched  # type: ignore[method-assign]
    examples = EvalSet.open(inputs["dataset"], "pictures", "test")
    store = Context(f"{folder}/ours-{time.time_ns()}").store
    specs = [(Part(examples.alone(None), None), ShardOutput(store, "classes"))]
    specs += [(Part(examples.alone(shard), shard), ShardOutput(store, str(shard))) for shard in examples.parts]
    records = embed(Config(sets=("pictures",)), inputs["model"], specs)
    next(records)  # the classes; the model is loaded
    before, begin, waited = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0.0
    images = sum(record.facts["images"] for record in records)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"images": images, "seconds": spent, "wait": waited / wall}


def main() -> None:
    from infra.cluster import TENSORS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--model", default="lite", help="an architecture of open_clip, or lite: EfficientNet-Lite0")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(Path(options.ours))))
        return
    peer = os.environ.get("CLIP_BENCHMARK_PYTHON")
    if not peer:
        sys.exit("CLIP_BENCHMARK_PYTHON must be a Python with clip-benchmark")
    threads = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    found: dict[str, list[dict[str, float]]] = {"theirs": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.images, options.model)
        mine = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.embed_testset", "--ours", folder]
        for _ in range(options.repeats):
            for name, command, more in (("theirs", [peer, "-c", _THEIRS, folder], {}), ("ours", mine, TENSORS)):
                done = subprocess.run(command, env=threads | more, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rates = {name: max(one["images"] / one["seconds"] for one in runs) for name, runs in found.items()}
    for name, rate in rates.items():
        print(f"{name:8} {rate:7.1f} images/CPU-s")
    print(f"data wait: {100 * min(one['wait'] for one in found['ours']):.1f} %")
    print(f"pass over a test set: {rates['ours'] / rates['theirs']:.2f} x CLIP_benchmark's")


if __name__ == "__main__":
    main()
