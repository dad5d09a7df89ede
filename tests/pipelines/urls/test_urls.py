"""URL lists: all formats against img2dataset's own reader, and malformed input."""

import csv
import gzip
import io
import json
from hashlib import blake2b

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopting import adopted
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError, DataError, StorageError, TransientError
from infra.run.context import Context, ShardOutput
from infra.schema import pairs_schema
from pipelines.layout import kept_files
from pipelines.tables import RESERVED
from pipelines.urls import shard as work
from pipelines.urls.config import Config
from pipelines.urls.files import list_files
from pipelines.urls.formats import MalformedRow, read_batches
from pipelines.urls.stage import run
from tests.pipelines.urls.listed import read


def _id(url, text):
    return blake2b(f"{url}\n{text}".encode(), digest_size=16).hexdigest()


ROWS = pd.DataFrame(
    {
        "URL": [f"https://img.example/{n}.jpg?a=1,2" for n in range(25)],
        "TEXT": [f'a "quoted", comma\'d caption {n}' if n % 3 else f"caption ä {n}" for n in range(25)],
        "NSFW": ["UNLIKELY"] * 25,
        "similarity": [0.25 + n / 4 for n in range(25)],
        "WIDTH": range(100, 125),
    }
)


def write(folder, form):
    path = folder / f"list.{form}"
    if form == "parquet":
        ROWS.to_parquet(path, row_group_size=10)
    elif form.startswith(("csv", "tsv")):
        ROWS.to_csv(path, index=False, sep="," if form.startswith("csv") else "\t")
    elif form.startswith("json"):
        ROWS.to_json(path, orient="records", lines=form.startswith("jsonl"), double_precision=15)
    else:
        text = "".join(f"{url}\n" for url in ROWS["URL"].str.replace(",", "-")).encode()
        path.write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    return path


FORMATS = [f"{form}{end}" for form in ("csv", "tsv", "json", "jsonl", "txt") for end in ("", ".gz")] + ["parquet"]


@pytest.mark.parametrize("form", FORMATS)
def test_formats_as_img2dataset_reads_them(form, tmp_path, img2dataset):
    from img2dataset.reader import Reader

    path = write(tmp_path, form)
    more = [] if form.startswith("txt") else ["NSFW", "similarity", "WIDTH"]
    columns = ("url", None, None) if form.startswith("txt") else ("URL", "TEXT", more)
    (tmp_path / "tmp").mkdir()
    reader = Reader(str(path), form, columns[0], columns[1], None, None, columns[2], 100, set(), str(tmp_path / "tmp"))
    ((_, feather),) = list(reader)
    theirs = pa.ipc.open_file(feather).read_all()
    ours, dropped, _ = read(path, tmp_path / "out")
    assert not dropped
    for name in theirs.column_names:
        assert ours[name].to_pylist() == theirs[name].to_pylist(), name
        assert ours[name].type in (theirs[name].type, pa.string())
    assert ("caption" in ours.column_names) == (not form.startswith("txt"))
    canonical = [url.replace("|", "%7C") for url in ours["url"].to_pylist()]
    captions = ours["caption"].to_pylist() if "caption" in ours.column_names else [""] * 25
    assert ours["uid"].to_pylist() == [_id(url, text) for url, text in zip(canonical, captions, strict=True)]
    assert (
        ours.schema.names[: ours.schema.names.index("license") + 1]
        == [name for name in pairs_schema().names if name in ours.column_names][
            : ours.schema.names.index("license") + 1
        ]
    )


