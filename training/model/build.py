"""Construction of open_clip's models by name or configuration, with their tokenizer and preprocessing.

The steps depend on one another: open_clip's module with weights from the seed or a checkpoint, then locking, and last
the replacements that make it faster and independent of the number of workers (blocks, dropout, batch norm). Names and
shapes of the weights stay open_clip's throughout.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import PatchDropout as OpenClipPatchDropout
from timm.layers.drop import DropPath
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.layers.patch_dropout import PatchDropout as TimmPatchDropout
from torch import Tensor, nn

from infra.errors import ConfigError
from infra.formats.architecture import CONFIG
from infra.formats.merges import FILE, pack_merges, read_merges
from infra.formats.text_tower import TOWER, on_hub, own_tower
from infra.hub import part_out_of_reach
from training.config import Model
from training.data.tokens import Tokenizer
from training.distributed.sync_batch_norm import synchronise_batch_norms
from training.model.blocks import use_fast_blocks
from training.model.dropout import Dropout, PatchDropout, Position
from training.model.pretrained import Pretrained, configuration, tokenizer_files

if TYPE_CHECKING:
    from training.distributed.world import World

__all__ = ["Towers", "build"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Towers:
    """A model ready to train. ``description`` is the content of ``open_clip_config.json``."""

    model: nn.Module
    tokenize: Tokenizer
    description: dict[str, Any]
    position: Position
    """Set ``position.samples`` before each forward pass: dropout draws by it."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Of a Hugging Face tokenizer, or merges for CLIP's, by name: they lie beside the weights wherever these are."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size = self.description["preprocess_cfg"]["size"]
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images (b, h, w, 3) to the model's input, float (b, 3, h, w), on the same device.

        The memory format stays channels-last, in which convolutions run up to 1.4 times faster.
        """
        preprocess = self.description["preprocess_cfg"]
        mean, std = (torch.tensor(preprocess[key]) * 255 for key in ("mean", "std"))
        shift, scale = (value.to(images.device, non_blocking=True) for value in (-mean / std, 1 / std))
        return torch.addcmul(shift, images, scale).permute(0, 3, 1, 2)


def build(
    part: Model | str | dict[str, Any],
    seed: int,
    world: World,
    *,
    settings: Mapping[str, Any] | None = None,
    pretrained: str | Path | None = None,
    grad_checkpointing: bool = False,
) -> Towers:
    """Build the model of ``part``, or of an architecture alone, on the CPU, with the same weights on every rank.

    Args:
        part: the model's part of the configuration; or open_clip's name of a model, or its JSON configuration.
        seed: of the initial weights and of dropout.
        world: whose size decides how batch norms are synchronised.
        settings: defaults for fields that the configuration leaves out (an objective's initial temperature).
        pretrained: source of the weights instead of the seed: a checkpoint, a folder in open_clip's hub layout, or that
            of a training artifact.
        grad_checkpointing: whether activations are recomputed in the backward pass.

    Raises ConfigError for a model that open_clip cannot build, or weights trained with other settings; DataError for
    weights that are another model's or cannot be read.
    """
    if not isinstance(part, Model):
        part = Model(architecture=part)
    cfg, preprocess = configuration(part.architecture, part.merges)
    cfg = {**deepcopy(dict(settings or {})), **cfg}
    start = Pretrained.at(str(pretrained)) if pretrained is not None else None
    if start is not None:
        start.check(cfg)
        preprocess = start.preprocessing(cfg, preprocess)
    if part.patch_dropout is not None:
        cfg["vision_cfg"]["patch_dropout"] = part.patch_dropout
    built, tokenizer, files = _create(cfg, preprocess, seed, start, part.merges)
    # Weights first, then what is locked of them.
    _check_size(built)
    _give_weights(built, start)
    _lock(built, part)
    if grad_checkpointing:
        built.set_grad_checkpointing()
    # Last what makes the result the same on any number of workers, and faster.
    position = Position()
    _replace_dropout(built, seed, position)
    return Towers(
        model=synchronise_batch_norms(use_fast_blocks(built), world),
        tokenize=Tokenizer(tokenizer),
        description={"model_cfg": cfg, "preprocess_cfg": open_clip.get_model_preprocess_cfg(built)},
        position=position,
        files=files,
    )


def _give_weights(built: Any, start: Pretrained | None) -> None:  # noqa: ANN401 - open_clip is untyped
    """Draw what open_clip leaves uninitialised, and load the weights to start from."""
    if decoder := getattr(built, "text_decoder", None):
        nn.init.normal_(decoder.text_projection, std=decoder.width**-0.5)
    if start is not None:
        start.load(built)


def _create(
    cfg: dict[str, Any],
    preprocess: dict[str, Any],
    seed: int,
    start: Pretrained | None,
    merges: Sequence[str] | None,
) -> tuple[Any, Any, dict[str, bytes]]:
    """Let open_clip build the model with weights drawn from ``seed``, its tokenizer, and the tokenizer's files."""
    # open_clip builds from a folder all that it can build from a name, and this is how users will load the result.
    with tempfile.TemporaryDirectory() as folder:
        _write_merges(Path(folder), merges, start)
        beside = own_tower(own_tower(cfg, start.weights.parent) if start is not None else cfg, Path(folder))
        config = {"model_cfg": beside, "preprocess_cfg": preprocess}
        Path(folder, CONFIG).write_text(json.dumps(config))
        torch.manual_seed(seed)
        try:
            if away := part_out_of_reach(on_hub(cfg, start.weights.parent if start is not None else None)):
                raise OSError(f"the {away[0]} cannot be fetched: {away[1]}") from away[1]
            model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
            if cfg["text_cfg"].get("hf_model_name"):
                model.text.config.to_json_file(Path(folder, TOWER))
            if name := cfg["text_cfg"].get("hf_tokenizer_name"):
                _write_tokenizer(folder, name, start)
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        except (TypeError, KeyError, ValueError, RuntimeError, AssertionError, OSError, ImportError) as error:
            raise ConfigError(
                "open_clip cannot build this model",
                found=repr(error)[:500],
                fix="pip install transformers; put the tower's config.json and tokenizer.json beside the weights that "
                "training starts from, or into the hub's cache"
                if isinstance(error, (OSError, ImportError)) or "transformers" in str(error)
                else "",
            ) from error
        return model, tokenizer, tokenizer_files(Path(folder))


def _write_tokenizer(folder: str, name: str, start: Pretrained | None) -> None:
    """Put a Hugging Face tokenizer's files into ``folder``: the checkpoint's own, or else those of its name."""
    if start is not None and (files := start.tokenizer()):
        for file, content in files.items():
            Path(folder, file).write_bytes(content)
    else:
        open_clip.tokenizer.HFTokenizer(name).tokenizer.save_pretrained(folder)


def _write_merges(folder: Path, merges: Sequence[str] | None, start: Pretrained | None) -> None:
    """Put merges for CLIP's tokenizer into ``folder``: those given, or the checkpoint's own, which may not differ."""
    wanted = None if merges is None else pack_merges(merges)
    own = start.tokenizer().get(FILE) if start is not None else None
    if wanted and own and read_merges(own, FILE) != tuple(merges or ()):
        raise ConfigError(
            "the weights were trained with other merges than this model has",
            expected=f"those in {FILE} beside the weights",
            fix="leave train.model.merges out, and take the configuration beside the weights as the architecture",
        )
    if content := wanted or own:
        (folder / FILE).write_bytes(content)


def _check_size(model: Any) -> None:  # noqa: ANN401 - open_clip's models share methods, no type
    """Raise ConfigError for a timm tower made for another image size: open_clip could not load the trained model."""
    patches = getattr(getattr(model.visual, "trunk", None), "patch_embed", None)
    made_for = getattr(patches, "img_size", None)
    if getattr(patches, "strict_img_size", False) and made_for is not None and made_for != model.visual.image_size:
        raise ConfigError(
            "the timm tower is made for another image size",
            expected=f"vision_cfg.image_size = {made_for[0]}",
            found=str(model.visual.image_size),
            fix="timm names models after their size, such as vit_base_patch16_clip_384",
        )


def _lock(model: Any, part: Model) -> None:  # noqa: ANN401 - open_clip's models share methods, no type
    """Lock layers by open_clip's own rules (LiT; Zhai et al. 2021, https://arxiv.org/abs/2111.07991).

    Batch norms of locked layers keep their statistics, too.
    """
    try:
        if part.lock_image is not None:
            # Of a timm tower open_clip would replace batch norms that include an activation by ones without it.
            timm_tower = isinstance(model.visual, TimmModel)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Importing from timm.models.helpers")  # open_clip does
                model.lock_image_tower(unlocked_groups=part.lock_image, freeze_bn_stats=not timm_tower)
            if timm_tower:
                _freeze_batch_norms(model.visual.trunk)
        if part.lock_text is not None:
            model.lock_text_tower(unlocked_layers=part.lock_text)
    except (AssertionError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            "open_clip cannot lock this model as configured",
            expected="a tower that it can lock, with that many groups of layers",
            found=repr(error),
        ) from error


def _freeze_batch_norms(trunk: nn.Module) -> None:
    """Batch norms of a timm tower whose weights are locked keep their statistics."""
    for parent in list(trunk.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and child.weight is not None and not child.weight.requires_grad:
                setattr(parent, name, freeze_batch_norm_2d(child))  # type: ignore[no-untyped-call]


def _replace_dropout(model: nn.Module, seed: int, position: Position) -> None:
    """Replace dropout that open_clip's configuration can enable; warn of other dropout (Hugging Face's text towers).

    Layers that are locked drop nothing: what does not learn computes in training what it does afterwards.
    """
    children: list[tuple[nn.Module, str, Any]] = [
        (module, name, child) for module in model.modules() for name, child in module.named_children()
    ]
    heads = {part for module in model.modules() if isinstance(module, TimmModel) for part in module.head.modules()}
    left = set()
    for layer, (module, name, child) in enumerate(children):
        if type(child) is OpenClipPatchDropout:
            setattr(module, name, PatchDropout(child.prob, int(child.exclude_first_token), seed, position))
        elif type(child) is TimmPatchDropout:
            setattr(module, name, PatchDropout(child.prob, child.num_prefix_tokens, seed, position))
        elif isinstance(child, DropPath | nn.Dropout) and _locked(module):
            setattr(child, "p" if isinstance(child, nn.Dropout) else "drop_prob", 0.0)
        elif type(child) is DropPath and child.drop_prob and child.scale_by_keep:
            setattr(module, name, Dropout(child.drop_prob, True, seed, layer, position))
        elif type(child) is nn.Dropout and child.p and child in heads:
            setattr(module, name, Dropout(child.p, False, seed, layer, position))
        elif getattr(child, "drop_prob", 0) or (isinstance(child, nn.Dropout) and child.p):
            left.add(type(module).__name__)
    if left:
        log.warning(
            "dropout in %s draws per worker: another number of workers gives another result",
            ", ".join(sorted(left)),
        )


def _locked(module: nn.Module) -> bool:
    weights = list(module.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)
