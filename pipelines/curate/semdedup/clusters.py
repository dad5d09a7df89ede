"""Clusters of vectors: k-means of a sample, by faiss, and the cluster of each row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.exchange import UP, Task
from infra.formats.shards import shard_name
from infra.formats.vectors import Floats
from infra.hashing import hash64
from infra.run.context import Output
from infra.run.manifest import Artifact
from pipelines.curate.dedup.homes import part_of, row_numbers
from pipelines.curate.embedded import input_rows, vector_places
from pipelines.curate.semdedup.config import Config
from pipelines.curate.vectors import chunks, gathered, packed, unpacked

__all__ = ["CENTROIDS", "assign", "learn", "send_sample"]

CENTROIDS = "semdedup/centroids.npy"  # in the artifact's folder until all is done


def send_sample(config: Config, inputs: Mapping[str, Artifact], share: float, task: Task) -> None:
    """Stream ``sample``: the vectors of a share of the rows, drawn by hashes of their ids."""
    rows, uids, vectors = _vectors(config, inputs, task)
    limit = int(share * 2**64)
    drawn = np.fromiter((hash64(f"{config.seed}/{uid}") < limit for uid in uids), np.bool_, len(uids))
    sample = pa.table({"row": pa.array(rows[drawn], pa.int64()), "vector": packed(vectors[drawn])})
    task.send("sample", sample, np.zeros(sample.num_rows, np.int64))


def learn(config: Config, share: float, task: Task) -> None:
    """Write the centroids of the sample, which is that ``share`` of the rows: (k, d) float32.

    They are as many as wanted and there are rows for, and more where a cluster would be oversized.
    """
    sample = unpacked(task.receive("sample", [("row", UP)])["vector"])
    centroids = _divided(config, sample, _k_means(config, sample, task.spec), config.max_compared * share)
    with Output(task.output.store).open(CENTROIDS) as sink:
        np.lib.format.write_array(sink, centroids)
    task.facts["clusters"] = len(centroids)


def _divided(config: Config, sample: Floats, centroids: Floats, most: float) -> Floats:
    """The centroids; those of clusters that have more than ``most`` of the sample are divided, by k-means inside.

    A cluster of equal vectors stays as it is.
    """
    cluster, _ = nearest(sample, centroids)
    found = []
    for number, centroid in enumerate(centroids):
        own = sample[cluster == number]
        parts = _k_means(config, own, math.ceil(2 * len(own) / most)) if len(own) > max(most, 1) else centroid[None]
        # Of those that k-means cannot divide, one has all of the cluster.
        divides = len(parts) > 1 and np.bincount(nearest(own, parts)[0]).max() < len(own)
        found.append(_divided(config, own, parts, most) if divides else centroid[None])
    return np.concatenate([sample[:0], *found])


def _k_means(config: Config, sample: Floats, count: int) -> Floats:
    """``count`` centroids of a sample, on the sphere; the sample itself if it has no more: (k, d)."""
    if len(sample) <= count:
        return sample
    faiss.omp_set_num_threads(1)  # of another number of threads sums could differ in their last bits
    options = {"niter": config.iterations, "seed": config.seed, "spherical": True}
    # All of the sample counts, and however small it is, there is no warning.
    sizes = {"min_points_per_centroid": 1, "max_points_per_centroid": len(sample)}
    kmeans = faiss.Kmeans(sample.shape[1], count, **options, **sizes)
    kmeans.train(sample)
    return np.asarray(kmeans.centroids)


def assign(config: Config, inputs: Mapping[str, Artifact], parts: int, task: Task) -> None:
    """Stream ``members``: each row that has a vector, with its cluster and its cosine with the centroid."""
    with task.output.store.open(CENTROIDS) as source:
        centroids: Floats = np.load(source, allow_pickle=False)
    rows, uids, vectors = _vectors(config, inputs, task)
    cluster, cosine = nearest(vectors, centroids)
    members = pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "uid": pa.array(uids, pa.string()),
            "cluster": pa.array(cluster, pa.int32()),
            "centrality": pa.array(cosine, pa.float32()),
            "vector": packed(vectors),
        }
    )
    task.send("members", members, part_of(members["cluster"], parts))


def nearest(vectors: Floats, centroids: Floats) -> tuple[NDArray[np.int64], Floats]:
    """For each vector the centroid of the highest cosine, and that cosine; without centroids, number 0."""
    found, cosines = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    for part in chunks(len(vectors), 1024) if len(centroids) else []:
        products = vectors[part] @ centroids.T
        found[part] = products.argmax(axis=1)
        cosines[part] = products.max(axis=1)
    return found, cosines


def _vectors(config: Config, inputs: Mapping[str, Artifact], task: Task) -> tuple[NDArray[Any], list[str], Floats]:
    """Numbers, ids and vectors of the rows of a task's shards that have a vector."""
    numbers, uids = [np.empty(0, np.int64)], list[str]()
    tables = [(shard, input_rows(inputs, shard, path)) for shard, path in task.spec]
    wanted = {uid for _, rows in tables for uid in rows["uid"].to_pylist()}
    vectors = gathered(inputs["embeddings"], config.embedding, [shard_name(shard) for shard, _ in tables], wanted)
    taken = [np.empty(0, np.int64)]
    for shard, rows in tables:
        places = vector_places(rows, vectors)
        there = places >= 0
        numbers.append(row_numbers(shard, rows.num_rows)[there])
        taken.append(places[there])
        uids += rows["uid"].filter(pa.array(there)).to_pylist()
    return np.concatenate(numbers), uids, vectors.images[np.concatenate(taken)]
