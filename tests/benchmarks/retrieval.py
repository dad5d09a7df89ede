"""Recall from features, against the function of CLIP_benchmark, and at a size whose score matrix fits no memory.

    python -m tests.benchmarks.retrieval peer             5,000 images, 25,000 captions, 512 dimensions
    python -m tests.benchmarks.retrieval large [COUNT]    COUNT images and captions, by default 200,000

CLIP_benchmark's arithmetic (clip_benchmark/metrics/zeroshot_retrieval.py, 1.6) is written out below: the whole matrix
of scores and one of right pairs, and for each k the first k of 64 rows at a time, one-hot. Each side runs in a process
of its own with one thread; memory is what the process grows by over its features.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np

DIMENSIONS, KS = 512, (1, 5, 10)


def features(images: int, captions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of images, of their captions, and the image of each caption."""
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(images), captions)
    vectors = random.standard_normal((images, DIMENSIONS), dtype=np.float32)
    texts = random.standard_normal((len(owner), DIMENSIONS), dtype=np.float32)
    texts *= 5
    texts += vectors[owner]
    for rows in (vectors, texts):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors, texts, owner


def ours(images: int, captions: int) -> dict[str, float]:
    from infra import ranking

    vectors, texts, owner = features(images, captions)
    start = grown()
    begin = time.process_time()
    found = ranking.retrieve(vectors, texts, np.arange(len(texts)), owner).metrics(KS)
    values = {name: metric.value for name, metric in found.items() if not name.startswith("mean")}
    return {**values, "seconds": time.process_time() - begin, "mb": grown() - start}


def peer(images: int, captions: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    vectors, texts, owner = (torch.from_numpy(array) for array in features(images, captions))
    start = grown()
    begin = time.process_time()
    scores = texts @ vectors.T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), owner] = True
    values = {}
    for k in KS:
        for name, side, right in (("image", scores, positive), ("text", scores.T, positive.T)):
            hits = [_hits(side[part : part + 64], right[part : part + 64], k) for part in range(0, len(side), 64)]
            values[f"{name}_retrieval_recall@{k}"] = float((torch.cat(hits) > 0).float().mean())
    return {**values, "seconds": time.process_time() - begin, "mb": grown() - start}


def _hits(scores, right, k):
    """Share of the right answers of each row that are among its first k."""
    import torch

    first = torch.nn.functional.one_hot(scores.topk(k, dim=1).indices, num_classes=scores.shape[1])
    found = (first * right[:, None, :]).sum(dim=(1, 2))
    return found / right.sum(dim=1)


def grown() -> float:
    """The most memory this process has had, MB."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024


def measured(side: str, images: int, captions: int) -> dict[str, float]:
    """What a side says in a process of its own with one thread."""
    import json

    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.retrieval", side, str(images), str(captions)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    what, *numbers = sys.argv[1:]
    if what in ("ours", "theirs"):
        import json

        side = ours if what == "ours" else peer
        sys.stdout.write(json.dumps(side(*map(int, numbers))))
    elif what == "peer":
        one, other = measured("ours", 5000, 5), measured("theirs", 5000, 5)
        apart = max(abs(one[name] - other[name]) for name in one if "recall" in name)
        for name, side in (("ours", one), ("CLIP_benchmark's", other)):
            print(f"{name}: {side['seconds']:.2f} CPU-s, {side['mb']:.0f} MB")
        print(f"largest difference {apart:.1e}")
        print(f"speed: {other['seconds'] / one['seconds']:.1f} x; memory: 1/{other['mb'] / one['mb']:.0f}")
    else:
        count = int(numbers[0]) if numbers else 200_000
        found = ours(count, 1)
        print(f"{count:,} x {count:,}: {found['seconds']:.0f} CPU-s, {found['mb']:.0f} MB over the features")
        print(f"the whole process: {grown() / 1024:.2f} GB (bar 4)")


if __name__ == "__main__":
    main()
