"""Processes killed before and after each step of a run that lasts: continued, it ends as if undisturbed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from trials import KILLED, Trials, serving

pytestmark = [
    pytest.mark.ray,
    # MLflow's own use of SQLAlchemy, deprecated since 2.1
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

CHOSEN = [
    ("replace {stage}/ledger/*.json", "after", 3),
    ("link {stage}/manifest.json", "before", 2),
    ("mlflow log_batch", "after", 3),
    ("mlflow create_registered_model", "after", 1),  # every stage is done, the run is not
]


@dataclass(frozen=True)
class Undisturbed:
    points: dict[str, int]
    manifests: dict[str, bytes]
    files: dict[str, str]
    tracked: dict[str, Any]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("crash") / "points") as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(trials):
    return run_undisturbed(trials)


def run_undisturbed(trials: Trials) -> Undisturbed:
    trial = trials.new()
    assert trial.run() == 0, trial.log()
    assert set(trials.committed().values()) == {1}
    return Undisturbed(trials.points(), trial.manifests(), trial.files(), trial.tracked())


def wrong_after(trials: Trials, undisturbed: Undisturbed, point: str, when: str, number: int) -> list[str] | None:
    """What is not as it should be after a kill there and the runs that continue it; None if nobody came there."""
    trial = trials.new(point=point, when=when, number=number)
    codes = [trial.run()]
    if trials.kill_order.exists():  # some things depend on time, such as the lease's heartbeat
        return None
    while codes[-1] != 0 and len(codes) < 4:
        codes.append(trial.run())
    wrong = []
    if codes[-1] != 0 or any(code not in (0, KILLED) for code in codes):
        wrong.append(f"exit codes {codes}\n{trial.log()[-3000:]}")
    wrong += [f"{path} was committed twice" for path, count in trials.committed().items() if count > 1]
    if "again" in (trial.folder / "diary").read_text():
        wrong.append("a committed shard was worked on again")
    if trial.manifests() != undisturbed.manifests or trial.files() != undisturbed.files:
        wrong.append("the artifacts are others")
    tracked = trial.tracked()
    wrong += [
        f"MLflow has of {name or 'the run'} {tracked.get(name)}, not {value}"
        for name, value in undisturbed.tracked.items()
        if tracked.get(name) != value
    ]
    return wrong


@pytest.mark.parametrize(("point", "when", "number"), CHOSEN)
def test_a_few_points(trials, undisturbed, point, when, number):
    assert undisturbed.points[point] >= number
    assert wrong_after(trials, undisturbed, point, when, number) == []


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_every_point(trials, undisturbed):
    draw = random.Random(0)
    wrong, unreached, kills = {}, [], 0
    for point, count in sorted(undisturbed.points.items()):
        later = {draw.randint(2, count)} if count > 1 else set()
        for number in sorted({1} | later):
            for when in ("before", "after"):
                found = wrong_after(trials, undisturbed, point, when, number)
                kills += found is not None
                if found is None:
                    unreached.append((point, when, number))
                elif found:
                    wrong[point, when, number] = found
    assert not wrong, f"{len(wrong)} of {kills} kills"
    assert len(unreached) < kills / 20, unreached
