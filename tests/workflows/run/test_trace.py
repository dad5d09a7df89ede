"""A row is found in whatever artifact has it, by id or URL, and little is read for it."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.formats.shards import TarWriter
from infra.run.context import Context
from infra.run.manifest import MANIFEST, Artifact
from infra.store import LocalStore
from pipelines.tables import uid
from workflows.run.look.trace import in_order, pages, trace

URL, PAGE = "http://a.example/cat.jpg", "http://a.example/"
UID = uid(URL, "a red cat")
OTHER = uid("http://a.example/dog.jpg", "a red dog")


class Counting(LocalStore):
    """Counts the bytes that are read from its files."""

    read_bytes = 0

    def open(self, path):
        store, source = self, super().open(path)

        class Counted(io.RawIOBase):
            def readable(self):
                return True

            def seekable(self):
                return True

            def seek(self, place, whence=0):
                return source.seek(place, whence)

            def tell(self):
                return source.tell()

            def readinto(self, buffer):
                data = source.read(len(buffer))
                buffer[: len(data)] = data
                store.read_bytes += len(data)
                return len(data)

            def close(self):
                source.close()
                super().close()

        return Counted()


@pytest.fixture
def made(tmp_path):
    """``made(stage, inputs, **tables)``: the finished artifact of a stage, with tables by path."""

    def make(stage, inputs=(), tar=None, model=False, **tables) -> Artifact:
        store = Counting(tmp_path / stage)
        sources = {
            f"{name}{'' if number == 0 else number}": one.manifest.digest for number, (name, one) in enumerate(inputs)
        }
        context = Context(store, stage=stage, digest=f"{stage:0<64}", identity={"inputs": sources})
        for name, rows in tables.items():
            with context.output.open(f"data/{name.replace('_', '-', 1)}.parquet", rows=len(rows)) as sink:
                pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=100)
        if tar:
            path, samples = tar
            with context.output.open(path, rows=len(samples)) as sink, TarWriter(sink) as out:
                for key, (known, image) in samples.items():
                    out.add(f"{key}.jpg", image)
                    out.add(f"{key}.json", json.dumps(known).encode())
        if model:
            context.output.write("data/open_clip_model.safetensors", b"")
        manifest = context.finish()
        store.write(MANIFEST, manifest.to_bytes())
        return Artifact(store, manifest)

    return make


def test_the_whole_way_of_a_row(made):
    rows = [{"uid": UID, "url": URL, "caption": "a red cat", "page_url": PAGE}]
    rows += [{"uid": OTHER, "url": "http://a.example/dog.jpg", "caption": "a red dog", "page_url": PAGE}]
    pairs = made("pairs", pairs_00000=rows)
    fetched = [{**row, "key": f"00007{place}", "status": "success"} for place, row in enumerate(rows)]
    images = made("images", [("pairs", pairs)], **{"00007": fetched})
    chosen = [{**row, "shard": 7, "caption_language": "en"} for row in fetched]
    filtered = made("kept", [("images", images)], kept_00007=chosen, dropped_00007=[])
    dropped = [{**chosen[1], "reason": "near_duplicate", "duplicate_of": UID}]
    unique = made("unique", [("selection", filtered)], kept_00007=chosen[:1], dropped_00007=dropped)
    # The kept sample's JSON names the other row, too: that is no sample of it.
    samples = {"000": (chosen[0], b"cat's bytes"), "001": ({"uid": "f" * 32, "duplicate_of": OTHER}, b"another's")}
    shards = made("tars", [("selection", unique)], tar=("data/train/00000.tar", samples))
    model = made("learned", [("shards", shards)], model=True)
    scored = made("scored", [("model", model), ("tests", shards)])
    artifacts = in_order([scored, model, shards, unique, filtered, images, pairs])
    assert [one.manifest.stage for one in artifacts] == [
        "pairs",
        "images",
        "kept",
        "unique",
        "tars",
        "learned",
        "scored",
    ]

    (cat,) = trace(artifacts, URL)
    assert (cat.uid, cat.url, cat.page_url, cat.caption) == (UID, URL, PAGE, "a red cat")
    assert [(hit.stage, hit.outcome) for hit in cat.hits] == [
        *(("pairs", "kept"), ("images", "kept"), ("kept", "kept"), ("unique", "kept"), ("tars", "kept")),
        ("learned", "trained"),
    ]
    place = cat.hits[4]
    with shards.store.open(place.file) as source:
        source.seek(place.offset)
        assert source.read(11) == b"cat's bytes"
    assert place.details == {"sample": "000.jpg", "part": "training"}

    (dog,) = trace(artifacts, OTHER)
    assert [(hit.stage, hit.outcome, hit.reason) for hit in dog.hits][3:] == [("unique", "dropped", "near_duplicate")]
    assert dog.hits[-1].details["duplicate_of_url"] == URL
    assert dog.hits[2].details == {"shard": 7, "caption_language": "en"}
    assert {row.uid for row in trace(artifacts, PAGE)} == {UID, OTHER}
    assert len(list(trace(artifacts, PAGE, most=1))) == 1
    assert [row.hits for row in trace(artifacts, "0" * 32)] == [[]]
    assert list(trace(artifacts, "http://b.example/")) == []


def test_rows_without_ids_have_those_that_later_stages_give_them(made):
    rows = [
        {"url": URL, "caption": "a red cat", "key": "0000", "status": "failed_to_download", "error_message": "timeout"}
    ]
    images = made("images", **{"00000": rows})
    for what in (URL, UID):
        (row,) = trace([images], what)
        assert (row.uid, row.hits[0].outcome, row.hits[0].reason) == (UID, "dropped", "failed_to_download")
        assert row.hits[0].details["error_message"] == "timeout"


def test_a_page_is_found_with_what_became_of_it(made):
    crawl = made("crawl", **{"0-0.urls": [{"url": PAGE, "reason": "robots_disallowed", "detail": "*"}]})
    (hit,) = pages([crawl], "http://A.example")
    assert (hit.outcome, hit.reason, hit.details["detail"]) == ("dropped", "robots_disallowed", "*")


def test_ids_are_read_first_and_only_where_they_can_be(made):
    """A thousand sorted ids in ten row groups, beside captions of 4 kB each."""
    draw = random.Random(0)
    ids = sorted(uid(URL, str(number)) for number in range(1000))
    rows = [{"uid": one, "url": URL, "caption": draw.randbytes(2000).hex(), "page_url": PAGE} for one in ids]
    pairs = made("pairs", pairs_00000=rows)
    whole = pairs.store.size("data/pairs-00000.parquet")
    pairs.store.read_bytes = 0
    (row,) = trace([pairs], ids[555])
    assert row.hits[0].row == 555
    assert pairs.store.read_bytes < whole / 3
    pairs.store.read_bytes = 0
    (row,) = trace([pairs], "0" * 32)
    assert not row.hits
    assert pairs.store.read_bytes < whole / 10
