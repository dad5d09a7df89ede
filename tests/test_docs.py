"""The documents cannot drift: folders, commands, targets, pictures and fields are those there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from workflows.cli.app import app

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text()
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
    assert set(re.findall(r"`(?:clipline )?(\w+)[^`]*`", _table())) | {"recipes"} >= commands
    assert set(re.findall(r"clipline (\w+)", README)) - {"turns"} <= commands


def _table() -> str:
    return "\n".join(line for line in README.splitlines() if line.startswith("| `clipline"))


def test_the_make_targets_of_the_readme_exist():
    makefile = (REPO / "Makefile").read_text()
    for target in re.findall(r"^\$ make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_reference_lists_the_fields_there_are():
    # in a process of its own: other tests add rules and tasks
    command = [sys.executable, "-m", "workflows.cli", "fields", "--markdown"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert (REPO / "docs/reference.md").read_text() == done.stdout, f"{' '.join(command[1:])} > docs/reference.md"


def test_every_picture_of_the_readme_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (REPO / path).is_file()
