"""Every promise has a page, a benchmark that exists, one bound, and a figure that can be found and broken."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from tests.benchmarks.promises import REPOSITORY, Promise, main, promises


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.name)
def test_a_promise_names_what_there_is(promise):
    assert (REPOSITORY / promise.page).is_file()
    module = re.search(r"tests[./]benchmarks[./](\w+)", promise.command)[1]
    assert (REPOSITORY / f"tests/benchmarks/{module}.py").is_file()
    assert (promise.floor is None) != (promise.ceiling is None)
    assert re.compile(promise.figure).groups == 1
    assert promise.kept(promise.promised)
    assert bool(promise.needs) == ("${" in promise.command)


OURS = ("evaluation", "infra", "pipelines", "tests", "training", "workflows")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests/benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_us_is_there(path):
    """Also what it imports when it runs: what is run once a release is easily forgotten when things move."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name


def example(**changes) -> Promise:
    values = {"name": "x", "page": "", "command": "", "figure": r"ratio ([\d.,]+)", "promised": 2, "unit": "x"}
    return Promise(**{**values, "minutes": 1, "floor": 1.5, **changes})


def test_a_figure_is_the_last_that_matches():
    assert example().found("ratio 1.0\nratio 2,000.5\n") == 2000.5
    assert example().found("nothing") is None


@pytest.mark.parametrize(("found", "kept"), [(1.4, False), (1.5, True), (2.0, True)])
def test_a_bound_is_kept_or_broken(found, kept):
    assert example().kept(found) is kept
    assert example(floor=None, ceiling=1.5).kept(found) is (found <= 1.5)


def test_the_list_runs_nothing(capsys):
    assert main(["loader", "--list"]) == 0
    assert "tests.benchmarks.loader" in capsys.readouterr().out


def test_what_a_machine_lacks_is_named(monkeypatch, capsys):
    monkeypatch.delenv("HTML_PAGES", raising=False)
    assert main(["HTML"]) == 0
    assert "set HTML_PAGES" in capsys.readouterr().out
