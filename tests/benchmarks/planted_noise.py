"""What each stage of curation finds of the noise it is meant for, and what it costs: planted noise of known kinds.

    apt-get download tuxpaint-stamps-default openclipart-png && dpkg-deb -x ...    # pictures: GPL-2, public domain
    python -m tests.benchmarks.planted_noise --pictures .../tuxpaint/stamps .../openclipart/png

``--good`` pairs of real pictures and captions of three words or more stay as they are; of every kind of noise
``--each`` are planted in others. Every stage sees the whole pool, with its defaults. Found is the noise that the stage
meant for it drops; lost are good pairs that it drops. Of a copy and its original one is to go, whichever.

Limits and patterns of the rules were set on the pool's part of the pictures; ``--held-out`` takes others, the stamps
of the tests and clip art that no rule has seen (dedup's held-out half is that of ``near_duplicates``). ``--scorer``:
learn a small CLIP from yet other pairs (``real_scorer``) and find wrong captions by its score.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infra import cluster
from infra.config import Config
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt
from pipelines.curate import decontaminate, dedup, embed, score
from pipelines.curate import filter as filtering
from pipelines.curate.filter import rules
from pipelines.tables import read_table
from tests.benchmarks.planted_pool import CAPTIONS, COPIES, IMAGES, Row, plant, write_pool, write_tests
from tests.benchmarks.real_pool import parts

RULES = (
    *(rules.TextJunk(), rules.TextLength(), rules.TextWords(), rules.Language(), rules.Pii(), rules.CaptionFrequency()),
    *(rules.ImageSide(), rules.ImageAspect(), rules.ImageSharpness(), rules.ImageSolid(), rules.ImageEntropy()),
    rules.BytesPerPixel(max=1.0),  # of JPEG; the default is of PNG
)
GOOD_LOST = 0.02  # the share of good pairs that a score may cost


class Stages:
    """Runs stages below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, name: str, run: Callable[..., Any], config: Config, inputs: Mapping[str, Artifact]) -> Artifact:
        context = Context(self.folder / name)
        return Artifact(context.store, run(config, inputs, context))


def dropped(selection: Artifact) -> dict[int, dict[str, Any]]:
    """The dropped rows, by number."""
    files = selection.files("data/dropped-", ".parquet")
    tables = [read_table(selection.store, file.path) for file in files]
    return {int(row["uid"], 16): row for table in tables for row in table.to_pylist()}


Line = tuple[str, str, int, int]  # noise, stage, planted, found


def of_filter(rows: Sequence[Row], out: Mapping[int, dict[str, Any]]) -> tuple[list[Line], dict[str, list[int]]]:
    """What the rules find, and the good that each loses."""
    meant = {noise: rule for kinds in (CAPTIONS, IMAGES) for noise, (rule, _) in kinds.items()}
    lines = []
    for noise, rule in meant.items():
        numbers = [number for number, row in enumerate(rows) if row.noise == noise]
        lines.append((noise, rule, len(numbers), sum(rule in _failed(out, one) for one in numbers)))
    lost: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for rule in () if row.noise else _failed(out, number):
            lost[rule].append(number)
    lost["language"] = [number for number in lost["language"] if rows[number].english]
    return lines, lost


def _failed(out: Mapping[int, dict[str, Any]], number: int) -> Sequence[str]:
    """The rules that a row fails; a row that stays fails none."""
    return out[number]["failed"] if number in out else ()


def of_dedup(rows: Sequence[Row], out: Mapping[int, dict[str, Any]]) -> tuple[list[Line], list[int]]:
    lines = []
    for noise in COPIES:
        pairs = [(number, row.of) for number, row in enumerate(rows) if row.noise == noise]
        lines.append((noise, "dedup", len(pairs), sum(one in out or other in out for one, other in pairs)))
    family = {row.of: number for number, row in enumerate(rows) if row.of >= 0}
    original = {number: int(row["duplicate_of"], 16) for number, row in out.items() if row.get("duplicate_of")}
    lost = [number for number, of in original.items() if not rows[number].noise and family.get(number) != of]
    return lines, lost


