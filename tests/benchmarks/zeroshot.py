"""Zero-shot accuracies from features, against the functions of CLIP_benchmark, logits included, ours also with
confidences and calibration error.

    python -m tests.benchmarks.zeroshot [IMAGES]     by default 50,000 images, 1,000 classes, 512 dimensions

CLIP_benchmark's arithmetic (clip_benchmark/metrics/zeroshot_classification.py, 1.6) is written out below: logits of 64
images at a time, joined; the first 5 classes of each row for acc1 and acc5, scikit-learn's balanced accuracy of the
highest. Each side runs in a process of its own with one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np

CLASSES, DIMENSIONS, BATCH = 1000, 512, 64


def features(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of images and of classes, and the class of each image."""
    random = np.random.default_rng(0)
    classifier = random.standard_normal((CLASSES, DIMENSIONS), dtype=np.float32)
    labels = random.integers(0, CLASSES, images)
    vectors = random.standard_normal((images, DIMENSIONS), dtype=np.float32) * 8
    vectors += classifier[labels]
    for rows in (vectors, classifier):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors, classifier, labels


def ours(images: int) -> dict[str, float]:
    from evaluation.calibration import CalibrationError
    from infra import metrics

    vectors, classifier, labels = features(images)
    begin = time.process_time()
    classified = metrics.classify(vectors, classifier, labels, 100.0)
    found = classified.metrics()
    assert CalibrationError(classified.rank == 0, classified.confidence).value > 0  # computed, which nobody else does
    names = ("acc1", "acc5", "mean_per_class_recall")
    return {**{name: found[name].value for name in names}, "seconds": time.process_time() - begin}


def peer(images: int) -> dict[str, float]:
    import torch
    from sklearn.metrics import balanced_accuracy_score

    torch.set_num_threads(1)
    vectors, classifier, labels = (torch.from_numpy(array) for array in features(images))
    weights = classifier.T.contiguous()
    begin = time.process_time()
    logits = torch.cat([(100.0 * part @ weights).float() for part in vectors.split(BATCH)])
    first = logits.topk(5, 1, True, True)[1].t()
    right = first.eq(labels.view(1, -1).expand_as(first))
    acc1, acc5 = (float(right[:k].reshape(-1).float().sum()) / images for k in (1, 5))
    recall = float(balanced_accuracy_score(labels, logits.argmax(dim=1)))
    return {"acc1": acc1, "acc5": acc5, "mean_per_class_recall": recall, "seconds": time.process_time() - begin}


def measured(side: str, images: int) -> dict[str, float]:
    """What a side says in a process of its own with one thread."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.zeroshot", side, str(images)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in ("ours", "theirs"):
        side = ours if sys.argv[1] == "ours" else peer
        sys.stdout.write(json.dumps(side(int(sys.argv[2]))))
        return
    images = int(sys.argv[1]) if sys.argv[1:] else 50_000
    # In turn, the best of three each: others may use the machine.
    rounds = [(measured("ours", images), measured("theirs", images)) for _ in range(3)]
    (one, other), *_ = rounds
    apart = max(abs(one[name] - other[name]) for name in one if name != "seconds")
    fast, slow = (min(sides[place]["seconds"] for sides in rounds) for place in (0, 1))
    print(f"{images:,} x {CLASSES:,}: acc1 {one['acc1']:.4f}, acc5 {one['acc5']:.4f}")
    print(f"ours {fast:.2f} CPU-s, CLIP_benchmark's {slow:.2f} CPU-s; largest difference {apart:.1e}")
    print(f"speed: {slow / fast:.2f} x")


if __name__ == "__main__":
    main()
