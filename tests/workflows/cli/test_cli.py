"""The command line: what it prints where, with which exit code, and how little it needs to look."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from committed import carry_out
from test_recipe import RECIPE

from infra.events import Log, Metrics, RunStarted, StageFinished, StageStarted
from infra.store import LocalStore
from workflows.cli import app as cli
from workflows.recipe import load
from workflows.run.journal import Journal
from workflows.run.records import Ended, RunRecord, list_runs

COMMANDS = ["run", "resume", "plan", "status", "ls", "show", "diff", "compare", "search", "trace", "logs", "report"]
COMMANDS += ["recipes", "fields", "tasks", "doctor", "sync", "gc", "sweep", "submit", "stop"]
COMMANDS += ["accept-drift", "export", "import"]
HEAVY = {"ray", "torch", "pyarrow", "numpy", "mlflow", "cv2", "PIL", "aiohttp", "matplotlib", "open_clip", "pandas"}

DONE = Ended(status="done", at=1e9, seconds=65.0, stages_done=3)


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIPLINE_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(RECIPE)
    return LocalStore(tmp_path / "root")


@pytest.fixture
def clipline(root, clipline):
    return clipline


@pytest.fixture
def toy(root):
    """The toy recipe's workflow, carried out and on record."""
    recipe = load("toy.py")
    workflow = recipe.build()
    carry_out(workflow, root, funnel=True, metrics={"acc": 0.5, "worst": float("nan")})
    record = RunRecord.of(str(recipe.path), [], workflow)
    record.save(root).end(root, DONE)
    Journal(root.child(f"runs/{record.run}")).append(
        [
            RunStarted(time=1e9, run=record.run, recipe="toy.py"),
            StageStarted(time=1e9, stage="first", attempt=1, digest="d", config={}),
            Metrics(time=1e9, stage="first", values={"loss": float("inf")}, step=1),
            Log(time=1e9, stage="first", level="INFO", message="[bold]hello[/bold]"),
            StageFinished(time=1e9, stage="first", attempt=1, seconds=65.0, folder="artifacts/first/0"),
        ]
    )
    return workflow


def strictly(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


# --- looking


def test_plan_says_what_would_run_and_why(clipline, root):
    shown = clipline("plan", "toy.py")
    assert shown.stdout.splitlines() == [
        "first       will run  not done yet",
        "second      will run  not done yet",
        "third       will run  not done yet",
        "3 of 3 stages would run.",
    ]
    assert shown.stderr == ""
    assert not root.root.exists()


def test_plan_after_a_change_names_the_field(clipline, toy):
    assert "0 of 3 stages would run." in clipline("plan", "toy.py").stdout
    lines = clipline("plan", "toy.py", "--set", "second.size=9").stdout.splitlines()
    assert lines[:3] == [
        "first       cached    ",
        "second      will run  size: 256 -> 9",
        "third       will run  input two changed",
    ]
    rows = strictly(clipline("plan", "toy.py", "--set", "second.size=9", "--until", "second", "--json").stdout)
    assert [(row["stage"], row["action"]) for row in rows] == [
        ("first", "cached"),
        ("second", "run"),
        ("third", "left"),
    ]
    assert rows[1]["why"] == ["size: 256 -> 9"]
    assert rows[1]["folder"] == f"artifacts/second/{rows[1]['digest'][:16]}"


def test_status_shows_every_stage(clipline, toy):
    lines = clipline("status").stdout.splitlines()
    assert lines[0].startswith("toy-")
    assert lines[1].split(maxsplit=2) == ["first", "done", "1 min 05 s"]
    shown = strictly(clipline("status", "toy", "--json").stdout)
    assert [(stage["name"], stage["state"]) for stage in shown["stages"]] == [
        ("first", "done"),
        ("second", "done"),
        ("third", "done"),
    ]
    assert shown["stages"][0]["seconds"] == 65.0


def test_ls_lists_runs_with_what_sets_them_apart(clipline, toy, root):
    other = RunRecord.of("toy.py", [], load("toy.py").build(["size=9", "third.name=" + "long" * 20])).save(root)
    scores = {"train.loss": 2.5, "zeroshot.acc1": 0.7512345}
    other.end(root, Ended(status="done", at=2.0, seconds=1.0, stages_done=2, headline=scores))
    day = datetime.fromtimestamp(other.started).strftime("%Y-%m-%d")
    lines = clipline("ls").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, day] for name in (list_runs(root)[0], other.run)]
    assert lines[0].split()[3:] == ["done"]
    assert lines[1].endswith(f"done         zeroshot.acc1 0.7512  2 of 3 stages  size=9  third.name={'long' * 9}l...")
    assert clipline("ls", "--name", other.run[-8:]).stdout.splitlines() == lines[1:]
    assert clipline("ls", "--name", "toy-*").stdout.splitlines() == lines
    assert "no runs named yot" in clipline("ls", "--name", "yot").stderr
    shown = strictly(clipline("ls", "--json").stdout)["runs"]
    assert [(row["run"], row["headline"], row["stages_done"]) for row in shown[1:]] == [(other.run, scores, 2)]
    assert shown[1]["changed"]["size"] == 9


