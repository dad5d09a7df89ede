"""A checkpoint's own word counts: what its weights were trained with is kept, and never replaced in silence."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from small_data import MODEL

from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError, DataError
from infra.run.context import ShardOutput
from infra.run.manifest import Artifact, File, Manifest
from infra.store import LocalStore
from training.checkpoint.export import write_model
from training.config import Model
from training.distributed.world import World
from training.model.blocks import encode_image
from training.model.build import build
from training.model.pretrained import check_artifact
from training.model.text import encode_text

pytestmark = pytest.mark.long  # models

WORLD = World()
OWN = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "resize_mode": "squash",
    "fill_color": 7,
}
QUICK = {**MODEL, "quick_gelu": True}


def write(folder, config, preprocess):
    towers = build({"model_cfg": config, "preprocess_cfg": preprocess}, 7, WORLD)
    (folder / "open_clip_config.json").write_text(json.dumps(towers.description))
    save_file(towers.model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pretrained"), QUICK, OWN)


def test_its_preprocessing_counts_where_the_configuration_says_nothing(checkpoint):
    towers = build(QUICK, 0, WORLD, pretrained=checkpoint)
    found = towers.description["preprocess_cfg"]
    assert {name: found[name] for name in OWN} == OWN
    assert found["size"] in (16, [16, 16], (16, 16))
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(OWN[name])[:, None, None] for name in ("mean", "std"))
    expected = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(towers.normalise(images), expected, rtol=1e-5, atol=1e-6)


def test_the_export_computes_what_the_checkpoint_did(checkpoint, tmp_path):
    towers = build(QUICK, 0, WORLD, pretrained=checkpoint)
    output = ShardOutput(LocalStore(tmp_path), "model")
    state = {"state": {}, "param_groups": []}
    write_model(output, towers.description, towers.model.state_dict(), state, 0, towers.files)
    models = [
        open_clip.create_model_from_pretrained(f"local-dir:{folder}") for folder in (checkpoint, tmp_path / "data")
    ]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    (before, one), (after, two) = models
    assert str(one) == str(two)
    with torch.no_grad():
        assert torch.equal(before.eval().encode_image(pixels), after.eval().encode_image(pixels))
        torch.testing.assert_close(encode_image(towers.model.eval(), pixels), before.encode_image(pixels))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (MODEL, ["quick_gelu true", "quick_gelu false"]),
        ({**QUICK, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}, ["mean [0.5, 0.4, 0.3]", "mean [0.1, 0.2, 0.3]"]),
        ({**QUICK, "preprocess_cfg": {"interpolation": "bicubic"}}, ['"bilinear"', '"bicubic"']),
        ({**QUICK, "preprocess_cfg": {"resize_mode": "longest"}}, ['"squash"', '"longest"']),
        ({**QUICK, "vision_cfg": {**MODEL["vision_cfg"], "head_width": 4}}, ["head_width 8", "head_width 4"]),
        ({**QUICK, "vision_cfg": {**MODEL["vision_cfg"], "pool_type": "avg"}}, ['pool_type "tok"', 'pool_type "avg"']),
        ({**QUICK, "text_cfg": {**MODEL["text_cfg"], "heads": 4}}, ["heads 2", "heads 4"]),
        ({**QUICK, "text_cfg": {**MODEL["text_cfg"], "no_causal_mask": True}}, ["mask false", "mask true"]),
    ],
)  # fmt: skip
def test_another_setting_is_an_error_that_names_both(model, words, checkpoint):
    with pytest.raises(ConfigError, match="other settings") as caught:
        build(model, 0, WORLD, pretrained=checkpoint)
    theirs, ours = words
    assert theirs in caught.value.expected
    assert ours in caught.value.found
    assert f"local-dir:{checkpoint}" in caught.value.fix


def test_its_configuration_taken_whole_always_agrees(checkpoint):
    towers = build(Model(architecture=f"local-dir:{checkpoint}"), 0, WORLD, pretrained=checkpoint)
    assert towers.description["model_cfg"]["quick_gelu"] is True
    assert towers.description["preprocess_cfg"]["mean"] == OWN["mean"]


def test_what_only_training_asks_may_differ(checkpoint):
    config = {
        **QUICK,
        "vision_cfg": {**MODEL["vision_cfg"], "image_size": 32, "patch_dropout": 0.5},
        "init_logit_scale": 1,
    }
    config["vision_cfg"]["pool_type"] = "tok"  # open_clip's default, written out
    towers = build(Model(architecture=config, patch_dropout=0.25), 0, WORLD, pretrained=checkpoint)
    assert towers.image_size == (32, 32)


@pytest.mark.huggingface
def test_a_hugging_face_tokenizer_goes_from_the_checkpoint_to_the_export(checkpoint, tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", "</s>", "red", "blue", "circle", "a"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    text = {
        **MODEL["text_cfg"],
        "hf_tokenizer_name": "somebody/words",
        "vocab_size": 7,
        "tokenizer_kwargs": {"clean": "lower"},
    }
    config = {**MODEL, "text_cfg": text}
    folder = tmp_path / "pretrained"
    folder.mkdir()
    fast.save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )

    towers = build(config, 0, WORLD, pretrained=folder)
    sentence = "A red circle of BLUE"
    expected = open_clip.get_tokenizer(f"local-dir:{folder}")([sentence])
    assert towers.tokenize(sentence).tolist() == expected[0].tolist()
    output = ShardOutput(LocalStore(tmp_path), "model")
    write_model(
        output, towers.description, towers.model.state_dict(), {"state": {}, "param_groups": []}, 0, towers.files
    )
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{tmp_path}/data")([sentence]), expected)
    with torch.no_grad():
        exported = open_clip.create_model(f"local-dir:{tmp_path}/data").eval()
        original = open_clip.create_model(f"local-dir:{folder}").eval()
        assert torch.equal(exported.encode_text(expected), original.encode_text(expected))
        torch.testing.assert_close(encode_text(towers.model.eval(), expected), original.encode_text(expected))
    with pytest.raises(ConfigError, match="cannot build"):  # there are no files of that name
        build(config, 0, WORLD)


@pytest.fixture
def with_bert(tmp_path, monkeypatch):
    """A model with a small BERT, whose folder has its config.json and tokenizer; no hub knows its name."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["[PAD]", "[UNK]", "[SEP]", "red", "blue", "circle", "a"]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
    )
    folder = tmp_path / "bert"
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=12, **sizes)
    bert.to_json_file(folder / "config.json")
    names = {"hf_model_name": "nobody/bert", "hf_tokenizer_name": "nobody/bert"}
    text = {**names, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear", "context_length": 12}
    config = {**MODEL, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    # open_clip itself builds it where the tower's name is a folder's.
    here = {"model_cfg": {**config, "text_cfg": {**text, "hf_model_name": str(folder)}}, "preprocess_cfg": {}}
    (tmp_path / "here").mkdir()
    (tmp_path / "here/open_clip_config.json").write_text(json.dumps(here))
    model = open_clip.create_model(f"local-dir:{tmp_path}/here", load_weights=False, pretrained_text=False).eval()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder, config, model


SENTENCES = ["a red circle", "a blue circle", "red"]


@pytest.mark.huggingface
def test_a_hugging_face_tower_is_built_from_the_folder_without_a_hub(with_bert, tmp_path):
    folder, config, model = with_bert
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(SENTENCES)
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(load_encoder(folder).encode_texts(SENTENCES), expected, atol=1e-6)
    # What is trained from it has the file beside it, too, and still the tower's name.
    towers = build(config, 0, WORLD, pretrained=folder)
    assert towers.description["model_cfg"]["text_cfg"]["hf_model_name"] == "nobody/bert"
    output = ShardOutput(LocalStore(tmp_path), "model")
    write_model(
        output, towers.description, towers.model.state_dict(), {"state": {}, "param_groups": []}, 0, towers.files
    )
    np.testing.assert_allclose(load_encoder(tmp_path / "data").encode_texts(SENTENCES), expected, atol=1e-6)


@pytest.mark.huggingface
def test_without_its_file_it_is_said_what_goes_where(with_bert):
    folder, config, _ = with_bert
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match="text tower") as caught:
        load_encoder(folder)
    assert caught.value.fix.endswith("put the tower's config.json and tokenizer.json beside open_clip_config.json")
    with pytest.raises(ConfigError, match=r"config.json and tokenizer.json beside the weights"):
        build(config, 0, WORLD, pretrained=folder)


def test_it_is_said_before_a_worker_starts(checkpoint, tmp_path):
    artifact = Artifact(tmp_path, Manifest(stage="model", digest="a" * 64, identity={}, location=f"{checkpoint}/"))
    artifact.manifest.files.extend(File(path=f"data/{path.name}", bytes=1) for path in checkpoint.iterdir())
    artifact = Artifact(tmp_path, artifact.manifest)
    check_artifact(artifact, Model(architecture=QUICK))
    check_artifact(artifact, None)
    with pytest.raises(ConfigError, match="other settings"):
        check_artifact(artifact, Model(architecture=MODEL))
    with pytest.raises(DataError, match="not those of this model"):
        check_artifact(artifact, Model(architecture="ViT-B-32-quickgelu"))
