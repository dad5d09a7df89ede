"""Contents that scores read: vectors of images and captions, and the weights of small networks on them."""

from __future__ import annotations

from collections.abc import Sequence

from infra.errors import DataError
from infra.formats.weights import ENDINGS, read_shapes
from infra.store import Store
from pipelines.adopt.contents import Contents, parquet_rows

__all__ = ["Embeddings", "Weights"]


class Embeddings(Contents):
    """Vectors of images and captions, as DataComp publishes them and clipline's embed stage writes them."""

    holds = ("embeddings",)
    layout = "*.npz with arrays NAME_img and NAME_txt, each beside a *.parquet with a column uid"

    def pick(self, paths: Sequence[str]) -> list[str]:
        arrays = [path for path in paths if path.endswith(".npz")]
        tables = {f"{path.removesuffix('.npz')}.parquet" for path in arrays}
        return arrays + [path for path in paths if path in tables]

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        tables = [path for path in paths if path.endswith(".parquet")]
        stems = {path.removesuffix(".parquet") for path in tables}
        if alone := {path.removesuffix(".npz") for path in paths if path.endswith(".npz")} - stems:
            raise DataError(
                f"{len(alone)} files of vectors at {store.url} have no table of their rows",
                expected=f"{min(alone)}.parquet with a column uid",
            )
        return parquet_rows(store, tables, ("uid",))


class Weights(Contents):
    """A state dict of a small network, such as a published head on CLIP's embeddings."""

    holds = ("weights",)
    layout = "one *.safetensors, *.pt, *.pth or *.bin"

    def pick(self, paths: Sequence[str]) -> list[str]:
        found = [path for path in paths if path.endswith(ENDINGS)]
        return found if len(found) == 1 else []

    def check(self, store: Store, paths: Sequence[str]) -> dict[str, int]:
        read_shapes(store, paths[0])  # whether they fit is seen when they are used
        return {}