def of_scores(stages: Stages, rows: Sequence[Row], inputs: Mapping[str, Artifact], model: Path) -> None:
    """Print how many wrong captions lie below the score that a fiftieth of the good ones lie below."""
    config = adopt.Config(path=str(model), contents=adopt.Model())
    context = Context(stages.folder / "scorer", location=config.location())
    given = Artifact(context.store, adopt.run(config, {}, context))
    vectors = stages.run("embed", embed.run, embed.Config(), {**inputs, "model": given})
    scored = stages.run("score", score.run, score.Config(), {**inputs, "embeddings": vectors})
    tables = [read_table(scored.store, file.path) for file in scored.files("data/kept-", ".parquet")]
    values = {int(row["uid"], 16): row["clip_score"] for table in tables for row in table.to_pylist()}
    good = np.array([values[number] for number, row in enumerate(rows) if not row.noise])
    wrong = np.array([values[number] for number, row in enumerate(rows) if row.noise == "wrong caption"])
    found = (wrong < np.quantile(good, GOOD_LOST)).mean()
    area = (wrong[:, None] < good[None]).mean() + (wrong[:, None] == good[None]).mean() / 2
    print(
        f"\n{len(wrong)} wrong captions, by CLIP-score: {found:.3f} found where {GOOD_LOST} of the good is lost; "
        f"area under the curve {area:.3f}"
    )


def report(lines: Sequence[Line], lost: Mapping[str, Sequence[int]], rows: Sequence[Row]) -> None:
    good = sum(not row.noise for row in rows)
    print(f"\n{'noise':28}{'meant for it':20}{'planted':>8}{'found':>7}")
    for noise, stage, planted, found in lines:
        print(f"{noise:28}{stage:20}{planted:8}{found / max(planted, 1):7.3f}")
    print(f"\n{'stage':28}{'good lost':>10}   examples")
    for stage, numbers in sorted(lost.items()):
        of = sum(row.english for row in rows if not row.noise) if stage == "language" else good
        print(f"{stage:28}{len(numbers) / of:10.3f}   {[rows[number].caption for number in numbers[:4]]}")
    print(f"\nleast found: {min(found / max(planted, 1) for *_, planted, found in lines):.3f}")
    print(f"found in all: {sum(line[3] for line in lines) / sum(line[2] for line in lines):.4f}")
    together = set().union(*lost.values()) if lost else set()
    print(f"good lost at most: {max(map(len, lost.values()), default=0) / good:.4f}, in all {len(together) / good:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, nargs=2, required=True, metavar=("STAMPS", "OPENCLIPART"))
    parser.add_argument("--good", type=int, default=300)
    parser.add_argument("--each", type=int, default=30)
    parser.add_argument("--held-out", action="store_true", help="pictures on which nothing was set")
    parser.add_argument("--scorer", action="store_true", help="needs real towers, as real_towers says")
    arguments = parser.parse_args()
    found = parts(*arguments.pictures)
    pictures, others = found.pool, [*found.trusted, *found.other]
    if arguments.held_out:
        unseen = [one for one in found.trusted if not one.translations]
        pictures, others = [*found.stamps, *found.clipart, *unseen], [*found.pool, *found.other]
    rows, tests = plant(pictures, arguments.good, arguments.each)
    with tempfile.TemporaryDirectory() as folder, cluster.connect(cpus=2):
        stages = Stages(Path(folder))
        pool, known = write_pool(rows, Path(folder, "pool")), write_tests(tests, Path(folder, "tests"))
        everything = stages.run("everything", filtering.run, filtering.Config(rules=()), {"images": pool})
        inputs = {"images": pool, "selection": everything}
        filtered = stages.run("filter", filtering.run, filtering.Config(rules=RULES), {"images": pool})
        unique = stages.run("dedup", dedup.run, dedup.Config(), inputs)
        clean = stages.run("decontaminate", decontaminate.run, decontaminate.Config(), {**inputs, "testsets": known})
        lines, lost = of_filter(rows, dropped(filtered))
        more, lost["dedup"] = of_dedup(rows, dropped(unique))
        gone = dropped(clean)
        leaks = [number for number, row in enumerate(rows) if row.noise == "test image"]
        lines += [*more, ("test image", "decontaminate", len(leaks), sum(one in gone for one in leaks))]
        lost["decontaminate"] = [number for number in gone if not rows[number].noise]
        report(lines, lost, rows)
        if arguments.scorer:
            from tests.benchmarks.real_scorer import learn

            of_scores(stages, rows, inputs, learn(Path(folder, "clip"), others))


if __name__ == "__main__":
    main()
