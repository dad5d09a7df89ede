"""ViLBERT's objective against its losses written out pair by pair and against itself split up, and what it learns."""

import json

import numpy as np
import open_clip
import pytest
import torch
from nesting import nested
from small_data import MODEL
from small_steps import steps_of
from test_albef_parts import batch, build, candidates
from torch import nn

from infra.formats.region_shape import RegionShape
from infra.formats.regions import pack
from infra.fusion.network import Layout
from infra.run.context import Context
from infra.store import LocalStore
from training import loop, train
from training.data.samples import Shards
from training.distributed.world import World
from training.inputs import Inputs
from training.model.blocks import use_fast_blocks
from training.objectives import vilbert
from training.objectives.albef import sampling
from training.objectives.vilbert.objective import ViLBERT
from workflows.demo.compositions import pair
from workflows.demo.regions import detect
from workflows.demo.scenes import COMBINATIONS

pytestmark = pytest.mark.long  # trains

BATCH = 16
MOST, FEATURES, CLASSES = 4, 6, 5


def config(**changes):
    values = {
        "objective__kind": "vilbert", "batch_size": BATCH, "seed": 5, "objective__itm_weight": 0.7,
        "objective__mlm_weight": 1.3, "objective__mrm_weight": 0.9, "objective__negatives_among": 4,
        "objective__mask_rate": 0.3, "objective__layers": 2, "objective__most_regions": MOST,
        "objective__features": FEATURES, "objective__classes": CLASSES,
    }  # fmt: skip
    return train.Config(**nested({**values, **changes}))


def objective(**changes):
    settings = config(**changes)
    return ViLBERT(use_fast_blocks(build()), settings.objective, settings)


