"""docs/web.md names clipline's counterpart of every img2dataset option, and these exist."""

import inspect
import json
import re
from pathlib import Path

import pytest

from infra.cluster import Limits
from infra.config import Config
from pipelines import download
from pipelines import urls as url_list
from pipelines.download.verify import Verify
from pipelines.web import Web

DOCS = Path(__file__).parents[3] / "docs/web.md"
SECTION = re.search(r"^## Coming from img2dataset$(.*?)^## ", DOCS.read_text(), re.MULTILINE | re.DOTALL)[1]
ROWS = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in SECTION.splitlines() if "`" in line]
ROWS = [row for row in ROWS if len(row) == 2]


def names(cell: str) -> list[str]:
    """What stands in code font, less defaults in brackets."""
    return re.findall(r"`([a-z_0-9.]+)", re.sub(r"\([^)]*\)", "", cell))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_option_is_documented(img2dataset):
    from img2dataset.main import download as theirs

    documented = [name for left, _ in ROWS for name in names(left)]
    assert sorted(documented) == sorted(inspect.signature(theirs).parameters)


INNER = {"web": Web.model_fields, "verify": Verify.model_fields, "limits": Limits.__annotations__}


def has(config: type[Config], path: str) -> bool:
    first, _, rest = path.partition(".")
    return first in config.model_fields and (not rest or rest in INNER[first])


@pytest.mark.parametrize("row", ROWS, ids=[names(left)[0] for left, _ in ROWS])
def test_what_is_named_exists(row):
    left, right = row
    if right.startswith("the same"):
        config = url_list.Config if "`urls`" in right else download.Config
        assert [name for name in names(left) if not has(config, name)] == []
    elif not right.startswith(("not supported", "artifacts", "Ray", "MLflow")):
        assert names(right) and [name for name in names(right) if not has(download.Config, name)] == []


def test_defaults_in_brackets_are_ours_and_all_others_are_both(img2dataset):
    from img2dataset.main import download as theirs

    options = inspect.signature(theirs).parameters
    for left, _ in (row for row in ROWS if row[1] == "the same"):
        said = dict(re.findall(r"`(\w+)` \(`?([^`)]+)", left))
        for name in names(left):
            ours = download.Config.model_fields[name].default
            assert (ours == value(said[name])) if name in said else (ours == options[name].default), name
            assert (name in said) == (ours != options[name].default), name


def value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
