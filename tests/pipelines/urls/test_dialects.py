"""csv and tsv as the world writes them: what was written is read back, and every line is accounted for."""

import csv
import gzip
import io
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DataError
from pipelines.urls.dialect import decide
from pipelines.urls.formats import find_dialect, read_batches
from pipelines.urls.lines import Row
from pipelines.urls.separated import Dialect, records
from tests.pipelines.urls.listed import read_all

ROWS = 400
WORDS = ["ball", "night", "dog", "book", "snow", "bridge", "tree", "table", "café", "東京"]


def listed(caption):
    chance = random.Random(7)
    return [
        (f"https://img{n % 7}.example/{n}.jpg", caption(n, " ".join(chance.choices(WORDS, k=5)))) for n in range(ROWS)
    ]


def written(rows, header=("url", "caption"), **options):
    out = io.StringIO(newline="")
    csv.writer(out, **{"lineterminator": "\n"} | options).writerows([header, *rows])
    return out.getvalue()


def joined(rows, separator, header=("url", "caption"), end="\n"):
    return "".join(separator.join(row) + end for row in ([header] if header else []) + rows)


PLAIN = listed(lambda n, text: text)
COMMAS = listed(lambda n, text: f"{text}, {n}" if n % 3 else text)
QUOTES = listed(lambda n, text: f'she said "{text}", twice' if n % 5 == 0 else text)
LINES = listed(lambda n, text: f"{text},\nand more" if n % 7 == 0 else text)
LONE = listed(lambda n, text: f'"{text}' if n % 200 == 0 else f'{text}"' if n % 200 == 100 else text)
SPEECH = listed(lambda n, text: f'"{text}" is a song' if n % 4 == 0 else text)
CUT = [
    (f"https://img.example/{n}.jpg?crop=1,{n}" if n % 2 else f"https://img.example/{n}.jpg", None) for n in range(ROWS)
]
FLIPPED = [(caption, url) for url, caption in LONE]

FILES = {
    "plain": ("csv", joined(PLAIN, ","), PLAIN, "comma, quoted, header"),
    "separators in quotes": ("csv", written(COMMAS), COMMAS, "comma, quoted, header"),
    "doubled quotes": ("csv", written(QUOTES), QUOTES, "comma, quoted, header"),
    "all quoted": ("csv", written(QUOTES, quoting=csv.QUOTE_ALL), QUOTES, "comma, quoted, header"),
    "backslashes in quotes": (
        "csv", written(QUOTES, doublequote=False, escapechar="\\"), QUOTES, "comma, backslash, header",
    ),
    "backslashes alone": (
        "csv", written(QUOTES, quoting=csv.QUOTE_NONE, escapechar="\\", quotechar=None), QUOTES,
        "comma, backslash, header",
    ),
    "line ends in quotes": ("csv", written(LINES), LINES, "comma, quoted, header"),
    "captions first": (
        "csv", written([row[::-1] for row in LINES], ("caption", "url")), LINES, "comma, quoted, header",
    ),
    "lone quotes": ("tsv", joined(LONE, "\t"), LONE, "tab, unquoted, header"),
    "lone quotes, captions first": ("tsv", joined(FLIPPED, "\t", None), LONE, "tab, unquoted, no header"),
    "text that begins with a quotation": ("tsv", joined(SPEECH, "\t"), SPEECH, "tab, unquoted, header"),
    "semicolons": ("csv", written(COMMAS, delimiter=";"), COMMAS, "semicolon, quoted, header"),
    "tabs in a .csv": ("csv", written(COMMAS, delimiter="\t"), COMMAS, "tab, quoted, header"),
    "commas in a .tsv": ("tsv", written(COMMAS), COMMAS, "comma, quoted, header"),
    "CRLF": ("csv", written(LINES, lineterminator="\r\n"), LINES, "comma, quoted, header"),
    "a mark": ("csv", "\ufeff" + written(COMMAS), COMMAS, "comma, quoted, header"),
    "one column": ("csv", "url\n" + "".join(f"{url}\n" for url, _ in CUT), CUT, "one column, quoted, header"),
    "one column, no header": (
        "csv", "".join(f"{url}\n" for url, _ in CUT[1:]), CUT[1:], "one column, quoted, no header",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_is_read_back(name, tmp_path):
    form, text, rows, dialect = FILES[name]
    path = tmp_path / f"list.{form}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    table, dropped, facts = read_all(path, tmp_path / "out")
    captions = table["caption"].to_pylist() if "caption" in table.column_names else [None] * table.num_rows
    assert list(zip(table["url"].to_pylist(), captions, strict=True)) == rows
    assert not dropped
    assert facts["dialects"] == {dialect: 1}
    ends = text.count("\n") - (dialect[-9:] != "no header")
    assert facts["rows"] + facts.get("lines", {}).get("continued lines", 0) == len(rows) + (ends - len(rows)) == ends


def test_lone_quotes_in_a_quoted_file_are_text(tmp_path):
    lines = written(COMMAS).split("\n")
    rows = list(COMMAS)
    for n in (30, 33, 300):  # captions without a comma
        rows[n] = (rows[n][0], '"' + rows[n][1])
        lines[n + 1] = ",".join(rows[n])
    (tmp_path / "l.csv").write_text("\n".join(lines))
    table, dropped, facts = read_all(tmp_path / "l.csv", tmp_path / "out")
    assert list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)) == rows
    assert (dropped, facts["lines"]) == ([], {"quotes kept as text": 3})


