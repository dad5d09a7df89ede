"""The reckoning for ten billion pairs: by hand where that is easy, and the table of the docs is what it prints."""

from pathlib import Path

import pytest

from tests.benchmarks.ten_billion import Funnel, Prices, Stage, stages, table

DOCS = Path(__file__).parents[2] / "docs/scale.md"


def test_a_stage_by_hand():
    one = Stage("download", rows=3.6e9, core_us=1000, gpu_us=0, stored=1000, source="")
    assert (one.core_hours, one.gpu_hours, one.terabytes) == pytest.approx((1000, 0, 3.6))
    prices = Prices(core_hour=0.05, gpu_hour=4, gb_month=0.02, months=3)
    assert one.dollars(prices) == pytest.approx(1000 * 0.05 + 3600 * 0.02 * 3)
    on_gpu = Stage("embed", rows=3.6e9, core_us=1000, gpu_us=500, stored=0, source="")
    assert on_gpu.dollars(prices) == pytest.approx(500 * 4)  # its cores come with it


def test_what_is_not_fetched_costs_no_download():
    all_of_it, a_third = (
        {one.name: one.rows for one in stages(3e9, Funnel(worth_fetching=share))} for share in (1, 1 / 3)
    )
    assert a_third["download, image there"] == pytest.approx(all_of_it["download, image there"] / 3)
    assert a_third["filter of pairs"] == all_of_it["filter of pairs"] == 3e9


def test_the_docs_have_the_table_it_prints():
    assert "\n".join(table(1e10, Funnel(), Prices())) in DOCS.read_text()
