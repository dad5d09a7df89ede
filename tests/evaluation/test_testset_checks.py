"""What a folder of test sets holds, what is broken in it, and which tasks can measure it."""

from __future__ import annotations

import io
import json

import evaluation_samples as samples
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.checks import check_folder, reason_against, sets_at
from evaluation.tasks import FewShot, LinearProbe, Retrieval, Task, ZeroShot
from infra.errors import ConfigError, DataError
from infra.formats.testset import KINDS, EvalSet
from infra.store import open_store


def lay(folder, files: dict[str, bytes]):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def webdataset(name: str, members: list[tuple[str, bytes]], split: str = "test", **texts: bytes) -> dict[str, bytes]:
    files = {f"{name}/{split}/nshards.txt": b"1", f"{name}/{split}/0.tar": samples.tar(members)}
    return files | {f"{name}/{text}.txt": data for text, data in texts.items()}


def labelled(key: str, label: str, image: bytes | None = None) -> list[tuple[str, bytes]]:
    return [(f"{key}.cls", label.encode()), (f"{key}.png", image or samples.picture(len(key)))]


GOOD = labelled("a", "0") + labelled("b", "1") + labelled("c", "1")
CUT = samples.picture(1)[:200]
BROKEN = [
    *labelled("good", "0"),
    *labelled("far", "3"),
    *labelled("none", ""),
    *labelled("cut", "1", CUT),
    *labelled("page", "1", b"<html>"),
    *labelled("page2", "1", b"<html></html>"),
    ("bare.cls", b"1"),
    *labelled("json", "1"),
    ("json.json", b"[1]"),
    *labelled("last", "1"),
]


def reports(folder, **options):
    return {f"{one.name}/{one.split}": one for one in check_folder(str(folder), **options)}


def test_it_counts_what_is_there(tmp_path):
    spoken = [(f"{i}.png", samples.picture(i)) for i in range(2)]
    spoken += [("0.txt", b"a cat\neine Katze"), ("0.json", b'{"languages": ["en", "de"]}')]
    spoken += [("1.txt", b"a dog"), ("1.json", b'{"language": "en"}')]
    files = webdataset("vtab/pets", GOOD, classnames=b"cat\ndog\nowl\n")
    files |= webdataset("vtab/pets", GOOD[:2], "train")
    files |= webdataset("words", sorted(spoken), dataset_type=b"retrieval")
    found = reports(lay(tmp_path, files))
    assert list(found) == ["vtab/pets/test", "vtab/pets/train", "words/test"]
    pets, words = found["vtab/pets/test"].as_dict(), found["words/test"].as_dict()
    assert (pets["images"], pets["classes"], pets["captions"], pets["broken"]) == (3, 3, 0, {})
    assert pets["classes_without_images"] == ["owl"]
    assert (words["images"], words["captions"], words["languages"]) == (2, 3, {"en": 2, "de": 1})
    assert all(report.sound for report in found.values())


def test_it_counts_what_is_broken_by_its_kind_and_goes_on_behind_it(tmp_path):
    (report,) = reports(lay(tmp_path, webdataset("x", BROKEN, classnames=b"cat\ndog\n"))).values()
    assert report.holds.images == 2
    assert report.holds.broken == {
        "no valid label": 2,
        "decode_failed": 1,
        "not_an_image": 2,
        "no image": 1,
        "bad metadata": 1,
    }
    assert "'far'" in report.holds.examples["no valid label"]
    assert "'page'" in report.holds.examples["not_an_image"]
    assert not report.sound
    assert set(report.against.values()) == {"the set has broken samples"}
    # What an evaluation would say, which stops at the first.
    with pytest.raises(DataError, match="'far' of x has no valid label"):
        list(EvalSet.at(open_store(str(tmp_path)), "x", "test"))


def test_undecoded_images_are_not_judged(tmp_path):
    lay(tmp_path, webdataset("x", BROKEN, classnames=b"cat\ndog\n"))
    (report,) = reports(tmp_path, decode=False).values()
    assert report.holds.images == 5
    assert report.holds.broken == {"no valid label": 2, "no image": 1, "bad metadata": 1}