CAPTIONS = st.text(st.sampled_from('ab "'), min_size=1, max_size=8)


@given(st.lists(CAPTIONS, min_size=1, max_size=30), st.booleans(), st.sampled_from(["quoted", "backslash", "unquoted"]))
def test_no_quote_swallows_a_row(captions, url_first, quoting):
    urls = [f"https://a.example/{n}" for n in range(len(captions))]
    rows = [(url, text) if url_first else (text, url) for url, text in zip(urls, captions, strict=True)]
    header = ("url", "caption") if url_first else ("caption", "url")
    data = joined(rows, "\t", header).encode()
    dialect = find_dialect(lambda: io.BytesIO(data), "tsv", "it", quoting)
    batches = list(read_batches(lambda: io.BytesIO(data), "tsv", "it", dialect=dialect))
    assert [url for batch in batches for url in batch.columns["url"]] == urls


@given(
    st.lists(st.text(st.sampled_from('a,"\\ '), max_size=8), max_size=20),
    st.sampled_from(["quoted", "backslash", "unquoted"]),
)
def test_every_line_is_accounted_for(texts, quoting):
    lines = [Row(number, text, len(text)) for number, text in enumerate(texts, start=1)]
    counts = Counter()
    rows = list(records(lines, Dialect(",", quoting, ["url", "caption"], header=1), counts))
    others = counts["blank lines"] + counts["continued lines"]
    assert len(rows) + others + bool(texts) == len(texts)
    assert [row.number for row in rows] == sorted({row.number for row in rows})


def test_a_file_quoted_in_two_ways_is_refused(tmp_path):
    text = written(COMMAS) + joined(SPEECH, ",", None)
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=r"l\.csv: the lines are quoted in two ways") as error:
        read_all(tmp_path / "l.csv", tmp_path / "out")
    assert "only if quoted" in str(error.value)
    _, dropped, facts = read_all(tmp_path / "l.csv", tmp_path / "out2", quoting="quoted")
    assert (dropped, facts["rows"], facts["kept"]) == ([], 2 * ROWS, 2 * ROWS)
    assert facts["lines"] == {"quotes kept as text": ROWS // 4}


REFUSED = {
    "CR alone": (joined(PLAIN, ",", end="\r").encode(), "carriage return alone"),
    "UTF-16": (written(PLAIN).encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (written(PLAIN).encode("utf-16-le"), "UTF-16"),
    "gzip": (gzip.compress(written(PLAIN).encode()), "gzip"),
    "xlsx": (b"PK\x03\x04" + bytes(100), "xlsx"),
    "an error page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "an HTML page"),
    "separators in no quotes": (b"url,caption\nhttps://a.example/1.jpg?crop=1,2,a fox\n", "3 fields, not 2"),
    "a URL with commas, or a URL and a word": (b"https://a.example/1.jpg,2\nhttps://a.example/2.jpg,3\n", "unclear"),
    "empty": (b"", "is empty"),
    "blank": (b"\n\n \n", "is empty"),
    "a header": (b"url,caption\n", "has a header and no rows: url, caption"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_dialect_reads_is_refused(name, tmp_path):
    data, message = REFUSED[name]
    (tmp_path / "l.csv").write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_all(tmp_path / "l.csv", tmp_path / "out")
    assert "l.csv" in str(error.value)


def test_an_empty_file_among_others_is_named(tmp_path, caplog):
    for number, text in enumerate((joined(PLAIN, ","), "", "url,caption\n")):
        (tmp_path / f"{number}.csv").write_text(text)
    table, _, facts = read_all(tmp_path, tmp_path / "out")
    assert (table.num_rows, facts["files"]) == (ROWS, 3)
    assert "1.csv is empty" in caplog.text
    assert "2.csv has a header and no rows" in caplog.text


def test_the_usual_separator_wins_where_two_fit():
    text = ["url,caption|more", *(f"https://a.example/{n},a fox|a dog" for n in range(9))]
    lines = [Row(number, line, len(line)) for number, line in enumerate(text, start=1)]
    assert decide(lines, ",").separator == ","
