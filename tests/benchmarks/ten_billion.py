"""What ten billion pairs take, from the pages to a model: hours, storage and dollars, a row for each stage.

    python -m tests.benchmarks.ten_billion [--pairs 1e10] [--core-hour 0.045] [--gpu-hour 3.9] [--gb-month 0.023]

Every figure is a rate measured on small data (``Stage.source`` says where) times the rows that reach the stage, so it
assumes that cost grows with the rows; docs/scale.md, whose table this prints, says where that is known and where not.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from tests.benchmarks.cost import Machine, Model, estimate

GPUS = 64  # of the training
SAMPLES = 12.8e9  # seen by it
B32 = Model(parameters=151e6, forward_flops=14.78e9, width=512)


@dataclass(frozen=True)
class Prices:
    """Dollars: list prices of 2026 in the United States, on demand; of a core (vCPU), an H100 and stored data."""

    core_hour: float = 0.045
    gpu_hour: float = 3.9
    gb_month: float = 0.023
    months: float = 3.0  # that what is written is kept


@dataclass(frozen=True)
class Funnel:
    """Shares of the pairs that reach each stage, of all pairs. Nobody's promise: your pool has its own."""

    pairs_per_page: float = 10.0
    worth_fetching: float = 1.0  # by a filter before the download
    there: float = 0.75  # 15% to 30% of links are dead (Common Crawl's and LAION's lists)
    filtered: float = 0.30  # of the images that came: basic rules
    unique: float = 0.80  # of those
    chosen: float = 0.50  # of those, by score
    balanced: float = 0.70  # of those


@dataclass(frozen=True)
class Stage:
    """``rows`` that enter it, and what one costs: microseconds of a core and of a GPU, bytes kept on disk."""

    name: str
    rows: float
    core_us: float
    gpu_us: float
    stored: float
    source: str

    @property
    def core_hours(self) -> float:
        return self.rows * self.core_us / 3.6e9

    @property
    def gpu_hours(self) -> float:
        return self.rows * self.gpu_us / 3.6e9

    @property
    def terabytes(self) -> float:
        return self.rows * self.stored / 1e12

    def dollars(self, prices: Prices) -> float:
        """A GPU is rented with its cores."""
        stored = self.terabytes * 1e3 * prices.gb_month * prices.months
        hours = self.gpu_hours * prices.gpu_hour if self.gpu_us else self.core_hours * prices.core_hour
        return hours + stored


def stages(pairs: float, funnel: Funnel) -> list[Stage]:
    """The way of ``pairs`` through clipline, one row of them as long as the benchmarks' rows."""
    fetched = pairs * funnel.worth_fetching
    images = fetched * funnel.there
    filtered = images * funnel.filtered
    unique = filtered * funnel.unique
    chosen = unique * funnel.chosen
    balanced = chosen * funnel.balanced
    training = 1e6 * GPUS / estimate(B32, Machine(), GPUS, 512).samples_per_s
    cores = Machine().cores
    return [
        Stage("extract (WAT)", pairs / funnel.pairs_per_page, 1e6 / 9000, 0, 200 * funnel.pairs_per_page, "web.md"),
        Stage("filter of pairs", pairs, 57, 0, 200, "filter, 970k rows, less its old language id"),
        Stage("download, image there", images, 3000, 0, 35_000, "web.md; bytes: DataComp's 12.8B are 450 TB"),
        Stage("download, image gone", fetched - images, 800, 0, 0, "the client alone, in process"),
        Stage("filter of images", images, 57, 0, 300, "as above; no pixel rules"),
        Stage("dedup: signatures", filtered, 1116, 0, 0, "near_duplicates"),
        Stage("dedup: search, 2 keys", filtered, 31, 0, 300, "curation.md, 10M rows"),
        Stage("embed", unique, cores * 1e6 / 900, 1e6 / 900, 2 * 512 * 2, "a goal, 900 images/s a GPU"),
        Stage("score, clip_score", unique, 20, 0, 300, "a guess: one product of vectors, files read"),
        Stage("filter by score", unique, 3, 0, 300, "filter shares, 10M rows"),
        Stage("balance", chosen, 70, 0, 300, "735k rows in 51 CPU s"),
        Stage("shard", balanced, 131, 0, 35_000, "3M rows in 393 CPU s, busy machine"),
        Stage("train ViT-B/32", SAMPLES, cores * training, training, 0, "cost.py, 64 H100 at 40% of peak"),
    ]


def table(pairs: float, funnel: Funnel, prices: Prices) -> list[str]:
    """The stages as a table in Markdown."""
    lines = ["| stage | rows | us a row | core hours | GPU hours | TB kept | dollars | the rate is of |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    found = stages(pairs, funnel)
    for one in found:
        gpu = f" + {one.gpu_us:,.0f} GPU" if one.gpu_us else ""
        numbers = f"{one.core_hours:,.0f} | {one.gpu_hours:,.0f} | {one.terabytes:,.1f} | {one.dollars(prices):,.0f}"
        lines.append(f"| {one.name} | {one.rows / 1e9:.2f}B | {one.core_us:,.0f}{gpu} | {numbers} | {one.source} |")
    columns = zip(*((one.core_hours, one.gpu_hours, one.terabytes, one.dollars(prices)) for one in found), strict=True)
    cores, gpus, stored, dollars = map(sum, columns)
    lines.append(f"| all | | | {cores:,.0f} | {gpus:,.0f} | {stored:,.1f} | {dollars:,.0f} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=float, default=1e10)
    for name in ("core_hour", "gpu_hour", "gb_month", "months"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Prices, name))
    for name in ("worth_fetching", "there", "filtered", "unique", "chosen", "balanced"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Funnel, name))
    given = vars(parser.parse_args())
    prices = Prices(**{name: given[name] for name in Prices.__dataclass_fields__})
    funnel = Funnel(**{name: given[name] for name in Funnel.__dataclass_fields__ if name in given})
    print("\n".join(table(given["pairs"], funnel, prices)))


if __name__ == "__main__":
    main()
