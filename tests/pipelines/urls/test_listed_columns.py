"""Columns of every type: none ends a list, none loses a digit; lists of captions and URLs become pairs."""

import datetime
import json
import uuid
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError, DataError
from pipelines.urls.column_types import Found, cast, merged, of_texts, of_values
from pipelines.urls.lines import Batch
from pipelines.urls.pairs import _cast
from pipelines.urls.plan import Columns
from tests.pipelines.urls.listed import read, read_all

URLS, CAPTIONS = ["http://a.example/1", "http://a.example/2"], ["one", "two"]
ID = uuid.UUID("d6df3f75-d56f-47e0-86ad-045ce5e81912")
NOT_UTF8 = pa.array([b"\xff", b"good"]).view(pa.string())

ODD = {
    "list of structures": (pa.array([[{"x": 1, "n": "p"}], []]), ['[{"x": 1, "n": "p"}]', "[]"]),
    "structure of times": (
        pa.array([{"at": datetime.datetime(2020, 1, 2)}, None]), ['{"at": "2020-01-02 00:00:00.000000"}', None],
    ),
    "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())), ['[["a", 1]]', None]),
    "list of maps": (
        pa.array([[[("a", b"\xff")]], []], pa.list_(pa.map_(pa.string(), pa.binary()))), ['[[["a", "ff"]]]', "[]"],
    ),
    "bytes": (pa.array([b"\xff\x00", b"text"]), ["ff00", "text"]),
    "list of bytes": (pa.array([[b"\xff", None], [b"text"]]), ['["ff", null]', '["text"]']),
    "text that is not UTF-8": (NOT_UTF8, ["ff", "good"]),
    "list of text that is not UTF-8": (
        pa.ListArray.from_arrays([0, 1, 2], NOT_UTF8), [["ff"], ["good"]],
    ),
    "UUID": (pa.array([ID.bytes, None], pa.uuid()), [str(ID), None]),
    "an extension type": (
        pa.ExtensionArray.from_storage(pa.opaque(pa.int32(), "ours", "us"), pa.array([1, None], pa.int32())), [1, None],
    ),
    "JSON": (pa.array(['{"a": 1}', None], pa.json_()), ['{"a": 1}', None]),
    "tensors": (
        pa.FixedShapeTensorArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))
        ),
        [[1.0, 2.0], [3.0, 4.0]],
    ),
    "fixed-size list with a null": (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), [[1.0, 2.0], None]),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    "decimal": (pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)), ["1.50", None]),
    "time beyond Python's": (pa.array([2**61, None], pa.timestamp("us")), [f"<value out of range: {2**61}>", None]),
    "time to the nanosecond": (pa.array([1, None], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001", None]),
    "large integer": (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    "view": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "null": (pa.nulls(2), [None, None]),
    "list of lists": (pa.array([[[1]], [[2, 3], []]]), [[[1]], [[2, 3], []]]),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_no_type_ends_a_list(name, tmp_path):
    column, values = ODD[name]
    pq.write_table(pa.table({"url": URLS, "caption": CAPTIONS, "odd": column}), tmp_path / "l.parquet")
    table, dropped, _ = read(tmp_path / "l.parquet", tmp_path / "out")
    assert not dropped
    assert table["caption"].to_pylist() == CAPTIONS
    assert table["odd"].to_pylist() == values
    # of a bad row, too, every column can be shown
    pq.write_table(pa.table({"url": ["no", "no"], "caption": CAPTIONS, "odd": column}), tmp_path / "l.parquet")
    _, dropped, counts = read(tmp_path / "l.parquet", tmp_path / "bad")
    assert counts == {"bad_url": 2}
    assert all(json.loads(row["text"])["caption"] in CAPTIONS for row in dropped)


def test_odd_values_in_jsonl(tmp_path):
    rows = [{"h": [{"a": 1}]}, {"h": []}, {"h": {"b": None}}, {"h": [[1], "x"]}, {"h": 10**30}, {}]
    lines = [json.dumps({"url": URLS[0], "caption": "x"} | row) for row in rows]
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    table, dropped, _ = read(tmp_path / "l.jsonl", tmp_path / "out")
    assert not dropped
    assert table["h"].to_pylist() == ['[{"a": 1}]', "[]", '{"b": null}', '[[1], "x"]', str(10**30), None]


def test_columns_of_one_name(tmp_path):
    table = pa.Table.from_arrays([pa.array(v) for v in (URLS, CAPTIONS, [1, 2], [3, 4])], ["url", "caption", "w", "w"])
    pq.write_table(table, tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text("url,caption,w,w\nhttp://a.example/1,one,1,3\nhttp://a.example/2,two,2,4\n")
    for name in ("l.parquet", "l.csv"):
        found, _, _ = read(tmp_path / name, tmp_path / f"out-{name}")
        assert (found["w"].to_pylist(), found["w_2"].to_pylist()) == ([1, 2], [3, 4])
        with pytest.raises(ConfigError, match="same name 'w'"):
            read(tmp_path / name, tmp_path / "twice", caption_col="w")


# --- digits -----------------------------------------------------------------------------------------------------------

HASH = -8261134623623121343  # no double holds it


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_integers_here_and_floats_there_keep_every_digit(form, tmp_path):
    columns = {"hash": ([HASH, 123], [0.5, None]), "n": ([1, 2], [0.5, None]), "v": ([[1], []], [[0.5], None])}
    for number in range(2):
        table = pa.table({"url": URLS, "caption": CAPTIONS} | {name: both[number] for name, both in columns.items()})
        path = tmp_path / f"{number}.{form}"
        if form == "parquet":
            pq.write_table(table, path)
        elif form == "jsonl":
            path.write_text("\n".join(map(json.dumps, table.to_pylist())))
        else:
            table.drop_columns("v").to_pandas(types_mapper={pa.int64(): __import__("pandas").Int64Dtype()}.get).to_csv(
                path, index=False
            )
    table, dropped, _ = read(tmp_path, tmp_path / "out")
    assert not dropped
    assert table["hash"].to_pylist() == [str(HASH), "123", "0.5", "" if form == "csv" else None]
    assert table["n"].to_pylist() == [1.0, 2.0, 0.5, None]
    if form != "csv":
        assert table["v"].to_pylist() == [[1.0], [], [0.5], None]


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-1000, 1000, places=20).map(str),
)


@given(st.lists(NUMBERS, min_size=1, max_size=6), st.integers(0, 6))
def test_numbers_given_as_text_are_never_rounded(numbers, place):
    texts = [str(number) for number in numbers]
    parts = [part for part in (texts[:place], texts[place:]) if part]
    found = Found()
    for part in parts:
        found = merged(found, of_texts(part))
    for part in parts:
        values = cast(part, found.type, len(part)).to_pylist()
        assert [Decimal(str(value)) for value in values] == [Decimal(text) for text in part]


@given(
    st.lists(st.one_of(st.integers(-(2**70), 2**70), st.floats(-1e9, 1e9), st.none()), max_size=6), st.integers(0, 6)
)
def test_numbers_of_json_are_never_rounded(numbers, place):
    parts = [numbers[:place], numbers[place:]]
    found = merged(of_values(parts[0]), of_values(parts[1]))
    for part in parts:
        values = cast(part, found.type, len(part)).to_pylist()
        assert [value and Decimal(str(value)) for value in values] == [value and Decimal(str(value)) for value in part]


def test_json_numbers_of_more_digits_than_a_float_has_are_text(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"url": "http://a.example/1", "caption": "x", "p": 0.12345678901234567891}')
    table, _, _ = read(tmp_path / "l.jsonl", tmp_path / "out")
    assert table["p"].to_pylist() == ["0.12345678901234567891"]


def test_a_value_the_survey_did_not_see_is_named():
    batch = Batch({"n": ["1", "2", "x"]}, [2, 3, 4])
    with pytest.raises(DataError, match=r"l\.csv: column 'n' of row 4: 'x'"):
        _cast(batch, "n", Columns("url", None), pa.int64(), "l.csv")


# --- several captions, several URLs, several schemas ------------------------------------------------------------------


def pairs(table):
    return list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))


