"""The quickstart as a stranger meets it, small: it ends as promised, and no kill changes what it ends with."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

pytestmark = pytest.mark.ray


def test_it_ends_with_the_funnel_the_metrics_and_the_address(demo):
    assert "Funnel" in demo.output
    assert "zeroshot" in demo.output
    assert "mlflow server" in demo.output
    assert demo.output.strip().splitlines()[-1].startswith("http://127.0.0.1:5000/#/experiments/")


def test_the_report_has_every_kind_of_result_with_intervals(demo):
    (page,) = demo.root.glob("runs/*/report.html")
    shown = page.read_text()
    kinds = ("zero-shot classification", "zero-shot classification under corruptions", "retrieval")
    for kind in (*kinds, "image-caption selection", "analogies", "effective robustness"):
        assert f"· {kind} ·" in shown, kind
    for figure in ("corrupted: corruptions", "robustness: robustness"):
        assert f'alt="{figure}"' in shown, figure


def test_every_file_is_as_its_manifest_says(demo):
    for stage in demo.manifests():
        assert list(demo.artifact(stage).verify()) == []


def test_a_second_run_does_nothing_in_under_two_seconds(demo):
    before = demo.manifests()
    started = time.monotonic()
    demo.run()
    assert time.monotonic() - started < 4  # two on an idle machine; this one may be busy
    assert demo.manifests() == before


@pytest.mark.timeout(1500)
def test_killed_at_random_instants_it_ends_with_the_same_manifests(demo, make_demo, tmp_path):
    """SIGKILL to the driver, again and again, at instants drawn over the time a whole run takes."""
    victim, draw = make_demo(tmp_path), random.Random(20260101)
    for _ in range(7):
        process = victim.start()
        try:
            process.communicate(timeout=draw.uniform(3, 22))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    victim.run()
    assert victim.manifests() == demo.manifests()
