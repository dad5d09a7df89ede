"""Packed captions against open_clip's own encode_text: the same features, the same gradients."""

import copy

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.model.blocks import FastBlock, encode_image, use_fast_blocks
from training.model.text import encode_text, pack

CONTEXT = 24
START, END = 98, 99
TEXT = {"context_length": CONTEXT, "vocab_size": 100, "width": 32, "heads": 4, "layers": 3}
VISION = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8}


def build(kind=open_clip.CLIP, text=None, vision=None):
    torch.manual_seed(0)
    model = kind(16, {**VISION, **(vision or {})}, {**TEXT, **(text or {})}).double()
    for weight in model.parameters():  # open_clip's initial gains and biases are ones and zeros, which would hide a lot
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def captions(lengths=(2, 5, 24, 3, 24, 7, 9, 2, 12, 6, 6, 4, 3, 2, 2, 5)):
    """Tokens (b, CONTEXT), random ones behind the end, too: they must not matter."""
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(1, START, (len(lengths), CONTEXT), generator=generator)
    texts[:, 0] = START
    texts[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = END
    return texts


def gradients(model, encode, inputs):
    """Features, and the gradient of something that depends on all of them in each weight."""
    model.zero_grad()
    torch.manual_seed(3)  # patch dropout
    features = encode(model, inputs)
    (features * torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)).sum().backward()
    return features.detach(), {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def assert_same(ours, theirs, rtol=1e-10):
    torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=rtol)
    assert set(ours[1]) == set(theirs[1])
    largest = float(max(gradient.abs().max() for gradient in theirs[1].values()))  # some are zero but for rounding
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, rtol=rtol, atol=rtol * largest, msg=name)


def plain_text(model, texts):
    return model.encode_text(texts)


def plain_image(model, images):
    return model.encode_image(images)


# --- captions ---------------------------------------------------------------------------------------------------------

CAUSAL = {
    "clip": (open_clip.CLIP, {}),
    "custom text": (open_clip.CustomTextCLIP, {}),
    "read at its own end token": (open_clip.CustomTextCLIP, {"pool_type": "eos", "eos_id": END, "proj_bias": True}),
    "without projection": (open_clip.CustomTextCLIP, {"proj_type": "none"}),
    "with layer scale": (open_clip.CLIP, {"ls_init_value": 0.5, "mlp_ratio": 2}),
    "with blocks of its own": (open_clip.CLIP, {"qk_norm": True, "scale_heads": True}),
}


@pytest.mark.parametrize("case", CAUSAL)
def test_packing_changes_neither_features_nor_gradients(case):
    model = build(*CAUSAL[case])
    theirs = gradients(model, plain_text, captions())
    ours = gradients(use_fast_blocks(copy.deepcopy(model)), encode_text, captions())
    assert_same(ours, theirs)


def test_in_fp32_features_agree_to_rounding():
    model = build().float()
    assert_same(
        gradients(use_fast_blocks(copy.deepcopy(model)), encode_text, captions()),
        gradients(model, plain_text, captions()),
        1e-5,
    )


def test_it_computes_the_tokens_that_count_only():
    """The blocks see fewer tokens, and the last one's MLP only those that are read."""
    model = use_fast_blocks(build())
    seen = []
    for block in model.transformer.resblocks:
        block.mlp.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[0] * x[0].shape[1]))
    encode_text(model, captions())
    *before, last = seen
    count = sum([2, 5, 24, 3, 24, 7, 9, 2, 12, 6, 6, 4, 3, 2, 2, 5])
    assert all(count <= tokens <= 1.4 * count for tokens in before), (seen, count)
    assert last <= 2 * 16 + 8


