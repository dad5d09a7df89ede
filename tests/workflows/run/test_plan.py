"""Plans say what would run and why, whatever the shape of the graph and whatever lies on disk, and touch nothing."""

from __future__ import annotations

from itertools import product

import pytest
from committed import carry_out
from hypothesis import given
from hypothesis import strategies as st

from infra.config import Config, Input, Runtime, StageConfig
from infra.errors import DataError, UsageError
from infra.run.context import ShardOutput
from infra.run.manifest import MANIFEST
from infra.store import LocalStore, open_store
from workflows.run.plan import Selection, make_plan
from workflows.stage import Stage, Workflow


class Inner(Config):
    agent: str = "x"


class Make(StageConfig):
    inputs = {name: Input("lines", required=False) for name in ("data", "left", "right", "one", "two")}
    produces = ("lines",)

    size: int = 3
    hosts: tuple[str, ...] = ()
    inner: Inner = Inner()
    rules: tuple[Inner, ...] = ()
    workers: Runtime[int] = 1


class MakeTwo(Make):
    code_version = 2


def run(config, inputs, context): ...


def chain(**configs):
    """a -> b -> c"""
    a = Stage("a", run, configs.get("a", Make()))
    b = Stage("b", run, configs.get("b", Make()), {"data": a})
    return Workflow("chain", (a, b, Stage("c", run, configs.get("c", Make()), {"data": b})))


def diamond(**configs):
    """a -> b, c -> d"""
    a = Stage("a", run, configs.get("a", Make()))
    b = Stage("b", run, configs.get("b", Make()), {"data": a})
    c = Stage("c", run, configs.get("c", Make()), {"data": a})
    return Workflow("diamond", (a, b, c, Stage("d", run, configs.get("d", Make()), {"left": b, "right": c})))


def fan(**configs):
    """a -> b, c, d"""
    a = Stage("a", run, configs.get("a", Make()))
    others = (Stage(name, run, configs.get(name, Make()), {"data": a}) for name in "bcd")
    return Workflow("fan", (a, *others))


def _named(value):
    return getattr(value, "__name__", str(value))


SHAPES = [chain, diamond, fan]


@pytest.fixture(params=["local", "object"])
def root(request, tmp_path):
    return LocalStore(tmp_path / "root") if request.param == "local" else open_store(f"memory://plan-{tmp_path.name}")


def actions(plan):
    return {step.stage.name: step.action for step in plan}


def due(plan):
    return "".join(step.stage.name for step in plan.to_run)


# --- without a selection


@pytest.mark.parametrize("shape", SHAPES)
def test_at_first_everything_is_due_and_then_nothing(shape, root):
    workflow = shape()
    plan = make_plan(workflow, root)
    assert due(plan) == "".join(stage.name for stage in workflow)
    assert {step.why for step in plan} == {("not done yet",)}
    carry_out(workflow, root)
    plan = make_plan(workflow, root)
    assert set(actions(plan).values()) == {"cached"}
    assert {step.why for step in plan} == {()}
    assert [step.manifest.stage for step in plan] == [stage.name for stage in workflow]
    assert plan.to_run == []


@pytest.mark.parametrize(
    ("shape", "changed", "affected"),
    [
        (chain, "a", "abc"),
        (chain, "b", "bc"),
        (chain, "c", "c"),
        (diamond, "a", "abcd"),
        (diamond, "b", "bd"),
        (diamond, "c", "cd"),
        (diamond, "d", "d"),
        (fan, "a", "abcd"),
        (fan, "c", "c"),
    ],
)
def test_a_changed_field_makes_its_stage_and_what_depends_on_it_due(root, shape, changed, affected):
    carry_out(shape(), root)
    plan = make_plan(shape(**{changed: Make(size=4)}), root)
    assert due(plan) == affected
    assert plan[changed].why == ("size: 3 -> 4",)
    for name in affected.replace(changed, ""):
        assert plan[name].why
        assert all(why.startswith("input ") and why.endswith(" changed") for why in plan[name].why)


def test_a_runtime_field_makes_nothing_due(root):
    carry_out(chain(), root)
    assert make_plan(chain(a=Make(workers=64)), root).to_run == []


# --- why


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (Make(size=4), "size: 3 -> 4"),
        (Make(hosts=("a",)), "hosts: [] -> ['a']"),
        (Make(inner=Inner(agent="y")), "inner.agent: 'x' -> 'y'"),
        (Make(rules=(Inner(),)), "rules.0.agent: (none) -> 'x'"),
        (Make(hosts=("x" * 100,)), "hosts: [] -> ['" + "x" * 55 + "..."),
        (MakeTwo(), "code version 1 -> 2"),
    ],
    ids=_named,
)
def test_the_reason_goes_down_to_the_field(tmp_path, config, why):
    root = LocalStore(tmp_path)
    carry_out(chain(), root)
    assert why in make_plan(chain(c=config), root)["c"].why