def tables(count=BATCH, seed=0):
    """One to four regions of each image, as a loader hands them over."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, MOST, 2, generator=draw) / 2
    far = corners + 0.1 + torch.rand(count, MOST, 2, generator=draw) / 3
    classes = torch.rand(count, MOST, CLASSES, generator=draw)
    features = torch.randn(count, MOST, FEATURES, generator=draw)
    found = torch.cat([features, corners, far, classes / classes.sum(-1, keepdim=True)], -1)
    return found * (torch.arange(MOST) <= torch.arange(count)[:, None] % MOST)[..., None]


def samples(seed):
    return tables(seed=seed), batch(BATCH, seed=seed)[1]


def steps(parts=1, kind="ddp", dtype=torch.float64, count=2, **changes):
    """What ``count`` steps of this rank come to: losses; on rank 0 gradients."""
    given = objective(**changes), config(cluster__parallel=kind, **changes), samples, BATCH
    losses, gradients, _ = steps_of(*given, parts=parts, dtype=dtype, count=count)
    return losses, gradients


def alone(module, table, ids):
    """One text (n,) and the regions of one table, both without padding and without masks: tokens of both streams."""
    fusion, model = module.fusion, module.model
    regions = table[table[:, FEATURES + 2] > 0]
    left, top, right, bottom = regions[:, FEATURES : FEATURES + 4].T
    places = torch.stack([left, top, right, bottom, (right - left) * (bottom - top)], -1)
    seen = regions[:, :FEATURES] @ fusion.feature_in.weight.T + fusion.feature_in.bias
    seen = fusion.region_norm(seen + places @ fusion.place_in.weight.T + fusion.place_in.bias)
    embedded = model.token_embedding(ids.clamp(max=63))
    embedded = torch.where((ids == 64)[:, None], fusion.mask_embedding, embedded)
    x = embedded + model.positional_embedding[: len(ids)]
    for block in model.transformer.resblocks:
        hidden = torch.full((len(ids), len(ids)), -torch.inf, dtype=x.dtype).triu(1)
        y = block.ln_1(x)[:, None]
        x = x + nn.functional.multi_head_attention_forward(
            y, y, y, 24, 2, block.attn.in_proj_weight, block.attn.in_proj_bias, None, None, False, 0.0,
            block.attn.out_proj.weight, block.attn.out_proj.bias, need_weights=False, attn_mask=hidden,
        )[0][:, 0]  # fmt: skip
        x = x + block.mlp(block.ln_2(x))
    words = model.ln_final(x)
    of_words, of_regions = (Layout(torch.tensor([len(part)]), torch.device("cpu")) for part in (words, seen))
    of_words.width, of_regions.width = len(words), len(seen)
    for layout in (of_words, of_regions):
        layout.real, layout.places = None, torch.arange(layout.width)
    for word_block, region_block in zip(fusion.word_blocks, fusion.region_blocks, strict=True):
        words, seen = word_block(words, of_words, seen[None]), region_block(seen, of_regions, words[None])
    return fusion.norm(words), seen


def by_hand(module, tables, texts):
    itm, mlm, mrm, lengths = [], [], [], texts.argmax(-1) + 1
    draws = sampling.uniform(5, sampling.HARD_NEGATIVES, module.position, BATCH, 9)
    noise, shown = -torch.log(-torch.log(draws)), []
    for i, length in enumerate(lengths):
        others = [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if texts[j].tolist() != texts[i].tolist()]
        wrong = draws[i, 8] < 0.5
        shown.append(max(others, key=lambda j: noise[i, 4 + j % 4].item()) if wrong else i)
        fused, _ = alone(module, tables[shown[-1]], texts[i, :length])
        logit = module.fusion.match_head(fused[-1])[0]
        itm.append(torch.log1p(torch.exp(logit if wrong else -logit)))
    of_words = sampling.uniform(5, sampling.MASKING, module.position, BATCH, 48).view(BATCH, 3, 16)
    of_regions = sampling.uniform(5, sampling.MASKED_REGIONS, module.position, BATCH, 8).view(BATCH, 2, 4)
    for i, length in enumerate(lengths.tolist()):
        ids, table = texts[i, :length].clone(), tables[i].clone()
        hidden = [place for place in range(1, length - 1) if of_words[i, 0, place] < 0.3]
        for place in hidden:
            kind = of_words[i, 1, place]
            ids[place] = 64 if kind < 0.8 else int(of_words[i, 2, place] * 62) if kind < 0.9 else ids[place]
        there = [row for row in range(MOST) if table[row].any()]
        masked = [row for row in there if of_regions[i, 0, row] < 0.3]
        for row in masked:
            if of_regions[i, 1, row] < 0.9:
                table[row, :FEATURES] = 0
        fused, seen = alone(module, table, ids)
        for place in hidden:
            scores = module.fusion.word_head(fused[place]) @ module.model.token_embedding.weight.T
            mlm.append(-(scores + module.fusion.word_bias).log_softmax(-1)[texts[i, place]])
        for row in masked:
            right, guess = table[row, -CLASSES:], module.fusion.class_head(seen[there.index(row)]).softmax(-1)
            mrm.append(sum(p * torch.log(p / q) for p, q in zip(right, guess, strict=True)))
    assert shown != list(range(BATCH))
    assert len(mrm) > 3
    return {name: sum(own) / len(own) for name, own in (("itm", itm), ("mlm", mlm), ("mrm", mrm))}


def test_losses_and_gradients_are_the_papers():
    module = objective().double()
    images, texts = tables(seed=99).double(), batch(BATCH, seed=99)[1]
    texts[5] = texts[6]  # not a negative of its twin
    module.position = BATCH + 4
    losses = module.loss(module(images, texts))
    losses["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.requires_grad}
    module.zero_grad()
    expected = by_hand(module, images, texts)
    (0.7 * expected["itm"] + 1.3 * expected["mlm"] + 0.9 * expected["mrm"]).backward()
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-10), name
    for name, gradient in found.items():
        own = dict(module.named_parameters())[name].grad
        assert gradient.numpy() == pytest.approx(own.numpy(), rel=1e-8, abs=1e-12), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("name", ["itm", "mlm", "mrm"])
def test_every_weight_that_learns_is_used_whatever_the_losses(name):
    module = objective(**{f"objective__{name}_weight": 0.0})
    regions = tables()[..., : FEATURES + 4] if name == "mrm" else tables()
    module.loss(module(regions, batch(BATCH)[1]))["loss"].backward()
    assert not [name for name, weight in module.named_parameters() if weight.requires_grad and weight.grad is None]


@pytest.fixture(scope="module")
def whole():
    return steps()


@pytest.mark.parametrize(("size", "parts", "kind"), [(1, 4, "ddp"), (2, 2, "ddp"), (4, 1, "ddp"), (2, 1, "fsdp")])
def test_ranks_and_parts_change_nothing(ranks, whole, size, parts, kind):
    dtype = torch.float32 if kind == "fsdp" else torch.float64
    results = ranks(size, steps, parts, kind, dtype) if size > 1 else [steps(parts, cluster__grad_checkpointing=True)]
    rel, tiny = (1e-3, 2e-6) if kind == "fsdp" else (1e-8, 1e-12)
    for number, line in enumerate(whole[0]):
        for name, loss in line.items():
            assert sum(result[0][number][name] for result in results) / size == pytest.approx(loss, rel=rel), name
    assert set(results[0][1]) == set(whole[1])
    for name, gradient in whole[1].items():
        assert results[0][1][name] == pytest.approx(gradient, rel=rel, abs=tiny), name


def scored(count=3):
    """Tables for the captions of ``candidates``, of the widths of the demo's regions."""
    shape = RegionShape(6, 32, 0)
    return torch.from_numpy(np.stack([pack(detect(pair("attribute", n)[0]), shape) for n in range(count)]))


