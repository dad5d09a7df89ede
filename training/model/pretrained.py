"""Weights to start from, and what comes with them: a checkpoint's own word on how it is to be used.

The activation, the heads, where a tower is read, how images are normalised and resized: none of it shows in the shapes
of the weights, and all of it changes what they compute. A folder of open_clip's says it in its configuration. Where the
configuration of the run says otherwise, that is an error; where it says nothing of the preprocessing, the folder's
counts. So do its tokenizer's files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import nn

from infra.errors import ConfigError, DataError
from infra.formats.architecture import CONFIG, check_fits, read_model_config
from infra.formats.merges import with_merges
from infra.formats.weights import ENDINGS, TOKENIZER, in_order, read_shapes
from infra.run.manifest import Artifact
from infra.store import open_store
from training.config import Model

__all__ = ["Pretrained", "check_artifact", "configuration", "tokenizer_files"]

_FREE = {
    "vision_cfg": {"image_size", "patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path"},
    "text_cfg": {"context_length", "hf_model_pretrained"},
    "": {"init_logit_scale", "init_logit_bias", "custom_text"},
}
"""Settings that may differ: they decide how it is trained, where weights come from, or are interpolated to."""


def configuration(
    model: str | dict[str, Any], merges: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return copies of the model's configuration, with these ``merges``, and of its preprocessing's.

    Raises ConfigError.
    """
    if isinstance(model, dict):
        given = deepcopy(model)
        preprocess = given.pop("preprocess_cfg", {})
        cfg = {**given, **given.pop("model_cfg", {})}
        cfg.pop("model_cfg", None)
    else:
        cfg, preprocess = open_clip.get_model_config(model), {}
        if cfg is None:
            raise ConfigError(
                f"open_clip has no model {model!r}",
                fix="choose one of open_clip.list_models(), or give a configuration",
            )
    if missing := {"embed_dim", "vision_cfg", "text_cfg"} - set(cfg):
        raise ConfigError(
            "open_clip cannot build this model", expected="embed_dim, vision_cfg, text_cfg", found=f"no {min(missing)}"
        )
    if merges is not None and cfg["text_cfg"].get("hf_tokenizer_name"):
        raise ConfigError("merges are for CLIP's tokenizer", found=f"that of {cfg['text_cfg']['hf_tokenizer_name']}")
    return cfg if merges is None else with_merges(cfg, merges), preprocess