def test_the_reason_is_the_difference_to_the_most_similar_artifact(tmp_path):
    root = LocalStore(tmp_path)
    carry_out(chain(c=Make(size=1, inner=Inner(agent="z"))), root)
    carry_out(chain(c=Make(size=2)), root)
    assert make_plan(chain(c=Make(size=3)), root)["c"].why == ("size: 2 -> 3",)


def test_going_back_to_what_was_done_before_is_free(tmp_path):
    root = LocalStore(tmp_path)
    carry_out(chain(), root)
    carry_out(chain(a=Make(size=4)), root)
    assert make_plan(chain(), root).to_run == []
    assert make_plan(chain(a=Make(size=4)), root).to_run == []


def test_shards_committed_by_an_interrupted_attempt_are_counted(root):
    workflow = chain()
    carry_out(workflow, root, "a")
    for name in ("00000", "00001"):
        ShardOutput(root.child(workflow["b"].folder), name).commit()
    step = make_plan(workflow, root)["b"]
    assert (step.action, step.shards_done) == ("run", 2)
    assert step.why == ("not done yet", "continues: 2 shards are committed")
    carry_out(workflow, root, "b")
    assert make_plan(workflow, root)["b"].action == "cached"


# --- what was made again


def test_an_input_that_is_gone_makes_its_dependants_due_until_it_is_back_as_it_was(tmp_path):
    root, workflow = LocalStore(tmp_path), chain()
    carry_out(workflow, root)
    root.delete(workflow["a"].folder)
    plan = make_plan(workflow, root)
    assert due(plan) == "abc"
    assert plan["a"].why == ("not done yet",)
    assert plan["b"].why == ("input data (a) will run",)
    carry_out(workflow, root, "a")
    assert make_plan(workflow, root).to_run == []  # early cutoff: the same content


def test_an_input_rebuilt_with_other_content_makes_its_dependants_due(tmp_path):
    root, workflow = LocalStore(tmp_path), diamond()
    carry_out(workflow, root)
    carry_out(workflow, root, "b", content="!")
    plan = make_plan(workflow, root)
    assert due(plan) == "d"
    assert plan["d"].why == ("input left (b) was rebuilt with other content",)
    carry_out(workflow, root, "d")
    assert make_plan(workflow, root).to_run == []


def test_a_manifest_that_cannot_be_read_is_told_and_not_overwritten(tmp_path):
    root, workflow = LocalStore(tmp_path), chain()
    root.write(f"{workflow['a'].folder}/{MANIFEST}", b"{")
    with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
        make_plan(workflow, root)


# --- drift


def test_changed_source_is_shown_and_runs_only_if_asked(tmp_path, monkeypatch):
    root, workflow = LocalStore(tmp_path), chain()
    carry_out(workflow, root)
    monkeypatch.setattr("workflows.run.plan.source_digests", lambda *args: {"infra.errors": "edited"})
    plan = make_plan(workflow, root)
    assert all("infra.errors" in step.drifted for step in plan)
    assert plan.to_run == []
    plan = make_plan(workflow, root, Selection(rerun_drift=True))
    assert due(plan) == "abc"
    assert plan["a"].why[0].startswith("its source changed: infra, infra.config, infra.errors and ")


# --- selections


@pytest.mark.parametrize(
    ("shape", "selection", "expected"),
    [
        (chain, Selection(until="b"), "ab"),
        (diamond, Selection(until="b"), "ab"),
        (diamond, Selection(until="d"), "abcd"),
        (diamond, Selection(only=["a"]), "a"),
        (diamond, Selection(only=["a", "c"]), "ac"),
        (fan, Selection(until="c"), "ac"),
        (fan, Selection(start="a"), "abcd"),
    ],
    ids=_named,
)
def test_a_selection_of_a_fresh_workflow(root, shape, selection, expected):
    plan = make_plan(shape(), root, selection)
    assert due(plan) == expected
    assert {step.action for step in plan if step.stage.name not in expected} <= {"left"}