PLAIN = {
    "not causal": (open_clip.CustomTextCLIP, {"no_causal_mask": True, "pool_type": "last"}),
    "read at the last place": (open_clip.CustomTextCLIP, {"pool_type": "last"}),
    "with a class token": (open_clip.CustomTextCLIP, {"embed_cls": True}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_towers_that_look_at_padding_get_it(case):
    model = build(*PLAIN[case])
    assert_same(
        gradients(use_fast_blocks(copy.deepcopy(model)), encode_text, captions()),
        gradients(model, plain_text, captions()),
    )


def test_coca_gets_its_padding():
    from open_clip.coca_model import CoCa

    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    text = {**TEXT, "embed_cls": True, "output_tokens": True, "pad_id": 0}
    multimodal = {"context_length": CONTEXT, "vocab_size": 100, "width": 32, "heads": 4, "layers": 2}
    torch.manual_seed(0)
    model = CoCa(32, multimodal, text, vision).double().eval()
    nn.init.normal_(model.text_decoder.text_projection)  # open_clip leaves it as memory happened to be
    ours = use_fast_blocks(copy.deepcopy(model))
    assert [type(block) is FastBlock for block in ours.text.transformer.resblocks] == [True] * 3
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model(images, captions((4, 9))), ours(images, captions((4, 9)))
        torch.testing.assert_close(encode_text(ours, captions((4, 9))), model.encode_text(captions((4, 9))))
        torch.testing.assert_close(encode_image(ours, images), model.encode_image(images))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_gradient_checkpointing_changes_nothing():
    model = use_fast_blocks(build(vision={"patch_dropout": 0.5}))
    plain = [
        gradients(model, encode_text, captions()),
        gradients(model, encode_image, torch.rand(4, 3, 16, 16).double()),
    ]
    torch.manual_seed(0)
    model.set_grad_checkpointing()
    images = torch.rand(4, 3, 16, 16).double()
    again = gradients(model, encode_image, images)
    model.set_grad_checkpointing(False)
    assert_same(again, gradients(model, encode_image, images))
    model.set_grad_checkpointing()
    assert_same(gradients(model, encode_text, captions()), plain[0])


def test_under_autocast_it_is_as_exact_as_open_clip():
    model = build().float()
    exact = model.encode_text(captions())
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = model.encode_text(captions()), encode_text(use_fast_blocks(copy.deepcopy(model)), captions())
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours - exact).abs().max() < 1.5 * (theirs - exact).abs().max()


@given(st.lists(st.integers(1, 77), min_size=1, max_size=200))
def test_every_token_has_one_place_and_sees_its_own_caption(lengths):
    packing = pack(np.array(lengths), 77)
    rows, width = packing.source.shape
    assert width % 16 == 0
    caption, inside = packing.segment, packing.segment >= 0
    assert sorted(packing.source[inside].tolist()) == [c * 77 + p for c, n in enumerate(lengths) for p in range(n)]
    assert (packing.source[inside] == (caption * 77 + packing.position)[inside]).all()
    for row in range(rows):  # a caption stands in one piece, first token first
        run = packing.source[row][caption[row] >= 0]
        assert ((np.diff(run) == 1) | (packing.position[row][caption[row] >= 0][1:] == 0)).all()
    at = np.arange(rows)[:, None] * width + packing.ends
    assert (
        packing.source.flatten()[at.flatten()[packing.slots]] == [c * 77 + n - 1 for c, n in enumerate(lengths)]
    ).all()


def test_little_room_is_left_over_with_captions_of_the_web():
    lengths = np.random.default_rng(0).lognormal(2.4, 0.6, 1024).clip(3, 77).astype(np.int64)
    assert lengths.sum() / pack(lengths, 77).source.size > 0.95


# --- images -----------------------------------------------------------------------------------------------------------

IMAGES = {
    "class token": {},
    "patch dropout": {"patch_dropout": 0.5},
    "layer scale": {"ls_init_value": 0.3},
    "mean of the tokens": {"pool_type": "avg"},
    "attention pooling": {"attentional_pool": True, "attn_pooler_heads": 4},
    "norm after pooling": {"final_ln_after_pool": True},
    "blocks of its own": {"scale_fc": True},
    "residual network": {"layers": (1, 1, 1, 1), "width": 8, "image_size": 32},
}


@pytest.mark.parametrize("case", IMAGES)
def test_pooling_first_changes_neither_features_nor_gradients(case):
    model = build(vision=IMAGES[case])
    size = IMAGES[case].get("image_size", 16)
    images = torch.rand(4, 3, size, size, dtype=torch.float64)
    other = use_fast_blocks(copy.deepcopy(model))
    assert_same(gradients(other, encode_image, images), gradients(model, plain_image, images))


def test_the_last_block_works_on_one_token():
    model = use_fast_blocks(build())
    seen = []
    for block in model.visual.transformer.resblocks:
        block.mlp.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    encode_image(model, torch.rand(2, 3, 16, 16).double())
    assert seen == [5, 5, 1]


def test_fast_blocks_keep_open_clips_names_and_results():
    model = build()
    other = use_fast_blocks(copy.deepcopy(model))
    assert list(other.state_dict()) == list(model.state_dict())
    assert copy.deepcopy(other).visual.transformer.resblocks[0].__class__ is FastBlock
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    assert_same(gradients(other, plain_image, images), gradients(model, plain_image, images))
    assert_same(gradients(other, plain_text, captions()), gradients(model, plain_text, captions()))
    with torch.no_grad():
        ours, theirs = (
            m.eval().forward_intermediates(images, captions(), image_indices=2, normalize=False) for m in (other, model)
        )
    torch.testing.assert_close(ours["image_intermediates"], theirs["image_intermediates"])
    torch.testing.assert_close(ours["text_features"], theirs["text_features"])


def test_blocks_with_something_special_stay_what_they_are():
    model = build()
    special = model.visual.transformer.resblocks[1]
    special.attn = nn.MultiheadAttention(32, 4, bias=False, batch_first=True).double()
    kinds = [type(block) for block in use_fast_blocks(model).visual.transformer.resblocks]
    assert kinds == [FastBlock, open_clip.transformer.ResidualAttentionBlock, FastBlock]
