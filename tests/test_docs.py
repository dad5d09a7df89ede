"""The documents cannot drift: folders, commands, targets, pictures and fields are those there are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from workflows.cli.app import app

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text()
PAGES = (REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md")))
PACKAGES = ("workflows", "pipelines", "training", "evaluation", "infra")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_names_every_folder(package):
    text = (REPO / "docs/architecture.md").read_text()
    tree = re.search(rf"^{package}/ .*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    named = re.findall(r"^ +(\S+)/", tree[0], re.MULTILINE)
    there = {path.parent for path in (REPO / package).rglob("*.py")} - {REPO / package}
    assert sorted(named) == sorted(path.name for path in there)


def test_every_command_is_documented_and_every_documented_command_exists():
    commands = set(typer.main.get_command(app).commands)
    assert set(re.findall(r"`(?:clipline )?([\w-]+)[^`]*`", _table())) | {"recipes"} >= commands
    assert set(re.findall(r"clipline (\w[\w-]*)", README)) - {"turns"} <= commands


def _table() -> str:
    return "\n".join(line for line in README.splitlines() if line.startswith("| `clipline"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_command_lines_have_commands_and_options_there_are(page):
    commands = typer.main.get_command(app).commands
    for line in _command_lines(page, "clipline"):
        name, *words = shlex.split(line)[1:]
        assert name in commands, line
        known = {option for parameter in commands[name].params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, line


def test_the_pages_have_command_lines():
    assert sum(len(_command_lines(page, "clipline")) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_make_targets_exist(page):
    makefile = (REPO / "Makefile").read_text()
    for line in _command_lines(page, "make"):
        assert f"\n{line.split()[1]}:" in makefile, line


def _command_lines(page: Path, program: str) -> list[str]:
    """The commands of a page's console blocks that start ``program``, without comments and variables before it."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    lines = re.findall(r"^\$ (.*)", "\n".join(blocks).replace("\\\n", " "), re.MULTILINE)
    pattern = re.compile(rf"(?:\w+=\S+ +)*({program} [^#]*)")
    return [match[1].strip() for line in lines if (match := pattern.match(line))]


def test_every_page_is_linked():
    linked = {
        (page.parent / target).resolve()
        for page in (REPO / "README.md", *PAGES)
        for target in re.findall(r"\]\(([^)#]+)", page.read_text())
    }
    assert set(PAGES) - {REPO / "README.md", REPO / "CONTRIBUTING.md"} <= linked


def test_the_reference_lists_the_fields_there_are():
    # in a process of its own: other tests add rules and tasks
    command = [sys.executable, "-m", "workflows.cli", "fields", "--markdown"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert (REPO / "docs/reference.md").read_text() == done.stdout, f"{' '.join(command[1:])} > docs/reference.md"


def test_every_picture_of_the_readme_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (REPO / path).is_file()