KNOWN = {
    "laion": ({"URL": "u", "TEXT": "t", "LICENSE": "?", "NSFW": "n", "LANGUAGE": "de", "hash": 7}, "URL", "TEXT"),
    "coyo": ({"id": 1, "url": "u", "text": "t", "width": 3, "height": 4, "clip_similarity_vitb32": 0.3}, "url", "text"),
    "cc2dataset": ({"uid": "0" * 32, "url": "u", "alt": "t", "cc_filename": "f", "page_url": "p"}, "url", "alt"),
    "datacomp": (
        {"uid": "a" * 32, "url": "u", "text": "t", "original_width": 5, "original_height": 6, "sha256": "s",
         "face_bboxes": [[0.1, 0.2, 0.3, 0.4]]}, "url", "text",
    ),
    "sbu": ({"image_urls": "u", "captions": "t", "user_ids": "x"}, "image_urls", "captions"),
    "redcaps": ({"image_id": "i", "author": "a", "url": "u", "raw_caption": "T", "caption": "t"}, "url", "caption"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_the_usual_names_are_known_and_everything_is_kept(name, tmp_path):
    row, url, caption = KNOWN[name]
    row = row | {url: "http://a.example/1.png", caption: "a caption"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "list.parquet")
    table, dropped, _ = read(tmp_path / "list.parquet", tmp_path / "out")
    assert not dropped
    (found,) = table.to_pylist()
    assert (found["url"], found["caption"]) == ("http://a.example/1.png", "a caption")
    renamed = {url: "url", caption: "caption", "LICENSE": "license", "LANGUAGE": "language"}
    for column, value in row.items():
        place = renamed.get(column, column)
        assert found[f"{place}_listed" if place in RESERVED else place] == value
    assert not set(found) & RESERVED
    if "uid" not in row:
        assert found["uid"] == _id("http://a.example/1.png", "a caption")


def test_a_uid_of_another_kind_is_an_ordinary_column(tmp_path):
    pd.DataFrame({"uid": ["x1", "x2"], "url": ["http://a.example/"] * 2, "text": "t"}).to_csv(
        tmp_path / "a.csv", index=False
    )
    table, _, _ = read(tmp_path / "a.csv", tmp_path / "out")
    assert table["uid_listed"].to_pylist() == ["x1", "x2"]
    assert all(len(value) == 32 for value in table["uid"].to_pylist())


@pytest.mark.parametrize("order", ["caption first", "address first"])
def test_conceptual_captions_have_no_header_and_stray_quotes(order, tmp_path):
    rows = [(f"caption {n}", f"http://a.example/{n}.jpg") for n in range(3)]
    rows[1] = ('"I never finish', rows[1][1])
    rows[2] = ('5" disc', rows[2][1])
    flip = slice(None, None, 1 if order == "caption first" else -1)
    path = tmp_path / "cc.tsv"
    path.write_text("".join("\t".join(row[flip]) + "\n" for row in rows))
    table, dropped, _ = read(path, tmp_path / "out")
    assert not dropped
    assert list(zip(table["caption"].to_pylist(), table["url"].to_pylist(), strict=True)) == rows


def test_malformed_rows_affect_no_others(tmp_path):
    lines = [
        b'{"url": "http://a.example/1", "caption": "one"}',
        b'{"url": "http://a.example/2", "caption": ',  # 2
        b"",
        b'{"url": "file:///etc/passwd", "caption": "two"}',  # 4
        b'{"url": "http://a.example/3", "caption": "  "}',  # 5
        b'{"caption": "no address"}',  # 6
        b'["http://a.example/4", "list"]',  # 7
        b'{"url": "http://a.example/5", "caption": "\xff"}',  # 8
        b'{"url": "http://a.example/6", "caption": "\\ud83d"}',  # 9
        b'{"url": 5, "caption": "number"}',  # 10
        b"[" * 100_000,  # 11
        b'{"url": "http://a.example/7", "caption": "seven", "score": 1}',
        b'{"url": "http://a.example/8", "caption": "eight", "score": 0.5, "nested": {"a": [1]}}',
    ]
    path = tmp_path / "list.jsonl"
    path.write_bytes(b"\n".join(lines))
    table, dropped, counts = read(path, tmp_path / "out")
    assert table["caption"].to_pylist() == ["one", "seven", "eight"]
    assert table["score"].to_pylist() == [None, 1.0, 0.5]
    assert table["nested"].to_pylist() == [None, None, '{"a": [1]}']
    assert [(row["row"], row["reason"]) for row in dropped] == [
        *((2, "malformed_row"), (4, "bad_url"), (5, "no_text"), (6, "bad_url"), (7, "malformed_row")),
        *((8, "malformed_row"), (9, "malformed_row"), (10, "bad_url"), (11, "malformed_row")),
    ]
    assert counts == {"bad_url": 3, "malformed_row": 5, "no_text": 1}
    assert json.loads(dropped[1]["text"])["caption"] == "two"  # all there was of the row
    assert {row["file"] for row in dropped} == {"url_list.jsonl"}  # whatever its name was


def test_ragged_lines_and_quotes_never_closed(tmp_path):
    text = (
        "url,caption,n\n"
        "http://a.example/1,one,1\n"
        "http://a.example/2,too few\n"
        "http://a.example/3,too,many,3\n"
        'http://a.example/4,"of two\nlines",4\n'
        'http://a.example/5,"never closed,5\n'
        + "".join(f"http://a.example/{n},more,{n}\n" for n in range(6, 90))
        + 'http://a.example/90,"last\n'
    )
    path = tmp_path / "list.csv"
    path.write_text(text)
    table, dropped, _ = read(path, tmp_path / "out")
    assert table["n"].to_pylist() == [1, 4, 5, *range(6, 90)]
    assert table["caption"].to_pylist()[1:3] == ["of two\nlines", '"never closed']
    assert [(row["row"], row["detail"]) for row in dropped] == [
        (3, "2 fields, not 3"), (4, "4 fields, not 3"), (92, "2 fields, not 3"),
    ]  # fmt: skip


@given(st.lists(st.lists(st.text(st.sampled_from('a,"\n\tä '), max_size=6), min_size=2, max_size=2), max_size=12))
def test_what_the_csv_module_writes_is_read_back(rows):
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["url", "caption"])
    rows = [["u" + row[0], "c" + row[1]] for row in rows]
    writer.writerows(rows)
    batches = list(read_batches(lambda: io.BytesIO(out.getvalue().encode()), "csv", "it"))
    assert not [bad for batch in batches for bad in batch.bad]
    found = [
        list(pair)
        for batch in batches if batch.columns
        for pair in zip(batch.columns["url"], batch.columns["caption"], strict=True)
    ]  # fmt: skip
    assert found == rows


VALUES = st.none() | st.text() | st.integers() | st.floats(allow_nan=False)


@pytest.mark.long
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=8),
    st.sampled_from([None, 2]),
    st.integers(1, 30),
)
def test_json_arrays_whatever_the_chunks(rows, indent, chunk):
    from pipelines.urls import json_rows

    data = json.dumps(rows, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_CHUNK", chunk)
        batches = list(read_batches(lambda: io.BytesIO(data), "json", "it"))
    found = [
        {name: batch.columns[name][place] for name in batch.columns}
        for batch in batches
        for place in range(len(batch.numbers))
    ]
    good = [row for row in rows if "\\ud" not in json.dumps(row) or _encodable(row)]
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == [
        {k: v for k, v in row.items() if v is not None} for row in good
    ]


def _encodable(row) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def test_json_that_not_every_reader_takes(tmp_path):
    """NaN as Python writes it, and numbers that no float holds."""
    (tmp_path / "l.jsonl").write_text(
        '{"url": "http://a.example/1", "caption": "one", "score": NaN, "id": 1}\n'
        '{"url": "http://a.example/2", "caption": "two", "score": 0.5, "id": 18446744073709551615123}\n'
    )
    table, dropped, _ = read(tmp_path / "l.jsonl", tmp_path / "out")
    assert not dropped
    assert np.isnan(table["score"][0].as_py())
    assert table["id"].to_pylist() == ["1", "18446744073709551615123"]


def test_json_of_columns_and_json_that_is_lines(tmp_path):
    urls, texts = ["http://a.example/1", "http://a.example/2"], ["one", "two"]
    documents = {
        "sbu": json.dumps({"image_urls": urls, "captions": texts}),
        "pretty": json.dumps({"url": urls, "caption": texts}, indent=1),
        "pandas": pd.DataFrame({"url": urls, "caption": texts}).to_json(),
        "lines": "".join(json.dumps({"url": u, "text": t}) + "\n" for u, t in zip(urls, texts, strict=True)),
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(document)
        table, dropped, _ = read(tmp_path / f"{name}.json", tmp_path / f"out-{name}")
        assert (table["url"].to_pylist(), table["caption"].to_pylist(), dropped) == (urls, texts, [])
    for document in ("7", '[{"url": "http://a.example/1"', '{"url": ["a"], "caption": []}', '[{"url": 1}, nonsense]'):
        (tmp_path / "bad.json").write_text(document)
        with pytest.raises(DataError, match=r"bad\.json"):
            read(tmp_path / "bad.json", tmp_path / "out-bad")


def test_damaged_files_are_errors(tmp_path):
    good = gzip.compress(b"http://a.example/1\n" * 1000)
    cases = {
        "cut.txt.gz": good[:-20],
        "not.txt.gz": b"http://a.example/1\n",
        "not.parquet": b"PAR1 no",
        "wide.txt": b"\xff\xfea\0",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            read(tmp_path / name, tmp_path / f"out-{name}")


def test_a_parquet_file_with_a_damaged_page_is_an_error(tmp_path):
    path = tmp_path / "l.parquet"
    urls = [blake2b(str(n).encode()).hexdigest() for n in range(5000)]
    pq.write_table(pa.table({"url": urls, "text": urls}), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[2000:4000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"l\.parquet: column 'url' cannot be read in rows 1 to 5000"):
        read(path, tmp_path / "out")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["url", "url", "text"]), path)
    with pytest.raises(ConfigError, match="same name"):
        read(path, tmp_path / "out2")


def test_types_that_only_the_whole_list_knows(tmp_path):
    """A folder whose files disagree comes out as one table."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for number, values in enumerate([[1, 2], [0.5, 1], ["A7", "007"], [None, None]]):
        pd.DataFrame({"url": "http://a.example/", "text": "t", "v": values, "code": ["01", "02"]}).to_csv(
            folder / f"{number}.csv", index=False
        )
    for name in ("README.md", "_SUCCESS", "._0.csv"):
        (folder / name).write_text("not a list")
    table, _, _ = read(f"{folder}/[013].csv", tmp_path / "numbers")
    assert table["v"].to_pylist() == [1.0, 2.0, 0.5, 1.0, None, None]
    table, _, _ = read(folder, tmp_path / "texts")
    assert table["v"].to_pylist() == ["1", "2", "0.5", "1.0", "A7", "007", "", ""]
    assert table["code"].to_pylist() == ["01", "02"] * 4


def test_parquet_types_that_json_does_not_know(tmp_path):
    table = pa.table(
        {
            "url": pa.array(["http://a.example/"]).dictionary_encode(),
            "caption": pa.array([b"bytes of text"]),
            "at": pa.array([0], pa.timestamp("s")),
            "raw": pa.array([b"\xff\x00"]),
            "box": pa.array([{"x": 1}]),
            "vector": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
            "half": pa.array([np.float16(0.5)]),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    found, dropped, _ = read(tmp_path / "list.parquet", tmp_path / "out")
    assert not dropped
    (row,) = found.to_pylist()
    assert row["caption"] == "bytes of text"
    assert (row["raw"], row["box"], row["vector"], row["half"]) == ("ff00", '{"x": 1}', [1.0, 2.0], 0.5)
    assert row["at"].startswith("1970-01-01")
    json.dumps(row)


def test_large_parquet_is_cut_by_row_groups_and_never_held(tmp_path, monkeypatch):
    urls = [f"http://a.example/{n}" for n in range(1000)]
    urls[333] = "nonsense"
    pq.write_table(pa.table({"url": urls, "text": ["t"] * 1000}), tmp_path / "l.parquet", row_group_size=90)
    for name, value in (("PART_ROWS", 200), ("FILE_ROWS", 50), ("GROUP_ROWS", 20)):
        monkeypatch.setattr(work, name, value)
    monkeypatch.setattr("pipelines.urls.parquet_rows.BATCH_ROWS", 40)
    table, dropped, _ = read(tmp_path / "l.parquet", tmp_path / "out")
    assert table["url"].to_pylist() == urls[:333] + urls[334:]
    assert [(row["row"], row["text"]) for row in dropped] == [(334, '{"url": "nonsense", "text": "t"}')]
    files = sorted(path.name for path in (tmp_path / "out/data").iterdir())
    assert len(files) > 12
    assert files[0] == "00000-00000-0000.parquet"
    assert all(pq.ParquetFile(tmp_path / "out/data" / name).metadata.num_rows <= 80 for name in files)


def test_lists_that_leave_a_question_are_refused(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("where,words\nhttp://a.example/1,one\n")
    for options, message in (
        ({}, "none of the columns of"),
        ({"url_col": "where"}, "known to hold captions"),
        ({"url_col": "where", "caption_col": "word"}, "no column 'word'"),
        ({"url_col": "where", "caption_col": "", "save_additional_columns": ["size"]}, "no column 'size'"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            read(path, tmp_path / "out", **options)
        assert "where, words" in str(error.value)
    table, _, _ = read(path, tmp_path / "out2", url_col="where", caption_col="")
    assert "caption" not in table.column_names
    assert table["words"].to_pylist() == ["one"]
    narrow = {"url_col": "where", "caption_col": "words", "save_additional_columns": ()}
    assert read(path, tmp_path / "out3", **narrow)[0].column_names == pairs_schema().names


def test_files_that_are_no_list_are_refused(tmp_path):
    (tmp_path / "list.csv").write_text("url,caption\nhttp://a.example/1,one\n")
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "none.csv", tmp_path / "*.parquet", tmp_path / "empty"):
        with pytest.raises(ConfigError, match="there is no url_list at"):
            adopted(missing, "url_list")
    (tmp_path / "more.tsv").write_text("url\n")
    with pytest.raises(ConfigError, match="several formats"):
        adopted(tmp_path, "url_list")
    assert [file.name for file in list_files([adopted(tmp_path, "url_list", format="csv")])] == ["list.csv"]
    (tmp_path / "urls").write_text("http://a.example/1\n")
    nameless = adopted(tmp_path / "urls", "url_list")
    assert list_files([nameless], "txt")[0].format == "txt"
    with pytest.raises(ConfigError, match="is not clear from its name"):
        list_files([nameless])


def test_a_list_counts_by_its_content(tmp_path):
    for name in ("a/list.txt", "b/other.txt", "c/list.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"http://a.example/1\n" * 100_000)
    with (tmp_path / "c/list.txt").open("r+b") as file:
        file.seek(-1_000_000, io.SEEK_END)
        file.write(b"2")
    one, same, other = (adopted(path, "url_list").manifest.content_digest for path in sorted(tmp_path.glob("*/*.txt")))
    assert one == same != other
    (file,) = list_files([adopted(tmp_path / "a/list.txt", "url_list")])
    (tmp_path / "a/list.txt").write_bytes(b"shorter")
    with pytest.raises(DataError, match="changed"):
        file.open()


def test_several_lists_are_read_in_the_order_of_their_inputs(tmp_path):
    lists = {}
    for number in range(1, 12):
        (tmp_path / f"{12 - number}.txt").write_text(f"http://a.example/{number}\n")
        lists["list" if number == 1 else f"list_{number}"] = adopted(tmp_path / f"{12 - number}.txt", "url_list")
    files = list_files(Config.given("list", dict(sorted(lists.items()))))
    assert [file.store.read(file.path) for file in files] == [b"http://a.example/%d\n" % n for n in range(1, 12)]


def test_lists_in_an_object_store(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/lists/a.csv", b"url,caption\nhttp://a.example/1,one\n")
    memory.pipe_file("/lists/b.csv", b"url,caption\nhttp://a.example/2,two\n")
    memory.pipe_file("/lists/deep/c.csv", b"url,caption\nhttp://a.example/3,three\n")
    try:
        for number, url in enumerate(("memory://lists", "memory://lists/**", "memory://lists/*.csv")):
            table, _, _ = read(url, tmp_path / str(number))
            assert table["caption"].to_pylist() == ["one", "two", "three"][: 2 if number == 2 else 3]
        with pytest.raises(ConfigError, match="there is no url_list"):
            adopted("memory://lists/c.csv", "url_list")
    finally:
        memory.rm("/lists", recursive=True)


def test_lists_on_the_web(tmp_path):
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    (tmp_path / "a.csv").write_text("url,caption\nhttp://a.example/1,one\n")
    (tmp_path / "b.parquet").write_bytes(bytes(12 << 20))
    handler = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        for number, url in enumerate((f"{here}/a.csv", f"{here}/a.csv?v=1", f"{here}/*.csv")):
            table, _, _ = read(url, tmp_path / str(number))
            assert table["caption"].to_pylist() == ["one"]
        with pytest.raises(ConfigError, match=r"there is no url_list at .*none\.csv"):
            adopted(f"{here}/none.csv", "url_list")
        # This server gives whole files: enough to identify one, but not to read a table by its footer.
        (whole,) = list_files([adopted(f"{here}/b.parquet", "url_list")])
        with pytest.raises(DataError, match=r"b\.parquet cannot be read remotely"):
            work.survey(Config(), whole, ShardOutput(Context(tmp_path).store, "survey"))
        server.shutdown()
    with pytest.raises(TransientError, match="does not answer"):
        adopted(f"{here}/a.csv", "url_list")
    with pytest.raises(StorageError, match="no store can be opened"):
        adopted("nonsense://a/a.csv", "url_list")


def test_a_txt_line_is_one_url_including_commas():
    data = b"\xef\xbb\xbfhttp://a.example/1,2\r\n\r\n  http://a.example/3 \n"
    (batch,) = read_batches(lambda: io.BytesIO(data), "txt", "it")
    assert batch.columns == {"url": ["http://a.example/1,2", "http://a.example/3"]}
    assert batch.numbers == [1, 3]


def test_an_endless_line_is_one_bad_row(monkeypatch):
    monkeypatch.setattr("pipelines.urls.lines.MAX_LINE", 64)
    data = b"http://a.example/1\n" + b"x" * 1000 + b"\nhttp://a.example/2\n"
    (batch,) = read_batches(lambda: io.BytesIO(data), "txt", "it")
    assert batch.columns["url"] == ["http://a.example/1", "http://a.example/2"]
    assert batch.bad == [MalformedRow(2, "x" * 64, "more than 64 bytes")]
    assert batch.numbers == [1, 3]


def test_the_stage(ray_cluster, tmp_path, finished):
    for number in range(3):
        pq.write_table(
            pa.table(
                {"URL": [f"http://a.example/{number}-{n}" if n else "ftp://no" for n in range(5)], "TEXT": ["t"] * 5}
            ),
            tmp_path / f"{number}.parquet",
        )
    config, inputs = Config(), {"list": adopted(tmp_path / "*.parquet", "url_list")}
    artifact = finished(run, config, inputs, tmp_path / "stage")
    assert artifact.manifest.funnel.to_json() == {
        "unit": "rows", "entered": 15, "kept": 12, "dropped": {"bad_url": 3},
    }  # fmt: skip
    assert artifact.manifest.facts == {"files": 3, "rows": 15, "url_col": "URL", "caption_col": "TEXT"}
    assert [file.rows for file in kept_files(artifact)] == [4, 4, 4]
    assert not list(artifact.verify())
    assert finished(run, config, inputs).manifest == artifact.manifest

    # killed in the middle of a part: that part is done again, and the end is the same
    (tmp_path / "stage/ledger/00001-00000.json").unlink()
    (tmp_path / "stage/data/00001-00000-0000.parquet").write_bytes(b"cut")
    assert finished(run, config, inputs, tmp_path / "stage").manifest == artifact.manifest
    assert not list(artifact.verify())


TOKENS = [
    *(b"http://a.example/1", b"url", b"caption", b'"url":', b"null", b"1", b"PAR1", b"\\ud800", b"\xef\xbb\xbf"),
    *(b",", b"\t", b"\n", b"\r", b" ", b'"', b"{", b"}", b"[", b"]", b":", b"\xff", b"\x00"),
]


@given(st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join), st.sampled_from(FORMATS))
def test_whatever_a_file_holds_it_is_rows_bad_rows_or_an_error(data, form):
    body = gzip.compress(data) if form.endswith(".gz") else data
    try:
        batches = list(read_batches(lambda: io.BytesIO(body), form, "it"))
    except DataError:
        return
    numbers = sorted(number for batch in batches for number in [*batch.numbers, *(bad.number for bad in batch.bad)])
    assert len(set(numbers)) == len(numbers)
    for batch in batches:
        assert all(len(values) == len(batch.numbers) for values in batch.columns.values())
    if form.startswith(("txt", "jsonl")):  # a line that is not empty is a row or a bad row
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert numbers == [n for n, line in enumerate(lines, start=1) if _has_text(line)]


def _has_text(line: bytes) -> bool:
    try:
        return bool(line.decode().strip())
    except UnicodeDecodeError:
        return True


def test_batches_are_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr("pipelines.urls.lines._BATCH_SIZE", 100)
    data = b"".join(b'{"url": "%d", "caption": "%s"}\n' % (n, b"x" * 60) for n in range(10))
    assert [len(batch.numbers) for batch in read_batches(lambda: io.BytesIO(data), "jsonl", "it")] == [2] * 5
