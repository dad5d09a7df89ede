"""The encoder of open_clip's models, and where it is loaded from. Importing it loads torch, which takes seconds.

:func:`load_encoder` takes a folder in open_clip's hub layout (ours, or a download), a checkpoint file, or the name of a
built-in model with published weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from safetensors import SafetensorError

from infra.encoder import Precision
from infra.encoder.patch_features import PatchFeatures
from infra.errors import DataError
from infra.formats.architecture import CONFIG, check_fits, read_model_config
from infra.formats.text_tower import on_hub, with_own_tower
from infra.formats.weights import ENDINGS, in_order, read_shapes
from infra.hub import part_out_of_reach, unreachable
from infra.run.manifest import Artifact
from infra.store import open_store

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["OpenClipEncoder", "Preparation", "load_encoder"]

_CPU_BATCH = 32  # activations of more leave the cache: EfficientNet-Lite0 29 ms an image in batches of 64, 26 of these
_TRAINING = (".pt", ".jsonl")  # files beside a configuration and weights that open_clip does not need

T = TypeVar("T")


class Preparation:
    """Resize and crop an image as open_clip's inference ``transform`` does: (h, w, 3). Many threads may call it.

    It ends with bytes: ``normalise`` is left to the device, which gets a quarter of what floats would be.
    """

    def __init__(self, transform: Any) -> None:  # noqa: ANN401 - torchvision's Compose, which has no types
        *self._resizing, _, self.normalise = transform.transforms  # between them: bytes to floats

    def __call__(self, image: Image) -> NDArray[np.uint8]:
        for transform in self._resizing:
            image = transform(image)
        return np.asarray(image)


class OpenClipEncoder:
    """An :class:`Encoder` of open_clip's model, inference transform (``prepare``) and tokenizer, in evaluation mode.

    ``model`` is a built-in name such as ``ViT-B-32`` with ``pretrained`` a tag or checkpoint file, or
    ``local-dir:{folder}`` or ``hf-hub:{repository}``, which bring their weights along. ``precision`` below fp32 means
    autocast; features are l2-normalised in fp32 either way. Loading open_clip takes seconds, so build one per process.

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
        self.name = name or model
        self.device = torch.device(device)
        self.batch_size = min(batch_size, _CPU_BATCH) if self.device.type == "cpu" else batch_size
        if pretrained is not None and Path(pretrained).is_file():
            _check(Path(pretrained), model)
        elif pretrained is not None:
            _check_activation(model, pretrained)
            _check_reachable(self.name, model, pretrained)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        try:
            self.model, preprocess = open_clip.create_model_from_pretrained(model, pretrained, device=device)
        # Published weights, or a text tower of Hugging Face's, whose files are on a hub and not in its cache.
        except (OSError, ImportError) as error:
            raise _needs_hub(self.name, "text tower" if model.startswith("local-dir:") else "weights", error) from error
        # RuntimeError, AssertionError: unknown names, weights that do not fit. The others: no checkpoint at all.
        except (RuntimeError, AssertionError, LookupError, EOFError, UnpicklingError, SafetensorError) as error:
            if "transformers" in str(error):  # is not installed
                raise _needs_hub(self.name, "text tower", error) from error
            tags = open_clip.list_pretrained_tags_by_model(model)
            raise DataError(
                f"the weights of {self.name} cannot be used",
                expected="weights that fit the model's configuration",
                found=f"{type(error).__name__}: {error}"[:500],
                fix="" if ":" in model or Path(pretrained or "").is_file() else f"open_clip knows: {tags}",
            ) from error
        self.model.eval()
        try:
            self._tokenizer = open_clip.get_tokenizer(model)
        except (OSError, ImportError, ValueError) as error:
            raise _needs_hub(self.name, "tokenizer", error) from error
        self.prepare = Preparation(preprocess)

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature that turns cosines into logits."""
        return float(self.model.logit_scale.detach().exp())

    def encode_images(self, images: Iterable[Image]) -> NDArray[np.float32]:
        return self.encode_prepared(map(self.prepare, images))

    def encode_prepared(self, pixels: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Encode images that :meth:`prepare` has made: (n, d), rows of unit length."""
        return self._encode(pixels, images=True)

    def encode_texts(self, texts: Iterable[str]) -> NDArray[np.float32]:
        return self._encode(texts, images=False)

    def _encode(self, items: Iterable[Any], *, images: bool) -> NDArray[np.float32]:
        encode = self.model.encode_image if images else self.model.encode_text
        parts = []
        with self.inference():
            for part in _batched(items, self.batch_size):
                batch = self.pixels(part) if images else self.tokenize(part).to(self.device)
                parts.append(torch.nn.functional.normalize(encode(batch).float(), dim=-1).cpu().numpy())
        return np.concatenate(parts) if parts else self.encode_texts([""])[:0]  # (0, d)

    def encode_patches(self, images: Iterable[Image], way: PatchFeatures) -> Iterator[NDArray[np.float32]]:
        """Encode the patches of images, one image after the other: (rows, columns, d), of unit length.

        The whole image is scaled to the model's size, whatever its own shape, so that patch (row, column) of (rows,
        columns) covers that part of it. Raises DataError for a model without such patches.
        """
        for part in _batched(images, self.batch_size):
            side = self.model.visual.image_size
            size = (side, side) if isinstance(side, int) else (side[1], side[0])
            pixels = [np.asarray(image.convert("RGB").resize(size, Resampling.BICUBIC)) for image in part]
            with self.inference():
                patches = way.features(self.model, self.pixels(pixels)).float()
            yield from torch.nn.functional.normalize(patches, dim=-1).cpu().numpy()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without gradients, in the encoder's precision."""
        with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            yield

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """The tokens of texts as the model takes them, on the CPU: (len(texts), context)."""
        tokens: torch.Tensor = self._tokenizer(list(texts))
        return tokens

    def detokenize(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Tokens as texts, without blanks around. Raises DataError for a tokenizer that does not go both ways."""
        if not hasattr(self._tokenizer, "decode"):
            raise DataError(
                f"the tokenizer of {self.name} makes no texts of tokens",
                expected="CLIP's tokenizer",
                found=type(self._tokenizer).__name__,
            )
        return [str(self._tokenizer.decode(row)).strip() for row in tokens]

    def is_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Mask of the texts longer than the model's context, which sees their beginning only: (len(texts),)."""
        seen = self.tokenize([*texts, ""])
        longer: torch.Tensor = self._tokenizer([*texts, ""], context_length=seen.shape[1] + 1)
        # With a place more a text that fits is the same, and the place is filled up. It is the last, or the one before
        # a token that some tokenizers put last.
        place = -1 if longer[-1, -1] == longer[-1, -2] else -2
        filler = longer[-1, place]
        rest = torch.cat([longer[:, :place], longer[:, longer.shape[1] + place + 1 :]], dim=1)
        cut: NDArray[np.bool_] = ((rest != seen).any(1) | (longer[:, place] != filler)).numpy()
        return cut[:-1]

    def batches(self, images: Iterable[Image]) -> Iterator[torch.Tensor]:
        """Images of any size as the model takes them, some at a time: (b, 3, h, w)."""
        for part in _batched(map(self.prepare, images), self.batch_size):
            yield self.pixels(part)

    def pixels(self, part: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """A batch as the model takes it. It goes to the device as bytes, a quarter of what floats would be."""
        batch = torch.from_numpy(np.stack(part)).to(self.device).permute(0, 3, 1, 2).contiguous()
        normalised: torch.Tensor = self.prepare.normalise(batch.float().div_(255))
        return normalised


def _needs_hub(name: str, part: str, error: Exception) -> DataError:
    """The error of a model of which a part is on a hub, and not here."""
    fixes = {
        "weights": "fetch them where there is a network, and give their file or folder as the model",
        "text tower": f"pip install transformers; put the tower's config.json and tokenizer.json beside {CONFIG}",
        "tokenizer": f"pip install transformers; put tokenizer.json and its like beside {CONFIG}",
    }
    return DataError(
        f"the {part} of {name} cannot be loaded",
        expected="the hub, or its files on this machine",
        found=f"{type(error).__name__}: {error}".partition("\n")[0][:300],
        fix=fixes[part],
    )


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


# --- loading ----------------------------------------------------------------------------------------------------------


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
    options: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size}
    if isinstance(source, Artifact):
        with tempfile.TemporaryDirectory() as folder:
            # open_clip loads the weights whole, so that nothing needs the folder afterwards.
            return _from_path(_gather(source, Path(folder)), model, source.manifest.name, options)
    if Path(source).exists():
        return _from_path(Path(source), model, Path(source).name, options)
    return OpenClipEncoder(str(source), pretrained, **options)


def _gather(artifact: Artifact, folder: Path) -> Path:
    """Bring a model's files side by side into ``folder``, as open_clip wants them; return it, or its one checkpoint.

    Files on a local disk are linked, others copied. Subfolders and, beside a configuration, training state stay behind.
    """
    names = [file.path.removeprefix("data/") for file in artifact.files("data/") if file.path.count("/") == 1]
    complete = CONFIG in names
    for name in names:
        if not (complete and name.endswith(_TRAINING)):
            (folder / name).symlink_to(artifact.local(f"data/{name}", folder / ".fetched").absolute())
    checkpoints = [name for name in names if name.endswith(ENDINGS)]
    if complete or not checkpoints:
        return folder
    if len(checkpoints) > 1:
        raise DataError(
            f"{artifact.manifest.name} has several checkpoints",
            expected=f"one checkpoint file, or {CONFIG} and weights",
            found=", ".join(checkpoints),
            fix="adopt the checkpoint file itself, not its folder",
        )
    return folder / checkpoints[0]


def _from_path(path: Path, model: str | None, name: str, options: dict[str, Any]) -> OpenClipEncoder:
    """The encoder in a folder of open_clip's layout or in a checkpoint file."""
    if path.is_file():
        if model is None:
            raise DataError(
                f"the checkpoint {name} does not say of what architecture it is",
                expected="open_clip's name of its model beside it, such as ViT-B-32",
                found=path.name,
                fix=f"name the model, or put the weights into a folder with {CONFIG}",
            )
        return OpenClipEncoder(model, str(path), name=name, **options)
    there = sorted(file.name for file in path.iterdir())
    weights = in_order(there)
    missing = [] if CONFIG in there else [CONFIG]
    if not weights:
        missing.append("weights (open_clip_model.safetensors)")
    if missing:
        raise DataError(
            f"{name} is not a model in open_clip's layout",
            expected=" and ".join(missing),
            found=f"{path}: {', '.join(there[:5]) or 'nothing'}",
            fix="this looks like transformers' layout: take open_clip's files" if "config.json" in there else "",
        )
    cfg = read_model_config((path / CONFIG).read_bytes(), str(path / CONFIG))["model_cfg"]
    _check(path / weights[0], cfg)
    _check_parts(name, cfg, path)
    with with_own_tower(path) as folder:
        return OpenClipEncoder(f"local-dir:{folder}", name=name, **options)


def _check_reachable(name: str, model: str, tag: str) -> None:
    """Raise DataError if published weights lie on a hub that cannot be reached, and not in its cache."""
    repository = "/".join(open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").split("/")[:2])
    if repository and (error := unreachable(repository)) is not None:
        raise _needs_hub(name, "weights", error) from error
    _check_parts(name, open_clip.get_model_config(model) or {})


def _check_parts(name: str, cfg: Mapping[str, Any], folder: Path | None = None) -> None:
    """The same for parts that Hugging Face's library fetches."""
    if away := part_out_of_reach(on_hub(cfg, folder)):
        raise _needs_hub(name, *away) from away[1]


def _check_activation(model: str, tag: str) -> None:
    """Raise DataError if published weights were trained with another activation: open_clip only warns, and goes on."""
    cfg = open_clip.get_model_config(model) or {}
    if open_clip.get_pretrained_cfg(model, tag).get("quick_gelu") and not cfg.get("quick_gelu"):
        quick = f"{model}-quickgelu"
        raise DataError(
            f"the weights {tag} were trained with another activation than {model} has",
            expected="quick_gelu true, as the weights",
            found=f"quick_gelu false, as {model}",
            fix=f"model={quick}" if quick in open_clip.list_models() else "give a configuration with quick_gelu true",
        )


def _check(weights: Path, model: Mapping[str, Any] | str) -> None:
    """Raise DataError, naming the file, unless it holds weights of that model, as far as their shapes show."""
    check_fits(model, read_shapes(open_store(str(weights.parent)), weights.name), str(weights))
