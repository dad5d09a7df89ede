"""What the data and evaluation sides need of a model: images and texts to unit vectors.

:class:`OpenClipEncoder` serves any folder in open_clip's hub layout (ours, or a download) and any open_clip model name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from infra.errors import DataError
from infra.run.manifest import Artifact
from infra.store import LocalStore

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["Encoder", "OpenClipEncoder", "Precision", "load_encoder"]

Precision = Literal["fp32", "bf16", "fp16"]

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")  # where open_clip's local-dir: scheme looks


class Encoder(Protocol):
    """A contrastive model as a pair of functions into one space."""

    name: str

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """RGB images of any size -> (len(images), d), rows of unit length."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """-> (len(texts), d), rows of unit length."""
        ...


class OpenClipEncoder:
    """An :class:`Encoder` over ``open_clip``: its model, its inference transform, its tokenizer, in evaluation mode.

    ``model`` is a built-in name such as ``ViT-B-32`` with ``pretrained`` a tag or checkpoint file, or
    ``local-dir:{folder}`` or ``hf-hub:{repository}``, which bring their weights along. ``precision`` below fp32 means
    autocast; features are normalised in fp32 either way. Loading open_clip takes seconds, so build one per process.

    Raises DataError if the weights are missing or do not fit the configuration: open_clip itself would go on with
    random ones.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        *,
        name: str = "",
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_size: int = 64,
    ) -> None:
        import open_clip
        import torch

        self.name = name or model
        self.device = torch.device(device)
        self.batch_size = batch_size
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        try:
            self._model, self._preprocess = open_clip.create_model_from_pretrained(model, pretrained, device=device)
        except RuntimeError as error:
            raise DataError(
                f"the weights of {self.name} cannot be used",
                expected="weights that fit the model's configuration",
                found=str(error)[:500],
                fix=f"open_clip knows: {open_clip.list_pretrained_tags_by_model(model)}" if ":" not in model else "",
            ) from error
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(model)

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature that turns cosines into logits."""
        return float(self._model.logit_scale.detach().exp())

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        import torch

        def batch(part: Sequence[Image]) -> torch.Tensor:
            return torch.stack([self._preprocess(image) for image in part])

        return self._encode(images, batch, self._model.encode_image)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encode(texts, lambda part: self._tokenizer(list(part)), self._model.encode_text)

    def _encode(
        self, items: Sequence[Any], batch: Callable[[Sequence[Any]], torch.Tensor], encode: Callable[..., torch.Tensor]
    ) -> NDArray[np.float32]:
        import numpy as np
        import torch

        if not items:
            return self.encode_texts([""])[:0]  # (0, d)
        parts = []
        with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            for start in range(0, len(items), self.batch_size):
                features = encode(batch(items[start : start + self.batch_size]).to(self.device))
                parts.append(torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy())
        return np.concatenate(parts)


def load_encoder(
    source: Artifact | str | Path,
    pretrained: str | None = None,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    batch_size: int = 64,
) -> OpenClipEncoder:
    """The encoder in a train artifact, in a folder with open_clip's layout, or under an open_clip model name.

    Raises DataError if a folder lacks the configuration or the weights.
    """
    options: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size}
    if isinstance(source, Artifact):
        name = source.manifest.name
        if isinstance(source.store, LocalStore):
            return _from_folder(source.store.path("data"), name, options)
        with tempfile.TemporaryDirectory() as folder:
            # open_clip wants config, weights and any tokenizer files side by side; training state can stay behind.
            for file in source.files("data/"):
                if file.path.count("/") == 1 and not file.path.endswith((".pt", ".jsonl")):
                    (Path(folder) / Path(file.path).name).write_bytes(source.read(file.path))
            return _from_folder(Path(folder), name, options)
    if Path(source).is_dir():
        return _from_folder(Path(source), Path(source).name, options)
    return OpenClipEncoder(str(source), pretrained, **options)


def _from_folder(folder: Path, name: str, options: dict[str, Any]) -> OpenClipEncoder:
    missing = [] if (folder / _CONFIG).is_file() else [_CONFIG]
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        missing.append("weights (open_clip_model.safetensors)")
    if missing:
        raise DataError(
            f"{name} is not a model in open_clip's layout", expected=" and ".join(missing), found=str(folder)
        )
    return OpenClipEncoder(f"local-dir:{folder}", name=name, **options)
