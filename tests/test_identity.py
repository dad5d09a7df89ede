"""What decides a result is named by content, never by where it lies: no identity holds a path."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.config import flatten
from infra.errors import ConfigError
from infra.formats.shards import TarWriter
from infra.store import LocalStore
from workflows.cli.fields import built_in
from workflows.recipe import load
from workflows.run.plan import make_plan

# Every deciding field of every stage that takes any text, and what the text is. None is a path of files: data enters by
# the adopt stage, as an input.
TEXTS = {
    "crawl.seeds": "URLs of pages",
    "crawl.sitemaps": "URLs of sitemaps",
    "crawl.pages": "URLs of pages",
    "crawl.allowed_hosts": "host names",
    "crawl.include": "regular expressions",
    "crawl.exclude": "regular expressions",
    "crawl.ignored_parameters": "names of parameters",
    "crawl.warc_date": "an instant",
    "crawl.web.user_agent": "what we say of ourselves",
    "crawl.web.contact": "what we say of ourselves",
    "extract.prefix": "the URL of a web site",
    "extract.agent": "what we say of ourselves",
    "urls.url_col": "a column",
    "urls.caption_col": "a column",
    "urls.save_additional_columns": "columns",
    "download.verify.column": "a column",
    "filter.rules[language].languages": "language codes",
    "filter.rules[language].min_scores": "language codes",
    "filter.rules[digital_source].exclude": "terms of a vocabulary",
    "filter.rules[pii].regions": "codes of countries",
    "filter.rules[score].column": "a column",
    "filter.rules[score].min_by_language": "language codes",
    "filter.rules[subset].entries": "ids",
    "filter.rules[subset].source": "an input",
    "filter.rules[text_list].entries": "words",
    "filter.rules[text_list].source": "an input",
    "filter.rules[text_share].of": "a kind of characters",
    "filter.rules[url_list].entries": "hosts and URLs",
    "filter.rules[url_list].source": "an input",
    "train.model.merges": "pairs of symbols; a file counts by its content",
    "embed.model": "a name of open_clip's",
    "embed.pretrained": "a tag of open_clip's",
    "embed.captions": "a column",
    "embed.name": "a name in the output",
    "score.embedding": "a name in the input",
    "semdedup.embedding": "a name in the input",
    "decontaminate.model": "a name of open_clip's",
    "decontaminate.pretrained": "a tag of open_clip's",
    "decontaminate.embedding": "a name in the input",
    **{
        f"score.scores[{kind}].{field}": meaning
        for kind in ("clip_score", "tmars", "neg_clip_loss", "norm_sim", "aesthetic", "unsafe", "head")
        for field, meaning in {"column": "a column", "embeddings": "an input", "weights": "an input"}.items()
        if field != "weights" or kind in ("aesthetic", "unsafe", "head")
    },
    "dedup.score": "a column",
    "textdedup.score": "a column",
    "textdedup.column": "a column",
    "entries.column": "a column",
    "balance.metadata": "words",
    "balance.reference": "a language",
    "train.model.architecture": "a name of open_clip's, or a configuration",
    "train.data.weights": "names of inputs",
    "train.data.caption_key": "a member of a sample",
    "train.objective[vqa].answers": "answers to questions",
    **{f"train.data.batches[{kind}].column": "a field of samples" for kind in ("diverse", "frequent", "spread")},
    "embed_tests.model": "a name of open_clip's",
    "embed_tests.pretrained": "a tag of open_clip's",
    "embed_tests.sets": "names in the input",
    "embed_tests.corrupted": "names in the input",
    "embed_tests.splits": "names in the input",
    "evaluate.task[few_shot].dataset": "a name in the input",
    "evaluate.task[few_shot].split": "a name in the input",
    "evaluate.task[few_shot].language": "a language code",
    "evaluate.task[few_shot].train": "a name in the input",
    "evaluate.task[knn].dataset": "a name in the input",
    "evaluate.task[knn].split": "a name in the input",
    "evaluate.task[knn].language": "a language code",
    "evaluate.task[knn].train": "a name in the input",
    "evaluate.task[linear_probe].dataset": "a name in the input",
    "evaluate.task[linear_probe].split": "a name in the input",
    "evaluate.task[linear_probe].language": "a language code",
    "evaluate.task[linear_probe].train": "a name in the input",
    "evaluate.task[zeroshot_classification].dataset": "a name in the input",
    "evaluate.task[zeroshot_classification].split": "a name in the input",
    "evaluate.task[zeroshot_classification].language": "a language code",
    **{
        f"evaluate.task[{task}].{part}": "prompts, or names of classes"
        for task in ("zeroshot_classification", "zeroshot_corrupted")
        for part in ("templates", "classnames")
    },
    "evaluate.task[word_analogies].templates": "prompts",
    "evaluate.task[word_similarity].templates": "prompts",
    "evaluate.task[zeroshot_classification].groups": "names, and fields of the samples' json",
    "evaluate.task[visual_question_answering].candidates": "words",
    "evaluate.task[zeroshot_retrieval].dataset": "a name in the input",
    "evaluate.task[zeroshot_retrieval].split": "a name in the input",
    "evaluate.task[zeroshot_retrieval].language": "a language code",
    "evaluate.model": "a name of open_clip's",
    "evaluate.pretrained": "a tag of open_clip's",
    **{
        f"evaluate.task[{task}].{part}": "a name in the input, or a language code"
        for task in (
            "analogies",
            "associations",
            "captioning",
            "image_caption_selection",
            "multiple_choice",
            "localisation",
            "matching",
            "visual_question_answering",
            "word_analogies",
            "word_similarity",
            "zeroshot_corrupted",
        )
        for part in ("dataset", "split", "language")
    },
    "compare.primary": "names of metrics",
    "suite.suite.name": "a name",
    "suite.suite.sets": "names in the inputs",
    **{f"suite.suite.sets.{part}": "a name in the inputs" for part in ("task", "metric", "groups", "split", "folder")},
    "suite.suite.sets.options": "fields of a task",
    "compare.variants": "names, and inputs",
    "robustness.models": "names, and inputs",
    "robustness.shifts": "names, and sets in the inputs",
    **{
        f"robustness.shifts.{part}": "a name in the inputs"
        for part in ("standard", "shifted", "metric", "shifted_metric")
    },
    "robustness.baseline": "names of models",
    "adopt.contents[testsets].sets": "names in the data",
    "adopt.contents[testsets].splits": "names in the data",
    "adopt.contents[testsets].forms[captions_json].file": "a file's name in the data",
    "adopt.contents[testsets].forms[caption_lines].file": "a file's name in the data",
    "adopt.contents[testsets].forms[word_analogies].file": "a file's name in the data",
    "adopt.contents[testsets].forms[word_pairs].file": "a file's name in the data",
    **{
        f"adopt.contents[testsets].forms[word_pairs].{part}": "a column of the data"
        for part in ("words", "rating", "category")
    },
    "adopt.contents[testsets].forms[metadata_folder].label": "a column of the data",
    "adopt.contents[testsets].forms[metadata_folder].captions": "a column of the data",
    **{
        f"adopt.contents[testsets].forms[{form}].{part}": "a column of the data"
        for form in ("hub_parquet", "saved_dataset")
        for part in ("image", "label", "captions")
    },
}
FREE = """
import json
from workflows.cli.fields import built_in, tables