def test_ls_lists_artifacts(clipline, toy):
    lines = clipline("ls", "--artifacts").stdout.splitlines()
    assert [line.split("/")[0] for line in lines] == ["first", "second", "third"]
    assert all(line.endswith("2 kept") for line in lines)
    assert len(clipline("ls", "second").stdout.splitlines()) == 1
    shown = strictly(clipline("ls", "--artifacts", "--json").stdout)
    assert [(row["name"].split("/")[0], row["files"], row["kept"]) for row in shown["artifacts"]] == [
        ("first", 1, 2),
        ("second", 1, 2),
        ("third", 1, 2),
    ]


def test_ls_of_nothing_is_nothing(clipline):
    shown = clipline("ls")
    assert shown.stdout == ""
    assert "yet" in shown.stderr
    assert strictly(clipline("ls", "--json").stdout) == {"runs": []}
    assert strictly(clipline("ls", "crawl", "--json").stdout) == {"artifacts": []}


def test_show_tells_what_an_artifact_is(clipline, toy, root):
    shown = clipline("show", "second").stdout
    assert f"second/{toy['second'].digest[:12]}" in shown
    assert "5 rows entered, 2 kept" in shown
    assert re.search(r"3 small", shown)
    assert "config  size = 256" in shown
    assert "metrics  acc = 0.5" in shown
    assert strictly(clipline("show", "second", "--json").stdout)["metrics"] == {"acc": 0.5, "worst": None}
    assert "every file matches" in clipline("show", f"second/{toy['second'].digest[:6]}", "--verify").stderr
    root.write(f"{toy['second'].folder}/data/out", b"spoiled")
    broken = clipline("show", "second", "--verify", code=1).stderr
    assert "data/out: 7 bytes, not 6" in broken
    assert "--force second" in broken


def test_show_of_what_is_not_there_says_what_is(clipline, toy):
    assert "first, second, third" in clipline("show", "secnd", code=2).stderr
    assert f"one of second/{toy['second'].digest[:12]}" in clipline("show", "second/none", code=2).stderr
    carry_out(load("toy.py").build(["size=9"]), LocalStore(Path("root")), "first")
    several = clipline("show", "first", code=2).stderr
    assert "names 2 artifacts" in several
    assert several.count("first/") == 2


def test_diff_puts_two_artifacts_side_by_side(clipline, toy, root):
    other = load("toy.py").build(["first.size=9"])
    carry_out(other, root, "first", metrics={"acc": 0.75})
    names = [f"first/{workflow['first'].digest[:12]}" for workflow in (toy, other)]
    assert "config.size: 3 -> 9" in clipline("diff", *names).stdout.splitlines()
    rows = strictly(clipline("diff", *names, "--json").stdout)
    assert rows["config.size"] == [3, 9]
    assert rows["metrics.acc"] == [0.5, 0.75]
    assert rows["funnel.kept"] == [2, None]
    same = clipline("diff", names[0], names[0])
    assert (same.stdout, same.stderr.strip()) == ("", "no difference")


def test_logs_print_the_journal(clipline, toy):
    lines = clipline("logs").stdout.splitlines()
    assert [line.split()[-2:] for line in lines][-2] == ["log", "[bold]hello[/bold]"]
    assert not any("loss" in line for line in lines)
    events = [strictly(line) for line in clipline("logs", "--json", "--stage", "first").stdout.splitlines()]
    assert [event["event"] for event in events] == ["stage_started", "metrics", "log", "stage_finished"]
    assert "one of first, second" in clipline("logs", "--stage", "furst", code=2).stderr


def test_recipes_lists_them_with_their_parameters(clipline):
    text = clipline("recipes").stdout
    assert text.startswith("quickstart")
    assert "url_list: str | list[str]  (required)" in text
    found = strictly(clipline("recipes", "--json").stdout)
    assert found["url_list"]["parameters"]["url_list"]["required"]
    assert found["quickstart"]["summary"]
    one = clipline("recipes", "website").stdout
    assert one.startswith("website") and "links away from a start" in one
    assert "classification" not in one


