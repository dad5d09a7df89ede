"""The recipe ``url_list``: stage by stage over a small site, from a LAION-like list to training shards."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import answer, serving
from PIL import Image

from infra.errors import ConfigError
from infra.run.context import Context
from infra.run.manifest import Artifact
from workflows.recipe import load


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).resize((240, 220), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def site():
    """A server of images, those with an odd number failing once with 503: its port, and what was asked for."""
    busy = answer(b"", "503 Service Unavailable")
    routes = {f"/{n}.jpg": [busy, answer(jpeg(n))] if n % 2 else answer(jpeg(n)) for n in range(10)}
    with serving(routes) as served:
        yield served.port, served.asked


def build(tmp_path, port=1, **parameters):
    rows = [{"URL": f"http://img.example/{n}.jpg", "TEXT": f"a picture of number {n}", "NSFW": "no"} for n in range(10)]
    rows.append({"URL": "nonsense", "TEXT": "nothing at all", "NSFW": "no"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    values = {
        "url_list": str(tmp_path / "list.parquet"),
        "connect_to": {"*.example": f"127.0.0.1:{port}"},
        **parameters,
    }
    return load("url_list").function(**values)


def test_from_a_list_over_a_retry_to_shards(ray_cluster, site, tmp_path):
    port, asked = site
    workflow = build(tmp_path, port, samples_per_shard=4, retry=["http_error"], train=True, image_size=64)
    patient = {"retries": 0, "host_concurrency": 8}  # the fetcher's own retries would hide ours
    done: dict[str, Artifact] = {}
    for stage in workflow.stages[: [stage.name for stage in workflow].index("shard") + 1]:
        config = stage.config
        if stage.name in ("download", "retry"):
            config = config.replace(web=config.web.replace(**patient))
        context = Context(tmp_path / stage.name, location=config.location())
        inputs = {name: done[source.name] for name, source in stage.inputs.items()}
        done[stage.name] = Artifact(context.store, stage.run(config, inputs, context))

    funnels = {name: artifact.manifest.funnel for name, artifact in done.items()}
    assert (funnels["urls"].kept, funnels["urls"].dropped) == (10, {"bad_url": 1})
    assert (funnels["download"].kept, funnels["download"].dropped) == (5, {"http_error": 5})
    assert (funnels["retry"].entered, funnels["retry"].kept) == (5, 5)
    assert funnels["filter"].entered == funnels["download"].kept + funnels["retry"].kept
    assert funnels["shard"].kept == funnels["balance"].kept
    names = [file.path for stage in ("download", "retry") for file in done[stage].files("data/", ".parquet")]
    assert names == [f"data/{number:05d}.parquet" for number in range(5)]
    assert {asked.count(f"img.example/{n}.jpg") for n in range(0, 10, 2)} == {1}
    kept = [row for file in done["dedup"].files("data/kept-") for row in
            pq.read_table(io.BytesIO(done["dedup"].read(file.path))).to_pylist()]  # fmt: skip
    assert sorted(row["caption"] for row in kept) == [f"a picture of number {n}" for n in range(10)]


def test_it_stops_at_the_images_unless_asked(tmp_path):
    assert [stage.name for stage in build(tmp_path)] == ["list", "urls", "download"]
    assert [stage.name for stage in build(tmp_path, retry=["timeout"])] == ["list", "urls", "download", "retry"]
    assert [stage.name for stage in build(tmp_path, train=True)][-3:] == ["train", "embed", "retrieval"]
    one, other = build(tmp_path), build(tmp_path, image_size=128)
    assert one["urls"].digest == other["urls"].digest
    assert one["download"].digest != other["download"].digest
    (tmp_path / "list.parquet").rename(tmp_path / "moved.parquet")
    moved = load("url_list").function(url_list=str(tmp_path / "moved.parquet"))
    assert moved["urls"].digest == one["urls"].digest
    with pytest.raises(ConfigError, match="retry"):
        build(tmp_path, retry=["bad luck"])