def test_rows_of_tables_are_counted_too(tmp_path):
    image = samples.picture(1)
    images = [{"bytes": one, "path": ""} for one in (image, image, image[:99], image)] + [{"bytes": None, "path": "a"}]
    table = pa.table({"image": images, "label": pa.array([0, 7, 1, -1, 0])})
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    (report,) = reports(lay(tmp_path, {"pets/test.parquet": buffer.getvalue()})).values()
    assert (report.form, report.holds.images) == ("hub_parquet", 1)
    assert report.holds.broken == {"no valid label": 2, "decode_failed": 1, "no image": 1}


def test_languages_that_do_not_fit_and_a_tar_that_ends_early(tmp_path):
    members = [(f"{i}.{end}", data) for i in range(3) for end, data in (("png", samples.picture(i)), ("txt", b"x"))]
    members.insert(1, ("0.json", b'{"languages": ["en", "de"]}'))
    files = webdataset("x", members, dataset_type=b"retrieval")
    (report,) = reports(lay(tmp_path, files)).values()
    assert (report.holds.images, report.holds.broken) == (2, {"languages": 1})
    whole = files["x/test/0.tar"]
    lay(tmp_path, {"x/test/0.tar": whole[: len(whole) // 2]})
    (report,) = reports(tmp_path).values()
    assert report.holds.broken["unreadable from here"] == 1


def test_the_folder_of_one_set_will_do_and_one_without_any_is_refused(tmp_path):
    lay(tmp_path, webdataset("vtab/pets", GOOD, classnames=b"cat\ndog\n"))
    assert list(reports(tmp_path / "vtab/pets")) == ["pets/test"]
    with pytest.raises(ConfigError, match="there is no test set"):
        reports(lay(tmp_path / "other", {"notes.md": b""}))


def test_a_set_that_cannot_be_opened_says_why(tmp_path):
    (report,) = reports(lay(tmp_path, webdataset("x", GOOD, classnames=b"cat\n\ndog\n"))).values()
    assert "class without a name" in report.refused
    assert not report.sound


def test_tasks_are_told_that_can_measure_a_set(tmp_path):
    files = webdataset("pets", GOOD, classnames=b"cat\ndog\n") | webdataset("pets", GOOD, "train")
    files |= webdataset("birds", GOOD, classnames=b"cat\ndog\n")
    words = [("a.png", samples.picture(1)), ("a.txt", b"a cat")]
    files |= webdataset("words", words, dataset_type=b"retrieval")
    found = reports(lay(tmp_path, files))
    fit = {name: {kind for kind, reason in one.against.items() if not reason} for name, one in found.items()}
    learning = {"linear_probe", "few_shot", "knn"}
    assert {"zeroshot_classification"} | learning <= fit["pets/test"]
    assert not learning & fit["birds/test"]
    assert found["birds/test"].against["linear_probe"] == "it needs the split train"
    assert {"zeroshot_retrieval", "matching"} <= fit["words/test"]
    assert "zeroshot_classification" not in fit["words/test"]

    at = sets_at(str(tmp_path))
    assert reason_against(ZeroShot(dataset="pets/"), *at) == ""
    assert "needs the split train" in reason_against(LinearProbe(dataset="birds"), *at)
    assert "needs the split more" in reason_against(FewShot(dataset="pets", train="more"), *at)
    assert "birds/test" in reason_against(Retrieval(dataset="holdout"), *at)
    assert "needs a set for retrieval" in reason_against(Retrieval(dataset="pets"), *at)


def test_every_task_says_what_it_needs_in_words_there_are():
    members = [one for one in Task.all_members().values() if one.__module__.startswith("evaluation.tasks.")]
    assert len(members) >= 8
    for member in members:
        assert member.needs and set(member.needs) <= set(KINDS)
        assert member.main and member.units and member.__doc__