@pytest.mark.parametrize("form", ["parquet", "jsonl", "bytes", "csv", "python"])
def test_a_caption_that_is_a_list_is_a_pair_for_each(form, tmp_path):
    captions = [["one fox", "a fox"], ["dogs"], []]
    urls, path = [*URLS, "http://a.example/3"], tmp_path / f"l.{form}"
    if form in ("parquet", "bytes"):
        path = tmp_path / "l.parquet"
        values = captions if form == "parquet" else [[text.encode() for text in texts] for texts in captions]
        pq.write_table(pa.table({"url": urls, "captions": values, "n": [1, 2, 3]}), path)
    elif form == "jsonl":
        path.write_text(
            "\n".join(
                json.dumps({"url": u, "captions": c, "n": n})
                for n, (u, c) in enumerate(zip(urls, captions, strict=True), start=1)
            )
        )
    else:
        import pandas as pd

        path = tmp_path / "l.csv"
        values = [json.dumps(texts) if form == "csv" else str(texts) for texts in captions[:2]]
        pd.DataFrame({"url": URLS, "captions": values, "n": [1, 2]}).to_csv(path, index=False)
    table, dropped, facts = read_all(path, tmp_path / "out")
    assert pairs(table) == [(URLS[0], "one fox"), (URLS[0], "a fox"), (URLS[1], "dogs")]
    assert table["n"].to_pylist() == [1, 1, 2]
    assert len(set(table["uid"].to_pylist())) == 3
    empty = form not in ("csv", "python")
    assert [row["reason"] for row in dropped] == ["no_text"] * empty
    assert (facts["rows"], facts["entered"]) == (2 + empty, 3 + empty)


