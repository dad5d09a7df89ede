"""data2vec against its formula in float64, its masks, what it freezes, and what goes on from its export."""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from infra.errors import ConfigError
from infra.fusion.towers import lengths_of
from training.config import Config
from training.model.blocks import use_fast_blocks
from training.objectives.albef.sampling import MASKING, mask_words, uniform
from training.objectives.data2vec.masking import draws_for, masked_patches

VISION = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 3, "head_width": 8}
TEXT = {"context_length": 12, "vocab_size": 64, "width": 24, "heads": 2, "layers": 3}
POSITION = 11


def build(vision=None, **settings):
    torch.manual_seed(3)
    kind = open_clip.CLIP if vision is None else open_clip.CustomTextCLIP
    model = use_fast_blocks(kind(embed_dim=12, vision_cfg={**VISION, **(vision or {})}, text_cfg=TEXT))
    settings = {"kind": "data2vec", "layers": 2, "beta": 0.5, **settings}
    run = Config(batch_size=8, objective=settings)
    objective = run.objective.build(model, run, {}).double()
    for weight in objective.average.parameters():  # as after some steps
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    objective.position = POSITION
    return objective


def batch():
    """Six images, and captions of three to ten tokens between CLIP's two special ones, here 62 and 63."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.zeros(6, 12, dtype=torch.int64)
    for row, length in zip(texts, (3, 10, 5, 4, 8, 6), strict=True):
        words = torch.randint(1, 62, (length - 2,), generator=generator)
        row[:length] = torch.cat([torch.tensor([62]), words, torch.tensor([63])])
    return torch.randn(6, 3, 16, 16, generator=generator).double(), texts


def plain_transformer(tower, x, mask=None):
    """Every block's output (b, n, width), from the published pre-norm equations."""
    outputs = []
    for block in tower.transformer.resblocks:
        heads, normed = block.attn.num_heads, block.ln_1(x)
        query, key, value = (
            part.unflatten(2, (heads, -1)).transpose(1, 2)
            for part in F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=2)
        )
        logits = query @ key.mT / math.sqrt(query.shape[-1]) + (0 if mask is None else mask)
        x = x + block.attn.out_proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
        outputs.append(x)
    return outputs


def plain_image_tower(visual, images, hidden=None, embedding=None):
    """The patches' tokens after each block, and after the last norm; ``hidden`` patches show ``embedding``."""
    pieces = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    patches = pieces @ visual.conv1.weight.flatten(1).T
    if hidden is not None:
        patches = torch.where(hidden[..., None], embedding, patches)
    start = visual.class_embedding.expand(len(images), 1, -1)
    x = visual.ln_pre(torch.cat([start, patches], dim=1) + visual.positional_embedding)
    layers = plain_transformer(visual, x)
    return [layer[:, 1:] for layer in layers], visual.ln_post(layers[-1])[:, 1:]


def plain_text_tower(model, texts, hidden=None, embedding=None):
    words = model.token_embedding.weight[texts.clamp(max=63)]
    if hidden is not None:
        words = torch.where(hidden[..., None], embedding, words)
    mask = torch.full((12, 12), -torch.inf).triu(1).double()
    layers = plain_transformer(model, words + model.positional_embedding, mask)
    return layers, model.ln_final(layers[-1])


