"""ViLT's objective against its losses written out pair by pair and word by word, and against itself split up."""

import json

import numpy as np
import open_clip
import pytest
import torch
from nesting import nested
from scipy.optimize import linprog
from small_data import MODEL
from small_steps import steps_of
from test_albef_parts import batch, build, candidates
from torch import nn

from infra.errors import ConfigError
from infra.run.context import Context
from infra.store import LocalStore
from training import loop, train
from training.data.samples import Shards
from training.data.tokens import Tokenizer
from training.distributed.world import World
from training.inputs import Inputs
from training.model.blocks import use_fast_blocks
from training.objectives import vilt
from training.objectives.albef import sampling
from training.objectives.vilt.alignment import transport
from training.objectives.vilt.objective import ViLT

pytestmark = pytest.mark.long  # trains

BATCH = 16
ENDS = torch.arange(64) % 3 > 0  # which of the tokens end a word


def config(**changes):
    values = {
        "objective__kind": "vilt", "batch_size": BATCH, "seed": 5, "objective__itm_weight": 0.7,
        "objective__mlm_weight": 1.3, "objective__negatives_among": 4, "objective__mask_rate": 0.3,
        "objective__word_patch_alignment": 0.4,
    }  # fmt: skip
    return train.Config(**nested({**values, **changes}))


def objective(fast=True, **changes):
    settings = config(**changes)
    model = build()
    module = ViLT(use_fast_blocks(model) if fast else model, settings.objective, settings)
    module.ends_of_words = ENDS
    return module


def steps(parts=1, kind="ddp", dtype=torch.float64, count=2):
    """What ``count`` steps of this rank come to: losses; on rank 0 gradients."""
    given = objective(), config(cluster__parallel=kind), lambda seen: batch(BATCH, seed=seen), BATCH
    losses, gradients, _ = steps_of(*given, parts=parts, dtype=dtype, count=count)
    return losses, gradients


def alone(module, image, ids):
    """One text (n,) beside one image (1, 3, h, w), without padding and without masks: tokens of both."""
    model, fusion = module.model, module.fusion
    words = model.token_embedding(ids.clamp(max=63))
    words = torch.where((ids == 64)[:, None], fusion.mask_embedding, words) + model.positional_embedding[: len(ids)]
    words = nn.functional.layer_norm(
        words @ fusion.word_in.weight.T + fusion.word_in.bias, (16,), fusion.word_norm.weight, fusion.word_norm.bias
    )
    x = torch.cat([words + fusion.kinds[0], model.visual._embeds(image)[0] + fusion.kinds[1]])[None]
    for block in model.visual.transformer.resblocks:
        x = x + nn.functional.multi_head_attention_forward(
            *[block.ln_1(x).transpose(0, 1)] * 3, 16, 2, block.attn.in_proj_weight, block.attn.in_proj_bias, None, None,
            False, 0.0, block.attn.out_proj.weight, block.attn.out_proj.bias, need_weights=False,
        )[0].transpose(0, 1)  # fmt: skip
        x = x + block.mlp(block.ln_2(x))
    return model.visual.ln_post(x[0, : len(ids)]), model.visual.ln_post(x[0, len(ids) :])


def carried(words, patches):
    """Xie et al.'s algorithm 1, one entry after the other, without the ends of the text and the image's class."""
    words, patches = words[1:-1], patches[1:]
    m, n = len(words), len(patches)
    cost = torch.stack([torch.stack([1 - nn.functional.cosine_similarity(w, p, 0) for p in patches]) for w in words])
    kernel, plan, sigma = np.exp(-cost.detach().numpy() / 0.5), np.ones((m, n)), [1 / m] * m
    for _ in range(50):
        q = kernel * plan
        delta = [1 / (n * sum(q[i, j] * sigma[i] for i in range(m))) for j in range(n)]
        sigma = [1 / (m * sum(q[i, j] * delta[j] for j in range(n))) for i in range(m)]
        plan = np.array([[sigma[i] * q[i, j] * delta[j] for j in range(n)] for i in range(m)])
    return (cost * torch.from_numpy(plan)).sum()


