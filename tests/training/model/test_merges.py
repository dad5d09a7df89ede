"""Merges of one's own for CLIP's tokenizer: learnt from captions, trained with, and beside the weights ever after."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import open_clip
import pytest
import torch
from small_data import MODEL

from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError, DataError
from infra.formats.merges import FILE, pack_merges, read_merges
from infra.formats.shards import TarWriter
from infra.run.context import ShardOutput
from infra.store import LocalStore
from training import merges as command
from training.checkpoint.export import write_folder
from training.config import Config, Model
from training.distributed.world import World
from training.merges import learn_merges
from training.model.build import build
from training.model.text import encode_text
from training.objectives.distill.objective import Teacher

pytestmark = pytest.mark.long  # models

WORLD = World()
CAPTIONS = ["a red circle, at the top", "A BLUE circle: été!", "the red star is red & dotted", "赤い 星, 赤い 丸"] * 3
MERGES = ("r e", "re d</w>", "c i", "ci r")


def written_by(tokenizer, text):
    return [tokenizer.decoder[token] for token in tokenizer.encode(text)]


@pytest.fixture
def exported(tmp_path):
    """A model built with merges, written to a folder as training writes it."""
    towers = build(Model(architecture=MODEL, merges=MERGES), 0, WORLD)
    weights = towers.model.state_dict()
    write_folder(ShardOutput(LocalStore(tmp_path), "model"), "data", towers.description, weights, towers.files)
    return towers, tmp_path / "data"


def test_each_merge_is_a_most_frequent_pair_of_its_time():
    clip = open_clip.tokenizer.SimpleTokenizer()
    counts = Counter(word for caption in CAPTIONS for word in clip.pat.findall(clip.clean_fn(caption)))
    words = []
    for word, count in counts.items():
        *inside, end = (clip.byte_encoder[byte] for byte in word.encode())
        words.append(([*inside, end + "</w>"], count))
    found = learn_merges(CAPTIONS, 540)
    assert len(found) == 26
    for merge in found:
        pairs = Counter()
        for symbols, count in words:
            for pair in pairwise(symbols):
                pairs[pair] += count
        first, second = merge.split()
        assert pairs[first, second] == max(pairs.values()), merge
        for symbols, _ in words:
            for place in range(len(symbols) - 2, -1, -1):
                if symbols[place : place + 2] == [first, second]:
                    symbols[place : place + 2] = [first + second]


def test_with_room_for_all_every_word_is_a_token(tmp_path):
    found = learn_merges(CAPTIONS, 5000)
    assert found == learn_merges(CAPTIONS[::-1], 5000) and len(found) < 4486
    (tmp_path / FILE).write_bytes(pack_merges(found))
    tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(tmp_path / FILE))
    assert tokenizer.vocab_size == 514 + len(found)
    assert len(tokenizer.encode("the red circle was dotted")) == 4 + len("was")
    assert tokenizer.decode(tokenizer.encode("unseen: ñandú 星!")).strip() == "unseen : ñandú 星 !"
    with pytest.raises(DataError, match="nothing to merge"):
        learn_merges(["", "a"], 600)


def test_the_model_has_their_vocabulary_and_open_clip_reads_what_is_written(exported, monkeypatch):
    towers, folder = exported
    assert towers.model.vocab_size == 518 and towers.description["model_cfg"]["text_cfg"]["vocab_size"] == 518
    sentence = "a red circle"
    encoder = load_encoder(folder)
    expected = encoder.tokenize([sentence])
    assert towers.tokenize(sentence).tolist() == expected[0].tolist()
    assert expected[0].max() == 517 and encoder.detokenize(expected[:, 1:2].tolist()) == ["a"]
    monkeypatch.chdir(folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert written_by(tokenizer, sentence) == ["a</w>", "red</w>", "cir", "c", "l", "e</w>"]
    assert torch.equal(tokenizer([sentence]), expected)
    with torch.no_grad():
        features = open_clip.create_model(f"local-dir:{folder}").eval().encode_text(expected)
        torch.testing.assert_close(encode_text(towers.model.eval(), expected), features)
    unit = torch.nn.functional.normalize(features, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_texts([sentence]), unit, atol=1e-6)


def test_a_coca_writes_with_them(tmp_path):
    from PIL import Image

    from infra.captioning.captioner import ModelCaptioner
    from infra.captioning.config import Greedy

    decoder = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {
        **MODEL,
        "vision_cfg": {**MODEL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": decoder,
        "custom_text": True,
    }
    towers = build(Model(architecture=config, merges=MERGES), 0, WORLD)
    weights = towers.model.state_dict()
    assert weights["text_decoder.text_projection"].shape == (16, 518)
    write_folder(ShardOutput(LocalStore(tmp_path), "model"), "data", towers.description, weights, towers.files)
    writer = ModelCaptioner(load_encoder(tmp_path / "data"))
    (tokens,) = writer.tokens([Image.new("RGB", (16, 16))], Greedy(longest=8))
    assert tokens and max(tokens) < 518


def test_training_goes_on_with_them(exported):
    towers, folder = exported
    model = Model(architecture=f"local-dir:{folder}")
    assert model.merges == MERGES
    again = build(model, 1, WORLD, pretrained=folder)
    assert again.files == towers.files == {FILE: pack_merges(MERGES)}
    assert again.tokenize.identity == towers.tokenize.identity
    described = build(towers.description, 1, WORLD, pretrained=folder)
    assert described.files == towers.files
    with pytest.raises(ConfigError, match="other merges"):
        build(Model(architecture=MODEL, merges=(*MERGES[:3], "a t")), 0, WORLD, pretrained=folder)
    with pytest.raises((ConfigError, DataError), match="not those of this model"):
        build(MODEL, 0, WORLD, pretrained=folder)


def test_a_teacher_reads_the_same_tokens(exported):
    towers, folder = exported
    Teacher(folder, towers.model, MERGES)
    for others in (None, (*MERGES[:3], "a t")):
        with pytest.raises(ConfigError, match="tokens"):
            Teacher(folder, towers.model, others)


def test_tokens_that_differ_in_a_rare_word_are_kept_apart():
    one, two = (build(Model(architecture=MODEL, merges=(*MERGES, rare)), 0, WORLD) for rare in ("ci v", "ci x"))
    assert one.tokenize.identity != two.tokenize.identity


def test_a_file_counts_by_what_it_says(tmp_path):
    (tmp_path / "plain.txt").write_text("\n".join(MERGES) + "\n")
    (tmp_path / "versioned.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    (tmp_path / FILE).write_bytes(pack_merges(MERGES))
    found = [Config(model={"architecture": MODEL, "merges": str(path)}) for path in sorted(tmp_path.iterdir())]
    assert {one.model.merges for one in found} == {MERGES}
    with pytest.raises(ConfigError, match="holds no merges"):
        Model(architecture="ViT-B-32", merges=("missing.txt",))  # as --set writes a tuple of one
    with pytest.raises(ConfigError, match="holds no merges"):
        Model(merges=str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="holds no merges"):
        read_merges(pack_merges(MERGES)[:-9], "half a file")


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([], "so many"),
        (["re", "a b"], "no pair"),
        (["r e", "r  e"], "no pair"),
        (["a b", "ab c", "b c", "a bc"], "one token"),
        ([f"a {number}" for number in range(48_895)], "so many"),
    ],
)
def test_what_are_no_merges_is_refused(merges, message):
    with pytest.raises(ConfigError, match=message):
        Model(merges=merges)


def test_a_hugging_face_tokenizer_has_its_own():
    config = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "hf_tokenizer_name": "nobody/words"}}
    with pytest.raises(ConfigError, match="for CLIP's tokenizer"):
        build(Model(architecture=config, merges=MERGES), 0, WORLD)


def test_the_command_reads_shards_as_training_does(tmp_path, capsys):
    with (tmp_path / "00000.tar").open("wb") as sink, TarWriter(sink) as tar:
        for number, caption in enumerate(CAPTIONS):
            tar.add(f"{number}.jpg", b"")
            tar.add(f"{number}.json", json.dumps({"said": caption if number else None}).encode())
        tar.add("last.jpg", b"")
    options = ["--shards", str(tmp_path), "--caption-key", "json:said", "--vocabulary", "540"]
    assert command.main(options) == 0
    assert tuple(capsys.readouterr().out.splitlines()) == learn_merges(CAPTIONS[1:], 540)
    (tmp_path / "00000.tar").write_bytes(b"no tar" * 200)
    assert command.main(options) == DataError.exit_code
    assert "00000.tar" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([*options[:-1], "514"])