def test_captions_that_are_no_text_are_malformed(tmp_path):
    captions = [{"en": "a fox"}, [["a", "b"]], ["good", {"x": 1}], 1984, "kept", ["kept too", None]]
    lines = [json.dumps({"url": URLS[0], "caption": caption}) for caption in captions]
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    table, dropped, counts = read(tmp_path / "l.jsonl", tmp_path / "out")
    assert table["caption"].to_pylist() == ["1984", "kept", "kept too"]
    assert [(row["row"], row["reason"]) for row in dropped] == [
        *((n, "malformed_row") for n in (1, 2, 3)), (6, "no_text"),
    ]  # fmt: skip
    assert counts == {"malformed_row": 3, "no_text": 1}

    for values in (pa.array([b"\xff\xfe", b"good"]), NOT_UTF8):
        pq.write_table(pa.table({"url": URLS, "caption": values}), tmp_path / "l.parquet")
        table, dropped, _ = read(tmp_path / "l.parquet", tmp_path / "bytes")
        assert table["caption"].to_pylist() == ["good"]
        assert [(row["row"], row["reason"]) for row in dropped] == [(1, "malformed_row")]


def test_urls_that_are_lists(tmp_path):
    rows = [
        {"image_urls": URLS, "caption": "both"},
        {"image_urls": URLS, "caption": ["one", "two"]},
        {"image_urls": URLS, "caption": ["one", "two", "three"]},
        {"image_urls": [], "caption": "none"},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table, dropped, counts = read(tmp_path / "l.jsonl", tmp_path / "out")
    assert pairs(table) == [(URLS[0], "both"), (URLS[1], "both"), *zip(URLS, CAPTIONS, strict=True)]
    assert counts == {"bad_url": 1, "malformed_row": 1}
    assert "2 URLs and 3 captions" in dropped[0]["detail"]


def test_entities_in_captions_are_decoded(tmp_path):
    (tmp_path / "l.csv").write_text("url,caption\nhttp://a.example/1?x=1&amp;y=2,Tom &amp; Jerry &#8211; R&D &copy\n")
    table, _, _ = read(tmp_path / "l.csv", tmp_path / "out")
    assert pairs(table) == [("http://a.example/1?x=1&amp;y=2", "Tom & Jerry – R&D &copy")]


def test_files_that_name_their_columns_differently(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for number, (url, caption) in enumerate((("url", "caption"), ("URL", "TEXT"), ("image_url", "alt"))):
        pq.write_table(pa.table({url: URLS, caption: CAPTIONS, "n": [1, 2]}), lists / f"{number}.parquet")
    table, dropped, facts = read_all(lists, tmp_path / "out")
    assert pairs(table) == [*zip(URLS, CAPTIONS, strict=True)] * 3
    assert table.column_names[-1] == "n"
    assert (dropped, facts["url_col"], facts["caption_col"]) == ([], "url, URL, image_url", "caption, TEXT, alt")

    pq.write_table(pa.table({"where": URLS, "caption": CAPTIONS}), lists / "3.parquet")
    with pytest.raises(ConfigError, match=r"3\.parquet is known to hold URLs") as error:
        read(lists, tmp_path / "out2")
    assert "where, caption" in str(error.value)
    pq.write_table(pa.table({"url": URLS}), lists / "3.parquet")
    with pytest.raises(ConfigError, match="only some files"):
        read(lists, tmp_path / "out3")