rows = [(f"{stage}.{row.path}", row) for stage, rows in tables(built_in()).items() for row in rows]
free = [path for path, row in rows if not row.runtime and any(word in row.type for word in ("str", "Any", "Path"))]
print(json.dumps(free))
"""
REPO = Path(__file__).parents[1]
REFUSED = (
    *("crawl.seeds", "crawl.sitemaps", "extract.prefix"),
    *("train.model.architecture", "evaluate.model", "evaluate.pretrained", "embed.model", "embed.pretrained"),
    *("decontaminate.model", "decontaminate.pretrained", "embed_tests.model", "embed_tests.pretrained"),
)


def test_every_field_that_takes_a_text_is_known_to_be_no_path():
    # in a process of its own: other tests add rules and tasks
    done = subprocess.run([sys.executable, "-c", FREE], cwd=REPO, capture_output=True, text=True, check=True)
    free = set(json.loads(done.stdout))
    assert {path for path in free if not path.startswith("download.verify.mode")} == TEXTS.keys()


@pytest.mark.parametrize("field", REFUSED)
def test_a_path_is_refused_where_a_name_or_url_is_meant(tmp_path, field):
    (tmp_path / "model.pt").write_bytes(b"")
    stage, *names = field.split(".")
    for path in (str(tmp_path / "model.pt"), f"file://{tmp_path}/model.pt", f"local-dir:{tmp_path}"):
        value = (path,) if field.startswith("crawl") else path
        for name in reversed(names[1:]):
            value = {name: value}
        with pytest.raises(ConfigError):
            built_in()[stage](**{names[0]: value})


def write(folder: Path) -> None:
    """Data for every recipe that takes files."""
    folder.mkdir(parents=True)
    table = pa.table({"url": ["http://a.example/1.jpg"], "caption": ["a"], "key": ["0"], "status": ["success"]})
    pq.write_table(table, folder / "00000.parquet")
    for name in ("00000.tar", "sets/digits/test/0.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file, TarWriter(file) as out:
            out.add("0.jpg", b"x")
    (folder / "sets/digits/test/nshards.txt").write_text("1")
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "pages.txt").write_text("http://a.example/\n")
    (folder / "a.warc.gz").write_bytes(gzip.compress(b"WARC/1.0\r\n"))
    (folder / "wat.paths.gz").write_bytes(gzip.compress(b"crawl-data/a.wat.gz\n"))
    (folder / "local.paths").write_text("a.warc.gz\n")


RECIPES = {
    "url_list": {"url_list": "{}/00000.parquet"},
    "url_list, several": {"url_list": ["{}/*.parquet", "{}/pages.txt"]},
    "website": {"page_lists": ["{}/pages.txt"]},
    "common_crawl": {"paths": ["{}/a.warc.gz"]},
    "common_crawl, a pattern": {"paths": ["{}/*.warc.gz"], "max_files": 1},
    "common_crawl, a list of URLs": {"paths": ["{}/wat.paths.gz"]},
    "common_crawl, a list of files": {"paths": ["local.paths"], "prefix": "{}"},
    "curate": {"images": "{}"},
    "train": {
        "shards": ["{}"], "tests": "{}/sets", "classification": ["digits"], "pretrained": "{}/model.pt",
        "teacher": "{}/model.pt", "objective": "distill", "batch_size": 64, "samples": 640,
    },
    "evaluate": {"model": "{}/model.pt", "architecture": "ViT-B-32", "tests": "{}/sets", "captions": ["digits"]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_files_elsewhere_are_the_same_run(tmp_path, name):
    write(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "another/place")
    recipe = load(name.partition(",")[0]).function

    def placed(value, folder):
        return value.format(folder) if isinstance(value, str) else value

    plans = []
    for folder in ("one", "another/place"):
        values = {
            key: [placed(item, tmp_path / folder) for item in value] if isinstance(value, list) else
            placed(value, tmp_path / folder) for key, value in RECIPES[name].items()
        }  # fmt: skip
        plans.append(make_plan(recipe(**values), LocalStore(tmp_path / "root")))
    one, other = ({step.stage.name: step.stage.digest for step in plan} for plan in plans)
    assert one == other
    for step in plans[0]:
        held = flatten({"identity": step.stage.identity})
        texts = [text for value in held.values() for text in (value if isinstance(value, list) else [value])]
        assert not [text for text in texts if isinstance(text, str) and str(tmp_path) in text]


def test_files_replaced_under_the_same_path_are_another_run(tmp_path):
    write(tmp_path / "one")
    recipe = load("common_crawl").function
    before = recipe(paths=[f"{tmp_path}/one/wat.paths.gz"])["extract"].digest
    (tmp_path / "one/wat.paths.gz").write_bytes(gzip.compress(b"crawl-data/b.wat.gz\n"))
    assert recipe(paths=[f"{tmp_path}/one/wat.paths.gz"])["extract"].digest != before


@pytest.mark.long
def test_a_run_on_adopted_lists_is_planned_at_once(tmp_path):
    """The digests are remembered: the second plan reads no byte of 400 MB."""
    for number in range(4):
        with (tmp_path / f"{number}.csv").open("wb") as file:
            file.truncate(100 << 20)
    time.sleep(2.1)  # a file changed this moment may change again within the same tick
    recipe, root = load("url_list").function, LocalStore(tmp_path / "root")
    make_plan(recipe(url_list=str(tmp_path)), root)
    started = time.process_time()
    make_plan(recipe(url_list=str(tmp_path)), root)
    assert time.process_time() - started < 0.5
