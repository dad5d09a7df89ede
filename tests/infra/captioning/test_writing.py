"""Captions written with a memory, against the same models without one, all captions there are, and open_clip's own."""

from __future__ import annotations

import itertools
import json
from functools import cache

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from infra.captioning.captioner import ModelCaptioner
from infra.captioning.coca import CoCaDecoder
from infra.captioning.config import Beam, Decoding, Greedy, Nucleus
from infra.captioning.prefix import PrefixCaptioner, PrefixDecoder
from infra.encoder.open_clip import load_encoder
from infra.errors import DataError

pytestmark = pytest.mark.long  # models

IMAGES = 5


def coca(vocabulary, context=14, seed=0):
    """A CoCa whose captions depend on the image and on every word before."""
    torch.manual_seed(seed)
    text = {"context_length": context, "vocab_size": vocabulary, "width": 32, "heads": 2, "layers": 2}
    vision = {
        "image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16, "output_tokens": True,
        "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2,
    }  # fmt: skip
    model = open_clip.CoCa(32, text, {**text, "embed_cls": True, "output_tokens": True}, vision).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("text."):
                weight *= 5
        model.text_decoder.text_projection.normal_(std=0.3)
    return model


class Prefixed(torch.nn.Module):
    """A model whose feature of an image is some of its pixels, and a captioner of such features."""

    def __init__(self, vocabulary, context=14):
        super().__init__()
        torch.manual_seed(1)
        sizes = {"features": 12, "prefix": 3, "width": 32, "layers": 2, "heads": 2}
        self.captioner = PrefixCaptioner(vocabulary=vocabulary, context=context, **sizes).double().eval()
        with torch.no_grad():
            for weight in self.captioner.parameters():
                weight *= 4

    def encode_image(self, images):
        return images[:, :, ::8, ::8].flatten(1)


def opened(kind, vocabulary, context=14):
    """A function from images to their decoder, and one from an image and tokens to the logits of the next."""
    ends = vocabulary - 2, vocabulary - 1
    if kind == "coca":
        model = coca(vocabulary, context)
        return (
            lambda images: CoCaDecoder(model, images, ends, range(len(images))),
            lambda image, tokens: model(image[None], torch.tensor([tokens]), output_labels=False)["logits"][0, -1],
        )
    model = Prefixed(vocabulary, context)

    def alone(image, tokens):
        feature = torch.nn.functional.normalize(model.encode_image(image[None]).float(), dim=-1)
        return model.captioner.words(model.captioner(feature.double(), torch.tensor([tokens])))[0, -1]

    class Double(PrefixDecoder):
        def __init__(self, *seen):
            super().__init__(*seen)
            self._features = self._features.double()

    return lambda images: Double(model.captioner, model, images, ends, range(len(images))), alone


def pictures(count=IMAGES):
    return torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def plain(rows, end):
    """Captions without their start, end and padding."""
    return [row[1 : row.index(end) if end in row else len(row)] for row in rows.tolist()]


def spoken(logits, end, barred=False):
    """Log-probabilities of the next token: never padding, perhaps not the end."""
    logits[0] = -torch.inf
    scores = logits.log_softmax(-1)
    if barred:
        scores[end] = -torch.inf
    return scores


@pytest.mark.parametrize("kind", ["coca", "clipcap"])
@torch.inference_mode()
def test_one_by_one_with_a_memory_is_reading_all_again(kind):
    decoder, alone = opened(kind, 40)
    images = pictures()
    for config in (Greedy(shortest=4), Nucleus(top_p=0.8, temperature=0.7, seed=5, longest=9)):
        expected = []
        for number, image in enumerate(images):
            draws = np.random.default_rng([5, number]).random(14)
            tokens = [38]
            while len(tokens) < min(config.longest, 14) and tokens[-1] != 39:
                scores = spoken(alone(image, tokens), 39, barred=len(tokens) < config.shortest)
                if config.kind == "greedy":
                    tokens.append(int(scores.argmax()))
                    continue
                shares = (scores / 0.7).softmax(-1)
                kept, total = [], 0.0
                for token in shares.argsort(descending=True).tolist():
                    if total >= 0.8:
                        break
                    kept.append(token)
                    total += float(shares[token])
                left = draws[len(tokens)] * total
                for token in kept:
                    left -= float(shares[token])
                    if left < 0:
                        break
                tokens.append(token)
            expected.append(tokens[1 : -1 if tokens[-1] == 39 else None])
        found = plain(config.search(decoder(images)), 39)
        assert found == expected
        assert len({*map(tuple, found)}) > 1  # images matter
        assert plain(config.search(decoder(images[:2])), 39) == expected[:2]