def by_hand(module, images, texts):
    itm, mlm, alignment, lengths = [], [], [], texts.argmax(-1) + 1
    draws = sampling.uniform(5, sampling.HARD_NEGATIVES, module.position, BATCH, 9)
    noise = -torch.log(-torch.log(draws))
    shown = []
    for i, length in enumerate(lengths):
        others = [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if texts[j].tolist() != texts[i].tolist()]
        wrong = draws[i, 8] < 0.5
        image = max(others, key=lambda j: noise[i, 4 + j % 4].item()) if wrong else i
        shown.append(image)
        fused, patches = alone(module, images[image : image + 1], texts[i, :length])
        logit = module.fusion.match_head(fused[-1])[0]
        itm.append(torch.log1p(torch.exp(logit if wrong else -logit)))
        alignment.append(carried(fused, patches) * (-1 if wrong else 1))
    draws = sampling.uniform(5, sampling.MASKING, module.position, BATCH, 48).view(BATCH, 3, 16)
    for i, length in enumerate(lengths.tolist()):
        ids, hidden = texts[i, :length].clone(), []
        first = 0
        for place in range(1, length - 1):
            if place == 1 or ENDS[texts[i, place - 1]]:
                first = place
            chance, kind = draws[i, :2, first]
            if chance < 0.3:
                hidden.append(place)
                ids[place] = 64 if kind < 0.8 else int(draws[i, 2, place] * 62) if kind < 0.9 else ids[place]
        fused, _ = alone(module, images[i : i + 1], ids)
        for place in hidden:
            scores = module.fusion.word_head(fused[place]) @ module.model.token_embedding.weight.T
            mlm.append(-(scores + module.fusion.word_bias).log_softmax(-1)[texts[i, place]])
    assert len({*shown} & {*range(BATCH)}) > 1
    assert shown != list(range(BATCH))
    return {name: sum(own) / len(own) for name, own in (("itm", itm), ("mlm", mlm), ("alignment", alignment))}


@pytest.mark.parametrize("fast", [True, False])
def test_losses_and_gradients_are_the_papers(fast):
    module = objective(fast).double()
    images, texts = batch(BATCH, seed=99)
    texts[5] = texts[6]  # not a negative of its twin
    module.position = BATCH + 4
    losses = module.loss(module(images.double(), texts))
    losses["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.requires_grad}
    module.zero_grad()
    expected = by_hand(module, images.double(), texts)
    (0.7 * expected["itm"] + 1.3 * expected["mlm"] + 0.4 * expected["alignment"]).backward()
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-10), name
    for name, gradient in found.items():
        own = dict(module.named_parameters())[name].grad
        assert gradient.numpy() == pytest.approx(own.numpy(), rel=1e-8, abs=1e-12), name
        assert gradient.abs().max() > 0, name


def test_the_transport_is_the_cheapest_there_is():
    """Against linear programming, on pairs of several lengths; the costs of padding must not matter."""
    cost = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.tensor([6, 1, 4, 0])
    real = torch.arange(6) < lengths[:, None]
    for steps, off in ((50, 0.05), (2000, 1e-3)):
        plan = transport(cost, real, steps=steps)
        assert (plan >= 0).all()
        assert not plan[~real].any()
        for one, own, m in zip(cost.numpy(), plan.numpy(), lengths.tolist(), strict=True):
            assert own[:m].sum(1) == pytest.approx([1 / m] * m, rel=1e-12) if m else not own.any()
            assert own.sum(0) == pytest.approx([1 / 9] * 9, abs=off) if m else True
            if m:
                rows, columns = np.kron(np.eye(m), np.ones(9)), np.kron(np.ones(m), np.eye(9))
                least = linprog(one[:m].flatten(), A_eq=np.vstack([rows, columns]), b_eq=[1 / m] * m + [1 / 9] * 9).fun
                assert (own * one).sum() == pytest.approx(least, abs=off)


def test_alignment_is_of_pairs_that_are_matched():
    with pytest.raises(ConfigError, match="word_patch_alignment"):
        config(objective__itm_weight=0).objective.check(4)


def test_what_one_stream_does_not_use_is_frozen():
    frozen = {name for name, weight in objective().named_parameters() if not weight.requires_grad}
    used = {"token_embedding.weight", "positional_embedding"}
    towers = {name for name, _ in build().named_parameters() if not name.startswith("visual.")}
    assert frozen == {f"model.{name}" for name in (towers | {"visual.proj"}) - used}