@pytest.mark.parametrize(
    ("shape", "selection", "expected"),
    [
        (chain, Selection(start="b"), "bc"),
        (chain, Selection(start="b", until="b"), "b"),
        (diamond, Selection(start="b"), "bd"),
        (diamond, Selection(only=["c"]), "c"),
        (fan, Selection(start="d"), "d"),
    ],
    ids=_named,
)
def test_a_selection_that_needs_what_is_done_leaves_it_alone(root, shape, selection, expected):
    workflow = shape()
    carry_out(workflow, root, "a")
    if shape is diamond and selection.start == "b":
        carry_out(workflow, root, "c")
    plan = make_plan(workflow, root, selection)
    assert due(plan) == expected
    assert plan["a"].action == "cached"


@pytest.mark.parametrize(
    ("shape", "selection", "missing"),
    [
        (chain, Selection(only=["b"]), "a"),
        (chain, Selection(start="c"), "b"),
        (diamond, Selection(start="b"), "a"),
        (diamond, Selection(only=["a", "b", "d"]), "c"),
    ],
    ids=_named,
)
def test_a_selection_that_leaves_out_what_it_needs_is_refused(root, shape, selection, missing):
    with pytest.raises(UsageError, match=f"needs {missing}, which the selection leaves out") as caught:
        make_plan(shape(), root, selection)
    assert caught.value.fix == f"run it first: --until {missing}"


def test_what_is_done_stays_done_when_an_input_was_removed_and_is_left_out(root):
    """Somebody made room by deleting the crawl; the model can still be evaluated, trained on, and so on."""
    carry_out(chain(), root)
    root.delete(chain()["a"].folder)
    assert due(make_plan(chain(), root)) == "abc"  # who asks for all gets all
    assert due(make_plan(chain(), root, Selection(start="b"))) == ""
    other = chain(c=Make(size=9))
    assert due(make_plan(other, root, Selection(start="b"))) == "c"
    assert due(make_plan(other, root, Selection(only=["c"]))) == "c"


def test_force_runs_what_is_done_and_what_depends_on_it(root):
    workflow = diamond()
    carry_out(workflow, root)
    plan = make_plan(workflow, root, Selection(force=["b"]))
    assert due(plan) == "bd"
    assert plan["b"].why == ("forced",)
    plan = make_plan(workflow, root, Selection(force=["b"], only=["b"]))
    assert due(plan) == "b"
    assert plan["d"].action == "left"


@pytest.mark.parametrize(
    "selection", [Selection(only=["x"]), Selection(start="x"), Selection(until="x"), Selection(force=["x"])], ids=str
)
def test_a_stage_that_is_not_there_is_told(root, selection):
    with pytest.raises(UsageError, match="no stage 'x'") as caught:
        make_plan(chain(), root, selection)
    assert caught.value.expected == "a, b, c"


def test_choosing_among_many_stages_does_not_walk_every_path(root):
    stages = [Stage("s0", run, Make()), Stage("t0", run, Make())]
    for n in range(1, 40):  # 2**40 paths
        inputs = {"left": stages[-2], "right": stages[-1]}
        stages += [Stage(f"s{n}", run, Make(), inputs), Stage(f"t{n}", run, Make(), inputs)]
    assert len(Selection(until="s39").choose(Workflow("ladder", tuple(stages)))) == 79


@pytest.mark.long
@given(st.sets(st.sampled_from("abcd")), st.sampled_from(SHAPES))
def test_a_plan_is_closed_whatever_is_done(tmp_path_factory, done, shape):
    """A stage is due if it is not done or an input of it is due; nothing else is."""
    root, workflow = LocalStore(tmp_path_factory.mktemp("plan")), shape()
    for stage in workflow:
        if stage.name in done and all(source.name in done for source in stage.inputs.values()):
            carry_out(workflow, root, stage.name)
        else:
            done = done - {stage.name}
    plan = make_plan(workflow, root)
    for step in plan:
        inputs_due = any(plan[source.name].action == "run" for source in step.stage.inputs.values())
        assert (step.action == "run") == (step.stage.name not in done or inputs_due)


# --- looking is all it does


def snapshot(folder):
    found = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in found}


def test_planning_writes_nothing(tmp_path):
    root = LocalStore(tmp_path / "root")
    make_plan(chain(), root)
    assert not root.root.exists()
    carry_out(chain(), root)
    ShardOutput(root.child(chain(b=Make(size=9))["b"].folder), "00000").commit()
    before = snapshot(tmp_path)
    for workflow, selection in product(
        (chain(), chain(b=Make(size=9)), diamond()), (Selection(), Selection(force=["a"]), Selection(rerun_drift=True))
    ):
        make_plan(workflow, root, selection)
    assert snapshot(tmp_path) == before