def plain_loss(objective, predicted, layers, masked):
    """Equation 3 of the paper, over the masked tokens of the batch."""
    normed = [(x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() for x in layers]
    gap = (objective.head(predicted) - (normed[-2] + normed[-1]) / 2)[masked].abs()
    beta = objective.config.beta
    return torch.where(gap <= beta, gap**2 / 2 / beta, gap - beta / 2).mean()


def test_images_loss_is_the_formula():
    objective, (images, texts) = build(), batch()
    masked = masked_patches(uniform(0, MASKING, POSITION, 6, draws_for((4, 4))), (4, 4), 0.6)
    layers, _ = plain_image_tower(objective.average.average, images)
    _, seen = plain_image_tower(objective.model.visual, images, masked, objective.mask_embedding)
    check(objective, images, texts, plain_loss(objective, seen, [x.detach() for x in layers], masked))


def test_texts_loss_is_the_formula():
    objective, (images, texts) = build(modality="text", mask_rate=0.4), batch()
    draws = uniform(0, MASKING, POSITION, 6, 36).view(6, 3, 12)
    hidden, masked = mask_words(texts, lengths_of(texts), draws, 0.4, 64)
    layers, _ = plain_text_tower(objective.average.average, texts)
    _, seen = plain_text_tower(objective.model, hidden, hidden == 64, objective.mask_embedding)
    assert 0 < (hidden == 64).sum() < masked.sum()
    check(objective, images, texts, plain_loss(objective, seen, [x.detach() for x in layers], masked))


def check(objective, images, texts, expected):
    found = objective.loss(objective(images, texts))["loss"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    learnt = [weight for weight in objective.parameters() if weight.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, learnt) for loss in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
        assert a.any()


@pytest.mark.parametrize(
    ("modality", "vision"),
    [("image", None), ("text", None), ("image", {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160})],
)
def test_what_the_loss_does_not_reach_is_frozen(modality, vision):
    objective, (images, texts) = build(vision, modality=modality, layers=1), batch()
    images = F.interpolate(images, objective.model.visual.image_size)
    before = {name: weight.clone() for name, weight in objective.named_parameters()}
    objective.loss(objective(images, texts))["loss"].backward()
    learnt = {name for name, weight in objective.named_parameters() if weight.requires_grad}
    assert learnt == {name for name, weight in objective.named_parameters() if weight.grad is not None}
    torch.optim.SGD([weight for weight in objective.parameters() if weight.requires_grad], 0.1).step()
    objective.after_step(8)
    moved = {name for name, weight in objective.named_parameters() if not torch.equal(weight, before[name])}
    assert learnt <= moved
    other = "model.visual" if modality == "text" else "model.transformer"
    assert not any(name.startswith(other) for name in moved)


def test_the_average_slows_down():
    objective = build(momentum=0.5, final_momentum=0.9, momentum_warmup=100)
    weight, average = objective.model.visual.proj.data, objective.average.average.proj.data
    for samples, decay in ((0, 0.5), (50, 0.7), (100, 0.9), (10_000, 0.9)):
        expected = decay * average + (1 - decay) * weight
        objective.after_step(samples)
        torch.testing.assert_close(average, expected)


@pytest.mark.parametrize("grid", [(4, 4), (14, 14), (7, 16), (1, 2)])
@pytest.mark.parametrize("rate", [0.02, 0.6, 0.99])
def test_masks_are_exact_and_each_samples_own(grid, rate):
    draws = uniform(0, 3, 5, 300, draws_for(grid))
    masked, patches = masked_patches(draws, grid, rate), grid[0] * grid[1]
    assert (masked.sum(dim=1) == min(max(1, round(rate * patches)), patches - 1)).all()
    assert torch.equal(masked[100:], masked_patches(draws[100:], grid, rate))


def test_masks_are_blocks_all_over_the_image():
    grid = (14, 14)
    masked = masked_patches(uniform(0, 3, 0, 2000, draws_for(grid)), grid, 0.6).view(-1, *grid).double()
    agree = (masked[:, 1:] == masked[:, :-1]).double().mean()
    single = 0.6**2 + 0.4**2  # of patches masked by themselves
    assert agree > single + 0.2
    assert 0.3 < masked.mean(dim=0).min() < masked.mean(dim=0).max() < 0.9


@pytest.mark.parametrize(
    ("settings", "vision", "message"),
    [
        ({"layers": 4}, None, "fewer layers"),
        ({}, {"patch_dropout": 0.5}, "patches are dropped"),
        ({}, {"layers": [1, 1, 1, 1], "image_size": 32}, "tokens"),
    ],
)
def test_towers_that_do_not_fit_are_refused(settings, vision, message):
    with pytest.raises(ConfigError, match=message):
        build(vision, **settings)


def test_a_locked_tower_is_refused():
    model = open_clip.CLIP(embed_dim=12, vision_cfg=VISION, text_cfg=TEXT)
    model.lock_image_tower()
    run = Config(batch_size=8, objective={"kind": "data2vec", "layers": 1})
    with pytest.raises(ConfigError, match="locked"):
        run.objective.build(model, run, {})