def test_words_are_masked_whole():
    _, texts = batch(400, longest=15)
    lengths = texts.argmax(-1) + 1
    draws = torch.rand(400, 3, 16, generator=torch.Generator().manual_seed(0))
    hidden, masked = sampling.mask_words(texts, lengths, draws, 0.15, 64, ENDS)
    words, chosen = 0, 0
    for row, length, mask, new in zip(texts, lengths.tolist(), masked, hidden, strict=True):
        assert not mask[0] and not mask[length - 1 :].any()
        last = [1, *(place + 1 for place in range(1, length - 1) if ENDS[row[place]])]
        for begin, end in zip(last, [*last[1:], length - 1], strict=True):
            if begin < end:
                assert len(set(mask[begin:end].tolist())) == 1
                assert len({*(new[begin:end] == 64).tolist()}) == 1
                words, chosen = words + 1, chosen + int(mask[begin])
    assert chosen / words == pytest.approx(0.15, abs=0.03)


def test_clips_tokenizer_says_where_words_end():
    tokenize = Tokenizer(open_clip.get_tokenizer("ViT-B-32"))
    ends = tokenize.word_ends()
    tokens = tokenize("supercalifragilistic cats sit, quietly")
    length = int((tokens != 0).sum())
    assert ends[tokens[1 : length - 1]].sum() == 5  # the comma is one
    module = objective()
    module.use_tokenizer(tokenize)
    assert torch.equal(module.ends_of_words, torch.from_numpy(ends))
    other = Tokenizer(
        lambda texts: torch.tensor([[1, *text.encode()[:5], *[0] * (5 - len(text[:5]))] for text in texts])
    )
    with pytest.raises(ConfigError, match="whole words"):
        module.use_tokenizer(other)


@pytest.fixture(scope="module")
def whole():
    return steps()


@pytest.mark.parametrize(("size", "parts", "kind"), [(1, 4, "ddp"), (2, 2, "ddp"), (4, 1, "ddp"), (2, 1, "fsdp")])
def test_ranks_and_parts_change_nothing(ranks, whole, size, parts, kind):
    dtype = torch.float32 if kind == "fsdp" else torch.float64
    results = ranks(size, steps, parts, kind, dtype) if size > 1 else [steps(parts)]
    rel, tiny = (1e-3, 2e-6) if kind == "fsdp" else (1e-8, 1e-12)
    for number, line in enumerate(whole[0]):
        for name, loss in line.items():
            assert sum(result[0][number][name] for result in results) / size == pytest.approx(loss, rel=rel), name
    assert set(results[0][1]) == set(whole[1])
    for name, gradient in whole[1].items():
        assert results[0][1][name] == pytest.approx(gradient, rel=rel, abs=tiny), name


def go(folder, shards):
    values = {
        "model__architecture": MODEL, "batch_size": 8, "samples": 32, "optimizer__lr": 3e-3,
        "objective__kind": "vilt", "objective__negatives_among": 2,
    }  # fmt: skip
    tars = Shards(LocalStore(shards), sorted(str(path.relative_to(shards)) for path in shards.rglob("*.tar")))
    settings = train.Config(**nested(values))
    trainer = loop.Trainer(settings, Inputs({"shards": tars}), Context(folder), World.join(torch.device("cpu")))
    trainer.run()
    trainer.finish()
    return trainer.objective.eval().matcher().match(*candidates()).tolist()


def test_the_loaded_model_scores_as_the_trained_one(ranks, shards, tmp_path):
    expected, *_ = ranks(1, go, tmp_path, shards)
    assert vilt.load(tmp_path).match(*candidates()).tolist() == pytest.approx(expected, abs=1e-6)
    assert len({round(score, 5) for score in expected}) > 3
    assert json.loads((tmp_path / "data/fusion/config.json").read_text())["kind"] == "single_stream"


def test_a_resnet_has_no_transformer_to_share():
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}
    with pytest.raises(ConfigError, match="image tower"):
        ViLT(build(vision=vision), config().objective, config())
