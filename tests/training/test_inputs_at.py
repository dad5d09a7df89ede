"""Where clipline-train finds shards, test sets and models: folders as people have them, artifacts' too."""

import shutil

import pytest

from infra.errors import ConfigError
from infra.run.manifest import MANIFEST
from training.inputs import Inputs


def paths(place):
    return {name: source.paths for name, source in Inputs.at(place, None, {}).sources.items()}


@pytest.fixture
def sharded(shards, tmp_path):
    """The artifact of a stage that shards, with a holdout."""
    shutil.copytree(shards, tmp_path / "it/data/train")
    (tmp_path / "it/data/holdout/test").mkdir(parents=True)
    shutil.copy(next(shards.rglob("*.tar")), tmp_path / "it/data/holdout/test/0.tar")
    (tmp_path / "it" / MANIFEST).write_text("{}")
    return tmp_path / "it"


def test_an_artifact_is_trained_on_without_its_holdout(sharded, shards):
    wanted = [f"train/{path.relative_to(shards)}" for path in sorted(shards.rglob("*.tar"))]
    assert paths([f"{sharded}"]) == paths([f"{sharded}/data"]) == {"shards": wanted}
    assert Inputs.at([f"{shards}"], f"{sharded}", {}).tests.url == f"{sharded}/data"


def test_sources_are_named_as_the_recipe_names_them(shards):
    assert list(paths([f"{shards}"] * 3)) == ["shards", "shards_2", "shards_3"]
    assert list(paths([f"shards={shards}", f"shards_old={shards}"])) == ["shards", "shards_old"]


def test_an_equals_sign_in_a_path_names_nothing(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "day=1")
    assert list(paths([f"{tmp_path}/day=1"])) == ["shards"]


@pytest.mark.parametrize(
    ("given", "tests", "message"),
    [
        (["old={shards}"], None, "shards_old="),
        (["shards={shards}", "shards={shards}"], None, "two places"),
        (["{shards}/nowhere"], None, "nothing there"),
        (["{shards}"], "{shards}/nowhere", "no test sets"),
        (["{shards}"], "{tar}", "a file"),
    ],
)
def test_what_is_not_there_is_named(shards, given, tests, message):
    places = {"shards": shards, "tar": next(shards.rglob("*.tar"))}
    with pytest.raises(ConfigError, match=message):
        Inputs.at([one.format(**places) for one in given], tests and tests.format(**places), {})