@pytest.mark.parametrize("kind", ["coca", "clipcap"])
@torch.inference_mode()
def test_a_beam_as_wide_as_all_captions_finds_the_best(kind):
    """All captions of up to three tokens between start and end, each scored by itself."""
    decoder, alone = opened(kind, 6, context=5)
    images = pictures(3)
    for image in images:
        likely = cache(lambda words, image=image: spoken(alone(image, [4, *words]), 5))
        for penalty in (0.0, 1.0):
            scored = {}
            for length in range(5):
                for words in itertools.product((1, 2, 3, 4), repeat=length):
                    # The longest are cut by the context, without an end.
                    tokens = words if length == 4 else (*words, 5)
                    total = sum(float(likely(words[:place])[token]) for place, token in enumerate(tokens))
                    scored[words] = total / (1 + len(tokens)) ** penalty
            found = Beam(beams=260, length_penalty=penalty).search(decoder(image[None]))
            assert plain(found, 5) == [list(max(scored, key=scored.get))]


@torch.inference_mode()
def test_tokens_are_open_clips():
    """open_clip leaves out the softmax between the steps of its beam; with it in the model, the captions are equal."""
    pytest.importorskip("transformers", reason="open_clip writes with transformers below 4.57")
    if not open_clip.coca_model._has_transformers:
        pytest.skip("this transformers has no BeamSearchScorer")
    model = coca(60).float()

    class Soft(open_clip.CoCa):
        def forward(self, *arguments, **options):
            out = super().forward(*arguments, **options)
            if "logits" in out:
                out["logits"][..., 0] = -1e9
                out["logits"] = out["logits"].log_softmax(-1)
            return out

    model.__class__ = Soft
    lengths = set()
    for seed in range(6):
        images = torch.randn(IMAGES, 3, 16, 16)
        model.text_decoder.text_projection.normal_(std=0.3)
        model.text_decoder.ln_final.bias.copy_(0.2 * seed * model.text_decoder.text_projection[:, 59])
        for shortest, beams in itertools.product((0, 5), (1, 2, 5)):
            options = {"num_beams": beams, "num_beam_groups": 1} if beams > 1 else {"top_k": 1}
            theirs = model.generate(
                images, generation_type="beam_search" if beams > 1 else "top_k", seq_len=14, max_seq_len=14,
                sot_token_id=58, eos_token_id=59, pad_token_id=0, min_seq_len=shortest, **options,
            )  # fmt: skip
            config = Beam(beams=beams, shortest=shortest) if beams > 1 else Greedy(shortest=shortest)
            ours = config.search(CoCaDecoder(model, images, (58, 59), range(IMAGES)))
            for own, other in zip(plain(ours, 59), plain(theirs, 59), strict=True):
                assert own[:12] == other[:12]  # theirs puts an end last
                lengths.add(len(own))
    assert len(lengths) > 3


def test_captions_come_from_a_models_folder(tmp_path):
    """Texts of whole pictures, the same in batches of two and of five."""
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8, "output_tokens": True}
    pool = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}
    described = {
        "embed_dim": 16, "vision_cfg": {**vision, **pool}, "multimodal_cfg": text,
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
    }  # fmt: skip
    torch.manual_seed(0)
    model = open_clip.CoCa(**described)
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.3)
    torch.save(model.state_dict(), tmp_path / "open_clip_model.bin")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": {**described, "custom_text": True}, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    shown = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (20, 24, 3), np.uint8)) for n in range(IMAGES)]
    encoder = load_encoder(tmp_path, batch_size=2)
    captioner = ModelCaptioner(encoder)
    found = captioner.write(iter(shown), Nucleus())
    encoder.batch_size = 5
    assert captioner.write(shown, Nucleus()) == found
    assert captioner.write([], Greedy()) == []
    assert len({*found}) == IMAGES
    assert all(text == text.strip() for text in found)
    assert captioner.write(shown, Nucleus(seed=1)) != found


def test_a_way_of_ones_own(tmp_path):
    class Constant(Decoding):
        def search(self, decoder):
            return torch.full((len(decoder.numbers), 3), 7)

    assert Decoding.named("constant") is Constant
    decoder, _ = opened("coca", 40)
    assert Constant().search(decoder(pictures(2))).tolist() == [[7, 7, 7]] * 2


def test_what_cannot_write_is_refused(tmp_path):
    sizes = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8}
    described = {"embed_dim": 16, "vision_cfg": vision}
    model = open_clip.CLIP(**described, text_cfg=sizes)
    torch.save(model.state_dict(), tmp_path / "open_clip_model.bin")
    config = {"model_cfg": {**described, "text_cfg": sizes}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="writes no captions"):
        ModelCaptioner(load_encoder(tmp_path))
