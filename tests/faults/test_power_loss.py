"""Power lost after any step of a run: what was said to be done is whole and still there, and the run goes on."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import points
import pytest
from power import Disk

from infra.events import Progress, StageFinished
from infra.run.context import Context, ShardOutput
from infra.run.lease import Lease
from infra.run.manifest import MANIFEST, Artifact
from infra.store import LocalStore, Store
from infra.tracking.state import State
from workflows.run.journal import Journal

SHARDS = [f"{number:05d}" for number in range(5)]
FOLDER, RUN = "artifacts/work/0123", "runs/one"


def work(root: Store, told=lambda path: None, *, forced: bool = False) -> None:
    """A run's durable steps as driver, worker and tracker make them. ``told``: hears of each thing that is done."""
    journal, folder = Journal(root.child(RUN)), root.child(FOLDER)
    state = State.load(root.child(RUN), "")
    lease = Lease.acquire(folder, ttl_s=0.01, beat_s=3600)  # its owner, this process, is alive after each loss
    if forced:
        folder.delete(MANIFEST)
        for part in ("ledger", "data"):
            folder.delete(part)
    context = Context(folder, stage="work")
    tally = context.ledger.tally(SHARDS)
    for number in tally.left():
        output = ShardOutput(folder, SHARDS[number])
        output.write(f"data/{output.shard}.txt", b"%d\n" % number * 100, rows=1)
        tally.add(number, output.commit())
        told(f"{FOLDER}/data/{output.shard}.txt")
        journal.append([Progress(time=0.0, stage="work", done=tally.done)])
        told(f"{RUN}/{Journal.PATH}")
        _, state.position = journal.read(state.position)
        state.save(root.child(RUN))
    if not folder.exists(MANIFEST):
        folder.create(MANIFEST, context.finish(tally.records()).to_bytes())
    told(f"{FOLDER}/{MANIFEST}")
    journal.append([StageFinished(time=0.0, stage="work", seconds=1.0, attempt=1, folder=FOLDER)])
    lease.release()


def content(root: Path) -> dict[str, bytes]:
    """The files of the artifact, but for its leases."""
    folder = LocalStore(root / FOLDER)
    return {path: folder.read(path) for path in folder.paths() if not path.startswith("lease/")}


def check(root: Path) -> None:
    """Nothing on the disk says more than is true."""
    folder = LocalStore(root / FOLDER)
    records = [file for record in Context(folder).ledger.each() for file in record.files]
    if folder.exists(MANIFEST):
        records += Artifact.load(folder).files()
    for file in records:
        assert folder.digest(file.path) == file.sha256, f"{file.path} is not what was committed"
    if (root / RUN / "tracking.json").exists():
        position = json.loads((root / RUN / "tracking.json").read_bytes())["position"]
        assert position <= (root / RUN / Journal.PATH).stat().st_size, "MLflow would miss what comes next"


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """``recorded()``: the steps of a run, and of the same once more by force; each thing done has a line of its own."""
    monkeypatch.setattr("infra.run.ledger.PIECE", 3)
    folder = tmp_path / "points"
    root = folder / "trial" / "root"
    (folder / "kept").mkdir(parents=True)
    root.mkdir(parents=True)
    monkeypatch.setenv(points.FOLDER, str(folder))
    with monkeypatch.context() as patch:
        for name, call in points.file_calls().items():
            patch.setattr(os, name, call)

        def told(path):
            points._note(folder, {"told": path})

        work(LocalStore(root), told)
        points._note(folder, {"told": "forced"})
        work(LocalStore(root), forced=True)
    lines = [json.loads(line) for line in (folder / "passed.jsonl").read_text().splitlines()]
    return root, folder / "kept", lines


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_loss_of_power_at_any_step(recorded, tmp_path, seed):
    root, kept, lines = recorded
    expected, names = content(root), None if seed is None else random.Random(seed)
    disk, told, forced, states = Disk(root, kept), [], False, {}
    for number, line in enumerate(lines):
        disk.replay([line])
        told += [line["told"]] if "told" in line else []
        forced |= "forced" in told
        if "point" in line:
            continue
        left = tmp_path / f"left{number}"
        disk.lose_power(left, names)
        check(left)
        if not forced:
            assert all((left / path).exists() for path in told), "what was done is gone"
        states.setdefault(tuple(sorted(content(left))), left)
    assert len(states) > 10
    for left in states.values():
        work(LocalStore(left))
        assert content(left) == expected
        check(left)