def test_fields_lists_types_defaults_and_descriptions(clipline):
    lines = clipline("fields", "download").stdout.splitlines()
    assert lines[0] == "download"
    assert any(re.match(r" +image_size: int = 256 +side to resize to, pixels$", line) for line in lines)
    assert any(re.match(r" +rows_in_flight: int = 2048 +\[runtime\] ", line) for line in lines)
    found = strictly(clipline("fields", "--json").stdout)
    assert {"crawl", "filter", "train"} <= set(found)
    (side,) = (row for row in found["filter"] if row["path"] == "rules[image_side].min")
    assert (side["type"], side["default"], side["runtime"]) == ("int", "200", False)


def test_fields_of_a_recipe_are_those_of_its_stages(clipline):
    found = strictly(clipline("fields", "--recipe", "toy.py", "--json").stdout)
    assert list(found) == ["first", "second", "third"]
    rows = {row["path"]: row for row in found["first"]}
    assert list(rows) == ["size", "name", "hosts", "web", "web.agent", "web.timeout_s", "limits", *(
        f"limits.{name}" for name in ("cpus", "attempts"))]  # fmt: skip
    assert [rows[path]["runtime"] for path in ("web.agent", "web.timeout_s", "limits.cpus")] == [False, True, True]
    assert [row["description"] for row in found["second"] if row["path"] == "web"] == ["fields as of `first.web`"]


def test_a_run_of_what_is_done_says_so_without_ray(clipline, toy):
    shown = clipline("run", "toy.py")
    assert "nothing to do" in shown.stderr
    assert "Funnel" in shown.stdout
    assert json.loads(clipline("run", "toy.py", "--json").stdout)["stages"]["first"]["funnel"]["kept"] == 2
    assert "nothing to do" in clipline("resume").stderr


def test_a_run_shows_what_its_stages_counted(clipline, toy, root):
    counted = {"records": {"page": 1990, "damaged": 12, "too_large": 0}, "files": 3, "sizes": {"a": 1.5}, "none": {}}
    carry_out(load("toy.py").build(), root, "first", facts=counted)
    assert re.search(r"first +records +page 1,990, damaged 12 *$", clipline("run", "toy.py").stdout, re.MULTILINE)
    shown = json.loads(clipline("run", "toy.py", "--json").stdout)["stages"]["first"]
    assert shown["counts"] == {"records": {"page": 1990, "damaged": 12}}