def check_artifact(artifact: Artifact, model: Model | None) -> None:
    """Raise what :func:`training.model.build.build` will of the weights in an artifact, before a worker has a GPU.

    ``model``: what they are to start; None: their own, as a teacher's.
    """
    store = artifact.store.child("data")
    names = [file.path.removeprefix("data/") for file in artifact.files("data/") if file.path.count("/") == 1]
    weights = in_order(names) or [name for name in names if name.endswith(ENDINGS)]
    if not weights:
        return  # said where they are looked for
    shapes, place = read_shapes(store, weights[0]), store.locate(weights[0])
    own = read_model_config(store.read(CONFIG), store.locate(CONFIG)) if CONFIG in names else {}
    if model is None:
        check_fits(own.get("model_cfg", ""), shapes, place)
        return
    cfg, preprocess = configuration(model.architecture, model.merges)
    check_fits(cfg, shapes, place)
    Pretrained(artifact.manifest.name, Path(place), own).preprocessing(cfg, preprocess)


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files of a Hugging Face tokenizer in a folder, or of merges for CLIP's, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if TOKENIZER.fullmatch(path.name)}


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint. ``description``: content of its configuration file, empty if there is none."""

    source: str
    weights: Path
    description: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, source: str) -> Pretrained:
        """Find it: a checkpoint file, a folder in open_clip's hub layout, or that of a training artifact.

        Raises ConfigError if there is none, DataError if its configuration cannot be read.
        """
        path = Path(source.removeprefix("local-dir:"))
        found = None
        if path.is_dir():
            # A folder of ours has its training state beside it, and that is no model to start from.
            folder = next((f for f in (path, path / "data") if in_order(_names(f))), path)
            found = next((folder / name for name in in_order(_names(folder))), None)
        elif path.is_file():
            found = path
        if found is None:
            raise ConfigError(
                "there are no weights to start from",
                expected=f"a checkpoint ({', '.join(ENDINGS)}), a folder with {CONFIG} and weights, or a training "
                "artifact",
                found=source,
                fix="download weights first: open_clip.create_model(name, pretrained=tag) shows where it keeps them",
            )
        beside = found.with_name(CONFIG)
        known = read_model_config(beside.read_bytes(), str(beside)) if beside.is_file() else {}
        return cls(source, found, known)

    def preprocessing(self, cfg: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The preprocessing of a model of the configuration ``cfg`` with these weights: ``given``, and else their own.

        Raises ConfigError, naming both, if the checkpoint was made with other settings.
        """
        own = {name: value for name, value in self.description.get("preprocess_cfg", {}).items() if value is not None}
        own.pop("size", None)  # follows the model's image size
        if self.description:
            pairs = {name: (given[name], value) for name, value in own.items() if given.get(name) is not None}
            pairs |= _settings(cfg, self.description["model_cfg"])
            if different := {name: pair for name, pair in pairs.items() if _plain(pair[0]) != _plain(pair[1])}:
                raise ConfigError(
                    f"the weights at {self.source} were trained with other settings than this model has",
                    expected=_listed((name, theirs) for name, (_, theirs) in different.items()),
                    found=_listed((name, ours) for name, (ours, _) in different.items()),
                    fix=f"take its own: architecture local-dir:{self.weights.parent}",
                )
        return {**own, **{name: value for name, value in given.items() if value is not None}}

    def tokenizer(self) -> dict[str, bytes]:
        """The files of its tokenizer, where it is one of Hugging Face's or has merges of its own."""
        return tokenizer_files(self.weights.parent) if self.description else {}

    def check(self, cfg: Mapping[str, Any] | None = None) -> None:
        """Raise DataError unless the file holds weights of that model, else the one that its own configuration says."""
        shapes = read_shapes(open_store(str(self.weights.parent)), self.weights.name)
        if cfg is None and not self.description:
            raise DataError(f"{self.weights} does not say of what architecture it is", expected=f"{CONFIG} beside it")
        check_fits(self.description["model_cfg"] if cfg is None else cfg, shapes, str(self.weights))

    def load(self, model: nn.Module) -> None:
        """Load it into ``model``; open_clip interpolates positions if the image size differs.

        Raises ConfigError if the weights are another model's.
        """
        try:
            open_clip.load_checkpoint(model, str(self.weights), strict=True, weights_only=True)
        except (RuntimeError, KeyError, AssertionError) as error:
            raise ConfigError(
                f"the weights at {self.source} are not those of this model",
                expected=f"those of a {type(model).__name__} with the shapes of its configuration",
                found=str(error)[:500],
                fix=f"give the model_cfg of its {CONFIG} as model",
            ) from error


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Every setting of two configurations that changes what weights compute, with open_clip's defaults filled in."""
    one, two = dict(_filled(ours)), dict(_filled(theirs))
    return {name: (one.get(name), two.get(name)) for name in sorted({*one, *two})}


def _filled(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "quick_gelu", bool(cfg.get("quick_gelu"))
    defaults = {"vision_cfg": asdict(CLIPVisionCfg()), "text_cfg": asdict(CLIPTextCfg())}
    for part, value in cfg.items():
        if isinstance(value, Mapping):
            for name, setting in {**defaults.get(part, {}), **value}.items():
                if name not in _FREE.get(part, ()):
                    # A Hugging Face tokenizer is that of its files, whatever its name.
                    yield f"{part}.{name}", bool(setting) if name == "hf_tokenizer_name" else setting
        elif part not in _FREE[""] and part != "quick_gelu":
            yield part, value


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Lists and tuples alike."""
    return json.loads(json.dumps(value))


def _listed(settings: Iterator[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in settings)