def go(folder, shards):
    values = {
        "model__architecture": MODEL, "batch_size": 8, "samples": 32, "optimizer__lr": 3e-3,
        "objective__kind": "vilbert", "objective__negatives_among": 2, "objective__most_regions": 6,
        "objective__features": 32, "objective__mrm_weight": 0, "objective__layers": 1,
    }  # fmt: skip
    tars = Shards(LocalStore(shards), ["00000.tar"])
    settings = train.Config(**nested(values))
    trainer = loop.Trainer(settings, Inputs({"shards": tars}), Context(folder), World.join(torch.device("cpu")))
    trainer.run()
    trainer.finish()
    _, texts, image_of = candidates()
    return trainer.objective.eval().matcher().match(scored(), texts, image_of).tolist()


def test_the_loaded_model_scores_as_the_trained_one(ranks, region_shards, tmp_path):
    expected, *_ = ranks(1, go, tmp_path, region_shards)
    _, texts, image_of = candidates()
    matcher = vilbert.load(tmp_path)
    assert matcher.match(scored(), texts, image_of).tolist() == pytest.approx(expected, abs=1e-6)
    assert len({round(score, 5) for score in expected}) > 3
    described = json.loads((tmp_path / "data/fusion/config.json").read_text())
    assert (described["kind"], described["regions"]) == ("co_attention", [6, 32, 0])


def test_masked_words_are_read_off_the_regions():
    """Of new images: a word is guessed beside its own regions, and less often beside another image's."""
    shape = RegionShape(3, 32, len(COMBINATIONS))
    settings = config(
        objective__itm_weight=0, objective__mlm_weight=1.0, objective__layers=1, objective__most_regions=3,
        objective__features=32, objective__classes=shape.classes,
    )  # fmt: skip
    tokenize, numbers = open_clip.get_tokenizer("ViT-B-32"), {0: 0, 49406: 62, 49407: 63}

    def drawn(first, count):
        images = [one for n in range(first, first + count) for one in pair("attribute", n)]
        tokens = tokenize([one.caption for one in images])[:, :16]
        few = [[numbers.setdefault(token, len(numbers)) for token in row] for row in tokens.tolist()]
        return torch.from_numpy(np.stack([pack(detect(one), shape) for one in images])), torch.tensor(few)

    tables, texts = drawn(0, 400)
    new_tables, new_texts = drawn(10**6, 100)
    module = ViLBERT(use_fast_blocks(build(text={"width": 32, "layers": 1})), settings.objective, settings)
    optimizer = torch.optim.AdamW([weight for weight in module.parameters() if weight.requires_grad], lr=5e-3)
    for number in range(120):
        module.position = 64 * number
        rows = torch.randint(len(tables), (64,), generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        module.loss(module(tables[rows], texts[rows]))["loss"].backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        own = module.loss(module(new_tables, new_texts))
        other = module.loss(module(new_tables, new_texts.roll(2, 0)))
    assert own["mlm"] < 0.85 * other["mlm"]