def test_resume_works_from_another_folder_and_keeps_the_selection(clipline, root, tmp_path, monkeypatch):
    from workflows.run.plan import Selection

    recipe = load("toy.py")
    workflow = recipe.build()
    carry_out(workflow, root, "first")
    RunRecord.of(str(recipe.path), [], workflow, Selection(until="first", force=("first",))).save(root).end(root, DONE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "nothing to do" in clipline("resume").stderr


# --- errors


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["plan", "quikstart"], 2, "did you mean 'quickstart'?"),
        (["plan", "nothing.py"], 2, "there is no recipe 'nothing.py'"),
        (["plan", "toy.py", "--set", "sise=3"], 2, "did you mean 'size'?"),
        (["plan", "toy.py", "--set", "first.sise=3"], 2, "did you mean 'size'?"),
        (["plan", "toy.py", "--until", "furst"], 2, "no stage 'furst'"),
        (["plan", "toy.py", "--only", "third"], 2, "run it first: --until first"),
        (["plan", "url_list"], 2, "needs a value for url_list"),
        (["plan", "website"], 2, "starting URLs"),
        (["status"], 2, "there are no runs below"),
        (["resume"], 2, "there are no runs below"),
        (["show", "filter"], 2, "there is no artifact 'filter'"),
        (["plan", "toy.py", "--root", "toy.py"], 1, "Not a directory"),
        (["run", "toy.py", "--root", "toy.py/x"], 1, "cannot use"),
        (["recipes", "quikstart"], 2, "did you mean 'quickstart'?"),
        (["fields", "fliter"], 2, "did you mean 'filter'?"),
        (["fields", "download", "--recipe", "toy.py"], 2, "no stage 'download'"),
        (["plan"], 2, "Missing argument"),
        (["plan", "toy.py", "--frce", "x"], 2, "No such option"),
        (["run", "toy.py", "--cpus", "0"], 2, "--cpus"),
        (["plam"], 2, "No such command"),
        (["ls", "--root", "gopher://x"], 1, "no store can be opened"),
        (["ls", "--root", "s3:/bucket/clip"], 2, "s3://bucket/clip"),
        (["tasks", "nowhere/eval"], 2, "there is no test set at nowhere/eval"),
        (["tasks", "nowhere/toy.py"], 2, "there is no recipe"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_told_on_stderr_in_a_few_words(clipline, words, code, message):
    shown = clipline(*words, code=code)
    assert message in shown.stderr
    assert shown.stdout == ""
    assert "Traceback" not in shown.stderr
    assert len(shown.stderr.splitlines()) <= 8


def test_a_ray_cluster_that_is_not_there_is_told_at_once(clipline, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
    assert "unset RAY_ADDRESS" in clipline("run", "toy.py", code=1).stderr


def test_a_long_message_is_not_broken_into_lines(clipline, root, tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    assert f"there are no runs below {deep}" in clipline("status", "--root", str(deep), code=2).stderr


def test_the_output_can_be_cut_off(root, toy):
    """As `clipline ls | head` does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workflows.cli", "logs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in err


# --- colour


def test_colour_is_for_terminals_that_want_it(clipline, toy, monkeypatch):
    assert "\x1b[" not in clipline("status").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32m" in clipline("status").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in clipline("status").stdout


# --- help


def test_the_commands_are_those_that_are_tested(clipline):
    shown = clipline("--help").stdout
    assert [name for name in COMMANDS if not re.search(rf"│ {name} +\w", shown)] == []
    assert len(re.findall(r"^│ (?!-)[\w-]+ +[A-Z]", shown, re.MULTILINE)) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(clipline, command):
    import typer

    assert f"Usage: clipline {command}" in clipline(command, "--help").stdout
    found = typer.main.get_command(cli.app).commands[command]
    assert found.help
    assert [parameter.name for parameter in found.params if not parameter.help] == []


def test_examples_in_help_are_whole_lines_that_parse(clipline, monkeypatch):
    import shlex

    monkeypatch.setenv("COLUMNS", "120")
    examples = []
    for command in ([], *([name] for name in COMMANDS)):
        examples += re.findall(r"• (clipline .*?)\s*$", clipline(*command, "--help").stdout, re.MULTILINE)
    assert len(examples) >= 8
    for example in examples:
        assert shlex.split(example)[1] in COMMANDS


def test_without_a_command_help_is_shown(clipline):
    shown = clipline(code=2)
    assert "Usage: clipline" in shown.stdout + shown.stderr


def test_the_version_is_told(clipline):
    assert re.fullmatch(r"clipline \d+\.\d+\.\d+\S*\n", clipline("--version").stdout)


# --- quick


def looking(toy) -> list[list[str]]:
    first = f"first/{toy['first'].digest[:12]}"
    return [
        ["plan", "toy.py"],
        ["plan", "quickstart"],
        ["status"],
        ["ls"],
        ["show", first],
        ["diff", first, first],
        ["logs"],
        ["recipes"],
        ["fields"],
        ["tasks"],
        ["run", "toy.py"],
    ]


@pytest.mark.long
def test_looking_imports_nothing_heavy(toy):
    code = """
import contextlib, io, json, sys
from workflows.cli import app as cli
loaded = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["clipline", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, (words, end.code)
    loaded[" ".join(words)] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(loaded))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(looking(toy))], capture_output=True, text=True, check=True
    )
    for words, modules in json.loads(done.stdout).items():
        assert not HEAVY & set(modules), words


@pytest.mark.long
@pytest.mark.alone
def test_planning_seventeen_stages_takes_half_a_second(toy):
    """Of CPU, user and system, the best of three: 0.43 s on a core of its own, half as much again on a shared one.

    That is where importing others' packages takes 0.22 s; a machine that needs longer for it may need longer for this.
    """
    others = ["-c", "import pydantic, typer.main, rich.console, numpy, PIL.Image"]
    planning = ["-m", "workflows.cli", "plan", "quickstart", "--root", "nowhere"]
    imported, planned = zip(*[(cpu_of(others), cpu_of(planning)) for _ in range(3)], strict=True)
    assert all("17 of 17 stages would run" in out for out, _ in planned)
    slower = max(1.0, min(seconds for _, seconds in imported) / 0.22)
    assert min(seconds for _, seconds in planned) < 0.7 * slower


def cpu_of(words):
    """The output of Python with these arguments, and its seconds of CPU, user and system."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return out, usage.ru_utime + usage.ru_stime


def test_a_signal_ends_looking_with_its_code(toy, monkeypatch, clipline):
    monkeypatch.setattr("workflows.cli.look.status.run_states", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    clipline("status", code=130)
