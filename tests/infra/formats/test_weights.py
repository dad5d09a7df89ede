"""Files that are taken for weights: each kind is refused by its name, before torch or a GPU has anything to do."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save
from torch import nn

from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError, DataError
from infra.formats.architecture import check_fits
from infra.formats.weights import in_order, read_shapes
from infra.run.context import Context
from infra.store import open_store
from pipelines import adopt
from training.config import Config
from training.distributed.world import World
from training.model.build import build
from training.objectives import distill

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
torch.manual_seed(0)  # the ids of the tests have the sizes of files
NETWORK = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
SHAPES = {name: tuple(value.shape) for name, value in NETWORK.state_dict().items()}


def saved(content: object, **options: object) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, **options)
    return sink.getvalue()


def scripted() -> bytes:
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that it is old: but what OpenAI published is of this kind
        torch.jit.save(torch.jit.trace(NETWORK.eval(), torch.ones(2, 3)), sink)
    NETWORK.train()
    return sink.getvalue()


def optimizer() -> dict[str, object]:
    adam = torch.optim.AdamW(NETWORK.parameters())
    NETWORK(torch.ones(5, 3)).sum().backward()
    adam.step()
    return adam.state_dict()


WEIGHTS = NETWORK.state_dict()
TORCH, TENSORS = saved(WEIGHTS), save(WEIGHTS)
TRAINING = {"epoch": 3, "state_dict": {f"module.{n}": w for n, w in WEIGHTS.items()}, "optimizer": optimizer()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.safetensors", TENSORS),
        ("a.pt", TORCH),
        ("a.bin", saved(WEIGHTS, _use_new_zipfile_serialization=False)),
        ("a.pth", saved(TRAINING)),
        ("a.pt", saved({name: nn.Parameter(w) if w.is_floating_point() else w for name, w in WEIGHTS.items()})),
        ("a.pt", saved({name: w.bfloat16() for name, w in WEIGHTS.items()} | {"dtype": torch.float32})),
    ],
)
@pytest.mark.parametrize("place", ["local", "memory://weights-test"])
def test_shapes_are_torchs_own(name, data, place, tmp_path):
    store = open_store(tmp_path if place == "local" else place)
    store.write(name, data)
    assert read_shapes(store, name) == SHAPES


JUNK = [
    ("a.safetensors", b"", "has 0 bytes"),
    ("a.pt", b"", "has 0 bytes"),
    ("a.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a Git LFS pointer"),
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a Git LFS pointer"),
    ("a.pt", b"\n<!DOCTYPE html><html><body>Log in", "a web page"),
    ("a.safetensors", b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    ("a.bin", b'{"error": "Repository not found"}', "a text file"),
    ("a.bin", b"Invalid username or password.", "a text file"),
    ("a.pt", gzip.compress(TORCH), "a gzip file"),
    ("a.pt", bytes(600), "not a file of weights"),
    ("a.safetensors", TENSORS[:-20], "is cut off"),
    ("a.safetensors", TENSORS[:100], "is cut off"),
    ("a.safetensors", TENSORS + b"more", "is damaged"),
    ("a.safetensors", (30).to_bytes(8, "little") + b'{"a": {"shape": [1]}}' + b" " * 9, "is damaged"),
    ("a.pt", TORCH[: len(TORCH) // 2], "is cut off or damaged"),
    ("a.pt", saved(WEIGHTS, _use_new_zipfile_serialization=False)[:200], "is damaged"),
    ("a.pt", TENSORS, "the wrong ending"),
    ("a.safetensors", TORCH, "the wrong ending"),
    ("a.pt", saved(NETWORK), "a pickled torch.nn.modules.container.Sequential"),
    ("a.pt", saved(TRAINING | {"args": argparse.Namespace(lr=1)}), "a pickled argparse.Namespace"),
    ("a.pt", pickle.dumps({"a": print}), "a pickled builtins.print"),
    ("a.pt", pickle.dumps([1.5] * 9), "a pickle, but not torch's"),
    ("a.pt", scripted(), "a TorchScript archive"),
    ("a.pt", saved({"epoch": 1}), "holds no weights"),
    ("a.pt", saved([1]), "holds no weights"),
]


@pytest.mark.parametrize(("name", "data", "words"), JUNK)
def test_what_is_no_weights_is_refused_by_name(name, data, words, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_shapes(open_store(tmp_path), name)
    assert str(caught.value).startswith(f"{tmp_path}/{name} ")
    assert words in str(caught.value)


def test_the_file_that_open_clip_takes_comes_first(tmp_path):
    names = ["pytorch_model.bin", "z.safetensors", "open_clip_pytorch_model.bin", "a.pth", "epoch_1.pt", "notes.txt"]
    expected = ["open_clip_pytorch_model.bin", "pytorch_model.bin", "z.safetensors", "a.pth"]
    assert in_order(names) == expected
    from open_clip.factory import _find_checkpoint_in_dir

    for name in names:
        (tmp_path / name).touch()
    for name in expected:
        assert _find_checkpoint_in_dir(tmp_path) == str(tmp_path / name)
        (tmp_path / name).unlink()


# --- wherever weights come in -----------------------------------------------------------------------------------------


def folder(path, name="open_clip_model.safetensors", data=b"", config=None):
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text(json.dumps(config or {"model_cfg": CONFIG, "preprocess_cfg": {}}))
    (path / name).write_bytes(data)
    return path


def adopted(path):
    config = adopt.Config(path=str(path), contents="model")
    return adopt.run(config, {}, Context("memory://weights-test/adopted", stage="model"))


ENTRANCES = {
    "adopt": adopted,
    "encoder": load_encoder,
    "pretrained": lambda path: build(CONFIG, 0, World(), pretrained=path),
    "teacher": lambda path: distill.Config().build(build(CONFIG, 0, World()).model, Config(), {"teacher": path}),
}


@pytest.mark.long  # builds models
@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("name", "data", "words"),
    [(f"open_clip_model{one[0][1:]}", *one[1:]) for one in JUNK if one[0] != "a.pt"] + [
        ("open_clip_pytorch_model.bin", saved(NETWORK), "a pickled torch.nn"),
        ("open_clip_pytorch_model.bin", scripted(), "a TorchScript archive"),
    ],
)  # fmt: skip
def test_it_is_refused_by_the_same_words_wherever_it_comes_in(entrance, name, data, words, tmp_path):
    with pytest.raises((DataError, ConfigError)) as caught:
        ENTRANCES[entrance](folder(tmp_path / "model", name, data))
    assert words in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.long  # builds models
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_weights_of_another_architecture_are_named(entrance, tmp_path):
    wide = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "width": 24, "layers": 2}}
    data = save({name: value.contiguous() for name, value in build(wide, 0, World()).model.state_dict().items()})
    with pytest.raises((DataError, ConfigError)) as caught:
        ENTRANCES[entrance](folder(tmp_path / "model", data=data))
    for words in ("text_cfg.width 16", "text_cfg.width 24", "text_cfg.layers 1", "text_cfg.layers 2"):
        assert words in str(caught.value)


@pytest.mark.parametrize("config", [{"vision_cfg": {}}, {"model_cfg": {"embed_dim": 1}}, ["model_cfg"]])
def test_a_configuration_that_is_none_is_refused_when_it_is_adopted(config, tmp_path):
    with pytest.raises(DataError, match=r"open_clip_config.json is no configuration of open_clip"):
        adopted(folder(tmp_path / "model", data=TENSORS, config=config))


def test_a_checkpoint_of_another_name_tells_what_it_looks_like():
    shapes = {
        "visual.conv1.weight": (768, 3, 32, 32),
        "visual.proj": (768, 512),
        "token_embedding.weight": (49408, 512),
        "visual.transformer.resblocks.11.ln_1.weight": (768,),
        "transformer.resblocks.11.ln_1.weight": (512,),
    }
    check_fits("ViT-B-32-quickgelu", shapes, "mine.pt")
    with pytest.raises(DataError, match=r"mine.pt are not those of this model") as caught:
        check_fits("ViT-L-14", shapes, "mine.pt")
    assert "vision_cfg.width 1024" in caught.value.expected
    assert "vision_cfg.patch_size 32" in caught.value.found
    assert "ViT-B-32" in caught.value.fix
