"""Encode images and texts as unit vectors with any open_clip model.

:class:`Encoder` is what filters and evaluation tasks are written against. :func:`load_encoder` makes one of a folder in
open_clip's hub layout (ours, or a download), of a checkpoint file, or of a built-in model with published weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from infra.errors import ConfigError, DataError
from infra.run.manifest import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from infra.open_clip_encoder import OpenClipEncoder

__all__ = ["Encoder", "Precision", "check_architecture", "load_encoder"]

Precision = Literal["fp32", "bf16", "fp16"]

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")  # where open_clip's local-dir: scheme looks
_TRAINING = (".pt", ".jsonl")  # files beside a configuration and weights that open_clip does not need
_CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")


class Encoder(Protocol):
    """A contrastive model: two functions into one space. ``batch_size``: inputs it encodes at once."""

    name: str
    batch_size: int

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature that turns cosines into logits."""
        ...

    def encode_images(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Encode RGB images of any size: (len(images), d), rows of unit length. Holds one batch of them at a time."""
        ...

    def encode_texts(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Encode texts: (len(texts), d), rows of unit length."""
        ...


def check_architecture(name: str) -> None:
    """Raise ConfigError unless open_clip has a model of that name. Reads its files only: importing it loads torch."""
    open_clip = find_spec("open_clip")
    if open_clip is None or open_clip.origin is None:
        return
    known = sorted(path.stem for path in Path(open_clip.origin).parent.glob("model_configs/*.json"))
    if name not in known:
        near = ", ".join(get_close_matches(name, known, n=3))
        raise ConfigError(
            f"open_clip has no model {name!r}",
            expected="one of open_clip.list_models()",
            fix=f"did you mean {near}?" if near else "",
        )


def load_encoder(
    source: Artifact | str | Path,
    pretrained: str | None = None,
    *,
    model: str | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    batch_size: int = 64,
) -> OpenClipEncoder:
    """Load the encoder of a trained or adopted model, of a folder or checkpoint file, or of a built-in open_clip name.

    ``model`` is the name of the architecture where ``source`` is a bare checkpoint, which does not say it;
    ``pretrained`` the tag of the weights where ``source`` is a built-in name.

    Raises DataError if the configuration or the weights are missing or do not fit each other.
    """
    options = _Options(device, precision, batch_size)
    if isinstance(source, Artifact):
        with tempfile.TemporaryDirectory() as folder:
            # open_clip loads the weights whole, so that nothing needs the folder afterwards.
            return _from_path(_gather(source, Path(folder)), model, source.manifest.name, options)
    if Path(source).exists():
        return _from_path(Path(source), model, Path(source).name, options)
    return options.encoder(str(source), pretrained)


@dataclass(frozen=True)
class _Options:
    device: str
    precision: Precision
    batch_size: int

    def encoder(self, model: str, pretrained: str | None, name: str = "") -> OpenClipEncoder:
        from infra.open_clip_encoder import OpenClipEncoder

        return OpenClipEncoder(
            model,
            pretrained,
            name=name,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
        )


def _gather(artifact: Artifact, folder: Path) -> Path:
    """Bring a model's files side by side into ``folder``, as open_clip wants them; return it, or its one checkpoint.

    Files on a local disk are linked, others copied. Subfolders and, beside a configuration, training state stay behind.
    """
    names = [file.path.removeprefix("data/") for file in artifact.files("data/") if file.path.count("/") == 1]
    complete = _CONFIG in names
    for name in names:
        if not (complete and name.endswith(_TRAINING)):
            (folder / name).symlink_to(artifact.local(f"data/{name}", folder / ".fetched").absolute())
    checkpoints = [name for name in names if name.endswith(_CHECKPOINTS)]
    if complete or not checkpoints:
        return folder
    if len(checkpoints) > 1:
        raise DataError(
            f"{artifact.manifest.name} has several checkpoints",
            expected=f"one checkpoint file, or {_CONFIG} and weights",
            found=", ".join(checkpoints),
            fix="adopt the checkpoint file itself, not its folder",
        )
    return folder / checkpoints[0]


def _from_path(path: Path, model: str | None, name: str, options: _Options) -> OpenClipEncoder:
    """The encoder in a folder of open_clip's layout or in a checkpoint file."""
    if path.is_file():
        if model is None:
            raise DataError(
                f"the checkpoint {name} does not say of what architecture it is",
                expected="open_clip's name of its model beside it, such as ViT-B-32",
                found=path.name,
                fix=f"name the model, or put the weights into a folder with {_CONFIG}",
            )
        return options.encoder(model, str(path), name)
    missing = [] if (path / _CONFIG).is_file() else [_CONFIG]
    if not any(found for pattern in _WEIGHTS for found in path.glob(pattern)):
        missing.append("weights (open_clip_model.safetensors)")
    if missing:
        raise DataError(f"{name} is not a model in open_clip's layout", expected=" and ".join(missing), found=str(path))
    return options.encoder(f"local-dir:{path}", None, name)
