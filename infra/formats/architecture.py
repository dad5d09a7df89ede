"""Check by their shapes that weights belong to a configuration, without building a model.

What shapes show of open_clip's models: the kind of each tower, its width and layers, the space that both share. Only
what can be told is compared: checkpoints in other programs' names, which open_clip converts, pass. What shapes do not
show (activation, heads, preprocessing) is in :mod:`training.model.pretrained`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.errors import DataError
from infra.formats.weights import Shapes

__all__ = ["CONFIG", "check_fits", "read_model_config"]

CONFIG = "open_clip_config.json"
"""open_clip's file of a model's configuration, beside its weights."""

_VISION = {"width": 768, "layers": 12, "patch_size": 16}
_TEXT = {"width": 512, "layers": 12, "vocab_size": 49408}
"""open_clip's defaults."""


def read_model_config(data: bytes, place: str) -> dict[str, Any]:
    """The content of an ``open_clip_config.json``. Raises DataError, naming the ``place`` of the file."""
    try:
        found = json.loads(data)
        model = found["model_cfg"]
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - model.keys()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{place} is no configuration of open_clip", expected="an object with model_cfg, and perhaps "
            "preprocess_cfg", found=f"{type(error).__name__}: {error}"[:200],
        ) from None  # fmt: skip
    if missing or not all(isinstance(model[part], dict) for part in ("vision_cfg", "text_cfg")):
        raise DataError(
            f"{place} is no configuration of open_clip", expected="model_cfg with embed_dim, vision_cfg, text_cfg",
            found=", ".join(map(str, model)),
        )  # fmt: skip
    return dict(found)


def check_fits(model: Mapping[str, Any] | str, shapes: Shapes, place: str) -> None:
    """Raise DataError if the weights at ``place`` are not those of ``model``, open_clip's name or its configuration."""
    named = _configurations()
    cfg = named.get(model) if isinstance(model, str) else model
    if cfg is None:
        return  # a name that somebody taught open_clip
    cfg = cfg.get("model_cfg", cfg)
    found = _of_weights(shapes)
    if not (wrong := _differences(_of_configuration(cfg), found)):
        return
    fitting = [name for name, other in named.items() if not _differences(_of_configuration(other), found)]
    fix = f"they look like those of {', '.join(fitting[:5])}" if found and 0 < len(fitting) < 20 else ""
    raise DataError(
        f"the weights at {place} are not those of this model",
        expected=", ".join(f"{name} {expected}" for name, expected, _ in wrong),
        found=", ".join(f"{name} {there}" for name, _, there in wrong),
        fix=fix or "give the model_cfg of their open_clip_config.json as the model",
    )


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [
        (name, expected[name], there)
        for name, there in found.items()
        if expected.get(name) is not None and expected[name] != there
    ]


def _of_configuration(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that the shapes of its weights must show; None where timm or Hugging Face decides."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    layers = vision.get("layers", _VISION["layers"])
    own = "timm_model_name" not in vision
    vit = own and not isinstance(layers, list | tuple)
    found = {"embed_dim": cfg["embed_dim"], "image tower": "timm" if not own else "ViT" if vit else "ResNet"}
    if own:
        found["vision_cfg.layers"] = layers if vit else list(layers)
        found["vision_cfg.width"] = vision.get("width", 768 if vit else 64)
    if vit:
        found["vision_cfg.patch_size"] = vision.get("patch_size", _VISION["patch_size"])
    if not text.get("hf_model_name"):
        found |= {f"text_cfg.{name}": text.get(name, default) for name, default in _TEXT.items()}
    return found


def _of_weights(shapes: Shapes) -> dict[str, Any]:
    """The same facts, as far as weights under open_clip's names have them."""
    found: dict[str, Any] = {}

    def put(fact: str, names: Iterable[str], axis: int, of_rank: int = 2) -> None:
        for name in names:
            if len(shape := shapes.get(name, ())) == of_rank:
                found[fact] = shape[axis]

    put("embed_dim", ("text_projection", "text.text_projection", "visual.proj"), 1)
    put("embed_dim", ("text_projection.weight", "text.text_projection.weight", "visual.head.proj.weight"), 0)
    put("text_cfg.vocab_size", ("token_embedding.weight", "text.token_embedding.weight"), 0)
    put("text_cfg.width", ("token_embedding.weight", "text.token_embedding.weight"), 1)
    if layers := _count(shapes, r"(?:text\.)?transformer\.resblocks\.(\d+)\."):
        found["text_cfg.layers"] = layers
    if any(name.startswith("visual.trunk.") for name in shapes):
        found["image tower"] = "timm"
    elif blocks := _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."):
        found |= {"image tower": "ViT", "vision_cfg.layers": blocks}
        put("vision_cfg.width", ["visual.conv1.weight"], 0, 4)
        put("vision_cfg.patch_size", ["visual.conv1.weight"], 2, 4)
    elif _count(shapes, r"visual\.layer1\.(\d+)\."):
        stages = [_count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
        found |= {"image tower": "ResNet", "vision_cfg.layers": stages}
        put("vision_cfg.width", ["visual.layer1.0.conv1.weight"], 0, 4)
    return found


def _count(shapes: Shapes, pattern: str) -> int:
    return max((int(match[1]) + 1 for name in shapes if (match := re.match(pattern, name))), default=0)


def _configurations() -> dict[str, dict[str, Any]]:
    """open_clip's configurations by name. Its files are read: importing it loads torch."""
    open_clip = find_spec("open_clip")
    if open_clip is None or open_clip.origin is None:
        return {}
    paths = sorted(Path(open_clip.origin).parent.glob("model_configs/*.json"))
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in paths}
    return {name: cfg for name, cfg in found.items() if {"embed_dim", "vision_cfg", "text_cfg"} <= cfg.keys()}
