"""The boundary around a row: what is the row's own, what is not, and how much of it a stage bears."""

import errno
import struct
import zlib

import pytest

from infra import rows
from infra.errors import CliplineError, DataError, Preempted, StageFailed, StorageError, TransientError
from infra.rows import RowErrors, counted, named, row_error, total
from infra.run.context import Context, ShardOutput
from infra.run.manifest import Funnel


class Odd(Exception):
    """Of a library nobody has heard of."""


def raised(error):
    def inner():
        raise error

    try:
        inner()
    except Exception as caught:  # noqa: BLE001 - any
        return caught


@pytest.mark.parametrize(
    "error",
    [
        *(IndexError("at 7"), KeyError("x"), struct.error("short"), zlib.error("bad"), RecursionError(), MemoryError()),
        *(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"), DataError("a stored image"), Odd(), OSError("cut")),
        *(OSError(errno.EINVAL, "a year of ten digits"), OverflowError(), AssertionError(), NotImplementedError()),
    ],
)
def test_whatever_the_row_holds_is_the_row_s(error, monkeypatch, caplog):
    """By its type and its place, and in the log once."""
    monkeypatch.setattr(rows, "_seen", set())
    for _ in range(3):
        assert row_error(raised(error)) == f"{type(error).__name__} in inner"
    assert [record.exc_info[1] for record in caplog.records] == [error]


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in (errno.ENOSPC, errno.EMFILE, errno.EIO, errno.EROFS, errno.EDQUOT)),
        *(TransientError("later"), StorageError("gone"), Preempted("stop"), StageFailed("x"), CliplineError("x")),
    ],
)
def test_what_would_end_every_row_is_none_s(error):
    with pytest.raises(type(error)):
        row_error(raised(error))


def shard(context, number, rows_in_it, errors, funnel=True):
    output = ShardOutput(context.store, f"{number:05d}")
    account = Funnel(
        unit="rows", entered=rows_in_it, kept=rows_in_it - len(errors), dropped={"unforeseen_error": len(errors)}
    )
    return output.commit(account if funnel else None, counted(errors, None if funnel else rows_in_it))


@pytest.mark.parametrize("funnel", [True, False])
def test_a_stage_bears_a_few_and_a_small_share(tmp_path, funnel):
    context = Context(tmp_path)
    few = RowErrors(0.01)
    for number in range(10):
        few.add(shard(context, number, 1, ["KeyError in f"], funnel), context.ledger)
    share = RowErrors(0.01)
    share.add(shard(context, 20, 9000, [], funnel), context.ledger)
    share.add(shard(context, 21, 1000, ["KeyError in f"] * 70 + ["Odd in g"] * 30, funnel), context.ledger)
    with pytest.raises(StageFailed, match="101 of 10010 rows") as caught:
        share.add(shard(context, 22, 10, ["Odd in g"], funnel), context.ledger)
    assert caught.value.found == "KeyError in f 70, Odd in g 31"
    # The shards with such rows are repeated by the next run.
    assert set(context.ledger.read()) == {f"{number:05d}" for number in range(10)} | {"00020"}


def test_the_manifest_names_them(tmp_path, caplog):
    context = Context(tmp_path)
    records = [shard(context, 0, 10, ["A in f", "B in g", "B in g"]), shard(context, 1, 10, [])]
    manifest = context.finish(records, facts={"files": 2})
    assert manifest.facts == {"files": 2, "unforeseen": {"B in g": 2, "A in f": 1}}
    assert "3 rows ended with errors nobody foresaw: B in g 2, A in f 1" in caplog.text
    assert context.finish(records[1:]).facts == {}
    assert total(records[1:]) == {}
    assert named({"A": 4000, "B": 3, "C": 2, "D": 1}) == "A 4,000, B 3, C 2, ..."
