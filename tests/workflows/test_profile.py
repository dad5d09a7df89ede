"""A profile is as its lines given by --set: what it changes, what wins, what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from workflows.cli.options import all_settings
from workflows.recipe import load

SITE = ("website", "--set", "seeds=https://example.org/", "--set", "contact=me@example.org")
PROFILE = """
# the large cluster
max_pages: 40
download.limits.cpus: 2
download.limits.labels: {ray.io/accelerator-type: H100}
dedup.retries: 7
crawl.web.contact: "8"
"""


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(PROFILE)
    return path


def built(profile, *settings):
    given = all_settings(["seeds=https://example.org/", "contact=me@example.org", *settings], profile)
    return {stage.name: stage for stage in load("website").build(given)}


def test_a_profile_is_as_its_lines_given_by_set(profile):
    found = built(profile)
    assert (found["crawl"].config.max_pages, found["dedup"].retries) == (40, 7)
    assert found["crawl"].config.web.contact == "8"  # text stays text
    limits = found["download"].config.limits
    assert (limits.cpus, limits.labels) == (2.0, {"ray.io/accelerator-type": "H100"})
    lines = ["max_pages=40", "download.limits.cpus=2", 'download.limits.labels={"ray.io/accelerator-type": "H100"}']
    again = built(None, *lines, "dedup.retries=7", 'crawl.web.contact="8"')
    assert [(one.config, one.retries) for one in again.values()] == [
        (one.config, one.retries) for one in found.values()
    ]


def test_the_documented_profile_fits_the_documented_command(tmp_path):
    """What recipe or stage do not have is refused, so an example that was never read would be."""
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    found = re.search(r"```yaml\n(.*?)```\n+```console\n\$ clipline run (\S+) --profile \S+(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "large.yaml").write_text(found[1])
    words = shlex.split(found[3])
    assert words[::2] == ["--set"] * (len(words) // 2)
    stages = {one.name: one for one in load(found[2]).build(all_settings(words[1::2], tmp_path / "large.yaml"))}
    assert stages["train"].config.cluster.workers == 32
    assert stages["embed"].config.limits.gpus == 1


def test_the_command_line_wins(profile):
    found = built(profile, "max_pages=2", "dedup.retries=1")
    assert (found["crawl"].config.max_pages, found["dedup"].retries) == (2, 1)


def test_resources_of_a_profile_do_not_change_what_an_artifact_is(profile):
    profile.write_text(PROFILE.replace("max_pages: 40", "").replace("crawl.web.contact", "# "))
    found, plain = built(profile), built(None)
    assert found["download"].config.limits != plain["download"].config.limits
    assert [stage.digest for stage in found.values()] == [stage.digest for stage in plain.values()]


@pytest.mark.parametrize(
    ("text", "told", "commands"),
    [
        ("max_page: 3", "did you mean 'max_pages'?", ("plan", "run", "sweep")),
        ("dedupe.retries: 3", "did you mean 'dedup'?", ("plan",)),
        ("dedup.limits.cpu: 3", "cpu", ("plan",)),
        ("- a", "is no profile", ("plan", "submit")),
        ("", "is no profile", ("plan",)),
        ("a: [", "cannot be read", ("plan", "sweep")),
    ],
)
def test_what_a_profile_has_wrong_is_told(tmp_path, clipline, text, told, commands):
    (tmp_path / "p.yaml").write_text(text)
    for command in commands:
        words = [command, *SITE, "--profile", str(tmp_path / "p.yaml"), "--root", str(tmp_path / "root")]
        assert told in clipline(*words, code=2).stderr
    assert not (tmp_path / "root").exists()


def test_commands_take_one(tmp_path, clipline, profile):
    words = [*SITE, "--profile", str(profile), "--root", str(tmp_path / "root")]
    assert "stages would run" in clipline("plan", *words).stdout
    shown = json.loads(clipline("sweep", *words, "--grid", "max_pages=2,3", "--plan", "--json").stdout)
    assert all("dedup.retries=7" in run["settings"] for run in shown["runs"])
