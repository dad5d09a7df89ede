"""A default is part of a stage's code: none changes without its code version."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

from tests.defaults import FILE, REPOSITORY, changed_without_version


def test_defaults_are_those_on_record():
    # in a process of its own: other tests define configurations, too
    code = "import json, tests.defaults as d; print(json.dumps(d.current()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    now, recorded = json.loads(done.stdout), json.loads(FILE.read_text())
    assert changed_without_version(recorded, now) == []
    assert now == recorded, "fields came or went: python -m tests.defaults"


def test_a_changed_default_is_refused_until_the_code_version_is_raised():
    recorded = json.loads(FILE.read_text())
    place = "pipelines.curate.filter.rules.image:ImageSide"
    edited = copy.deepcopy(recorded)
    edited[place]["defaults"]["min"] += 1
    assert changed_without_version(recorded, edited) == [f"{place}.min: 200 -> 201"]
    edited[place]["code_version"] += 1
    assert changed_without_version(recorded, edited) == []
