"""Send files to MLflow: images with a slider over steps, tables, figures and small results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from mlflow import MlflowClient
from PIL import Image

from infra.errors import DataError
from infra.run.manifest import Artifact, File

__all__ = ["Files"]

_SMALL = 1 << 20  # bytes: results up to this size are copied into MLflow
_ROWS = 1000  # of a table that people read


class Files:
    """The files of the MLflow runs of one client."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._images: dict[str, set[tuple[str, int]]] = {}  # of each run: name and step

    def log_image(self, run: str, name: str, step: int, time: float, path: Path) -> None:
        """Show the image at ``step`` of the slider called ``name``, once; ``time`` in seconds since the epoch."""
        key = re.sub(r"[^a-zA-Z0-9_\-. ]", "_", name)  # what MLflow allows, and no slash: it would be spelled otherwise
        if run not in self._images:
            self._images[run] = self._logged(run)
        if (key, step) not in self._images[run]:
            image = _load(path)
            self._client.log_image(run, image, key=key, step=step, timestamp=int(time * 1000), synchronous=True)
            self._images[run].add((key, step))

    def _logged(self, run: str) -> set[tuple[str, int]]:
        """Name and step of each image of the run, from the names that MLflow gives to their files."""
        names = [file.path.removeprefix("images/").split("+") for file in self._client.list_artifacts(run, "images")]
        return {(parts[0], int(parts[2])) for parts in names if len(parts) > 2 and parts[1] == "step"}

    def log_results(self, run: str, artifact: Artifact, scratch: Path) -> None:
        """Copy an artifact's figures, small results, and tables of scores as MLflow's own tables."""
        for file in artifact.files("figures/"):
            self._client.log_artifact(run, str(artifact.local(file.path, scratch)), "figures")
        for file in artifact.files("data/", ".json"):
            if _is_small(file) and not file.path.endswith("_stats.json"):
                self._client.log_artifact(run, str(artifact.local(file.path, scratch)), "results")
        if names := artifact.manifest.facts.get("tables"):
            self._log_tables(run, artifact, names, scratch)

    def _log_tables(self, run: str, artifact: Artifact, names: Sequence[str], scratch: Path) -> None:
        there = {file.path for file in self._client.list_artifacts(run, "tables")}  # MLflow would append to them
        for name in names:
            path = f"tables/{name}.json"
            for file in artifact.files(f"data/{name}.parquet"):
                if _is_small(file) and 0 < (file.rows or 0) <= _ROWS and path not in there:
                    table = pq.read_table(artifact.local(file.path, scratch))
                    self._client.log_table(run, table.to_pandas(), path)


def _load(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except OSError as error:
        raise DataError(f"{path.name} is no image", found=str(error)) from error


def _is_small(file: File) -> bool:
    """True for a file of the artifact as a whole, not of a shard, that can be copied without a thought."""
    return file.path.count("/") == 1 and file.bytes <= _SMALL
