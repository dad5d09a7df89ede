"""ALBEF's objective against its losses written out pair by pair and word by word, and against itself split up."""

import math
from functools import partial

import open_clip
import pytest
import torch
from nesting import nested
from small_steps import steps_of
from test_albef_parts import batch, build
from torch import nn

from infra.errors import ConfigError
from infra.fusion import towers as fusion_towers
from infra.fusion.network import Layout
from training import train
from training.model.blocks import compile_blocks, use_fast_blocks
from training.objectives import fusion as training_fusion
from training.objectives import towers
from training.objectives.albef import objective as albef_objective
from training.objectives.albef import sampling
from training.objectives.albef.objective import ALBEF

pytestmark = pytest.mark.long  # trains

BATCH = 16


def config(**changes):
    values = {
        "objective__kind": "albef",
        "batch_size": BATCH,
        "seed": 5,
        "objective__momentum": 0.9,
        "objective__queue_size": 24,
        "objective__alpha": 0.4,
        "objective__alpha_warmup": 2 * BATCH,
        "objective__itm_weight": 0.7,
        "objective__mlm_weight": 1.3,
        "objective__negatives_among": 4,
        "objective__mask_rate": 0.3,
        "objective__fusion_layers": 2,
    }
    return train.Config(**nested({**values, **changes}))


def objective(kind=open_clip.CLIP, **changes):
    settings = config(**changes)
    return ALBEF(use_fast_blocks(build(kind)), settings.objective, settings)


def steps(parts=1, count=2, dtype=torch.float64, kind="ddp", module=None, start=0, **changes):
    """What ``count`` steps of this rank, each in ``parts`` parts, come to: losses; on rank 0 gradients and state."""
    settings = config(cluster__parallel=kind)
    given = module or objective(**changes), settings, lambda seen: batch(BATCH, seed=seen), BATCH
    return steps_of(*given, parts=parts, dtype=dtype, count=count, start=start)


# --- the losses -------------------------------------------------------------------------------------------------------


def by_hand(module, images, texts):
    """ALBEF's losses for one batch on one rank, one pair and one word at a time."""
    config, slow_fusion = module.config, module.fusion_momentum.average
    models = {"fast": module.model, "slow": module.momentum.average}
    image, text, seen = {}, {}, {}
    for name, model in models.items():
        image[name] = nn.functional.normalize(model.encode_image(images), dim=-1)
        text[name] = nn.functional.normalize(model.encode_text(texts), dim=-1)
        seen[name] = fusion_towers.encode_images(model, images)[1]
    scale, lengths = module.model.logit_scale.exp(), texts.argmax(-1) + 1
    alpha = [0.4 * min(1, (module.position + i) / config.alpha_warmup) for i in range(BATCH)]

    def fuse(name, fusion, i, ids, length):
        """Tokens of one text with image ``i``."""
        words = towers.encode_texts(models[name], ids[None], length[None], fusion.mask_embedding)[1]
        return fusion(words, Layout(length[None], words.device), seen[name], torch.tensor([i]))

    itc = 0
    for own, other, queue in [(image, text, module.text_queue), (text, image, module.image_queue)]:
        keys = torch.cat([other["slow"].detach(), queue.filled])
        for i in range(BATCH):
            scores = (scale * own["fast"][i] @ keys.T).log_softmax(-1)
            soft = (scale * own["slow"][i] @ keys.T).softmax(-1).detach()
            itc = itc - ((1 - alpha[i]) * scores[i] + alpha[i] * (soft * scores).sum()) / (2 * BATCH)

    def meet(i, j):
        """The logit of image ``i`` with text ``j``."""
        return module.fusion.match_head(fuse("fast", module.fusion, i, texts[j], lengths[j])[-1])[0]

    itm = []
    noise = -torch.log(-torch.log(sampling.uniform(5, sampling.HARD_NEGATIVES, module.position, BATCH, 8)))
    for i in range(BATCH):
        block = [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if texts[j].tolist() != texts[i].tolist()]
        itm.append(torch.log1p(torch.exp(-meet(i, i))))
        wrong_text = max(block, key=lambda j: (scale * image["fast"][i] @ text["slow"][j] + noise[i, j % 4]).item())
        wrong_image = max(
            block, key=lambda j: (scale * text["fast"][i] @ image["slow"][j] + noise[i, 4 + j % 4]).item()
        )
        itm += [torch.log1p(torch.exp(meet(i, wrong_text))), torch.log1p(torch.exp(meet(wrong_image, i)))]

    mlm = []
    draws = sampling.uniform(5, sampling.MASKING, module.position, BATCH, 48).view(BATCH, 3, 16)
    for i, length in enumerate(lengths):
        (ids,), hidden = sampling.mask_words(texts[i : i + 1], length[None], draws[i : i + 1], 0.3, 64)
        logits = {}
        for name, fusion in [("fast", module.fusion), ("slow", slow_fusion)]:
            fused = fuse(name, fusion, i, ids, length)
            logits[name] = fusion.word_head(fused) @ models[name].token_embedding.weight.T + fusion.word_bias
        for place in hidden[0].nonzero()[:, 0].tolist():
            scores, soft = logits["fast"][place].log_softmax(-1), logits["slow"][place].softmax(-1).detach()
            mlm.append(-(1 - alpha[i]) * scores[texts[i, place]] - alpha[i] * (soft * scores).sum())
    return {"itc": itc, "itm": sum(itm) / len(itm), "mlm": sum(mlm) / len(mlm)}


def test_losses_and_gradients_are_the_papers():
    module = objective().double()
    steps(module=module, count=2)
    images, texts = batch(BATCH, seed=99)
    texts[5] = texts[6]  # not a negative of its twin
    module.position = BATCH + 4
    module.zero_grad()
    losses = module.loss(module(images.double(), texts))
    losses["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.requires_grad}
    module.zero_grad()
    expected = by_hand(module, images.double(), texts)
    total = expected["itc"] + 0.7 * expected["itm"] + 1.3 * expected["mlm"]
    total.backward()
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-10)
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-10), name
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            assert found[name].numpy() == pytest.approx(weight.grad.numpy(), rel=1e-8, abs=1e-12), name
            assert found[name].abs().max() > 0 or name.endswith("key.bias"), name
        else:
            assert weight.grad is None


def test_without_its_extras_it_is_momentum_contrast():
    module = objective(objective__alpha=0.0, objective__itm_weight=0.0, objective__mlm_weight=0.0).double()
    steps(module=module, count=1)
    assert not any("fusion" in name for name in module.state_dict())
    images, texts = batch(BATCH, seed=7)
    outputs = module(images.double(), texts)
    losses = module.loss(outputs)
    assert set(losses) == {"itc", "loss"}
    slow, own, scale = module.momentum.average, torch.arange(BATCH), module.model.logit_scale.exp()
    with torch.no_grad():
        keys = [slow.encode_text(texts, normalize=True), slow.encode_image(images.double(), normalize=True)]
    queries = [outputs["image"], outputs["text"]]
    queues = [module.text_queue.filled, module.image_queue.filled]
    expected = sum(
        nn.functional.cross_entropy(scale * query @ torch.cat([key, queue]).T, own)
        for query, key, queue in zip(queries, keys, queues, strict=True)
    )
    assert losses["loss"].item() == pytest.approx(expected.item() / 2, rel=1e-12)


@pytest.mark.parametrize(
    "changes", [{"objective__itm_weight": 0.0}, {"objective__mlm_weight": 0.0}, {"objective__alpha": 0.0}]
)
def test_any_part_may_be_left_out(changes):
    losses, gradients, _ = steps(count=1, **changes)
    assert [name for name in ("itm", "mlm") if name in losses[0]] == [
        name for name in ("itm", "mlm") if changes.get(f"objective__{name}_weight") != 0
    ]
    module = objective(**changes)
    assert set(gradients) == {name for name, weight in module.named_parameters() if weight.requires_grad}


def test_soft_targets_come_gradually():
    module = objective(objective__alpha_warmup=100)
    for module.position, expected in [(0, [0.0, 0.004, 0.008]), (48, [0.192, 0.196, 0.2]), (2**40, [0.4] * 3)]:
        assert module(*batch(8))["alpha"][:3].tolist() == pytest.approx(expected)


# --- however a batch is split -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    return steps()


@pytest.mark.parametrize(("size", "parts"), [(1, 2), (1, 4), (2, 2), (4, 1)])
def test_ranks_and_parts_change_nothing(ranks, whole, size, parts):
    losses, gradients, state = whole
    results = ranks(size, steps, parts) if size > 1 else [steps(parts)]
    for number, line in enumerate(losses):
        for name, loss in line.items():
            found = sum(result[0][number][name] for result in results) / size
            assert found == pytest.approx(loss, rel=1e-10), name
    _, found, found_state = results[0]
    assert set(found) == set(gradients)
    for name, gradient in gradients.items():
        assert found[name] == pytest.approx(gradient, rel=1e-8, abs=1e-12), name
    assert set(found_state) == set(state)
    for name, value in state.items():
        assert found_state[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name


def in_fp32(parts, kind):
    return steps(parts, dtype=torch.float32, kind=kind)


@pytest.mark.parametrize(("size", "parts", "kind"), [(1, 2, "ddp"), (2, 1, "ddp"), (2, 2, "fsdp")])
def test_nor_do_they_in_fp32(ranks, size, parts, kind):
    expected, gradients, state = in_fp32(1, "ddp")
    results = ranks(size, in_fp32, parts, kind)
    for number, line in enumerate(expected):
        for name, loss in line.items():
            found = sum(result[0][number][name] for result in results) / size
            assert found == pytest.approx(loss, rel=1e-6), name
    for name, gradient in gradients.items():
        assert results[0][1][name] == pytest.approx(gradient, rel=1e-3, abs=2e-6), name
    for name, value in state.items():
        assert results[0][2][name] == pytest.approx(value, rel=1e-4, abs=2e-6), name


def test_the_state_goes_on_where_it_was(whole):
    first = objective().double()
    steps(module=first, count=1)
    second = objective(seed=6).double()
    second.config, second.seed = first.config, first.seed
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert steps(module=second, count=1, start=BATCH)[0][0] == whole[0][1]
    assert int(second.image_queue.count) == 2 * BATCH


def test_activations_may_be_computed_again(whole):
    module = objective(cluster__grad_checkpointing=True).double()
    module.model.set_grad_checkpointing()
    losses, gradients, _ = steps(module=module)
    assert losses == whole[0]
    for name, gradient in whole[1].items():
        assert gradients[name] == pytest.approx(gradient, rel=1e-12, abs=1e-15), name


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it to make its guards
def test_its_blocks_may_be_compiled(monkeypatch):
    torch._dynamo.reset()
    for module in (albef_objective, training_fusion):
        monkeypatch.setattr(module, "compile_blocks", partial(compile_blocks, backend="eager"))
    eager, compiled = objective(), objective(cluster__compile=True)
    for longest in (5, 9, 14):
        images, texts = batch(BATCH, seed=longest, longest=longest)
        found = []
        for module in (eager, compiled):
            module.zero_grad()
            losses = module.loss(module(images, texts))
            losses["loss"].backward()
            found.append([losses["loss"].detach(), *(weight.grad for weight in module.fusion.parameters())])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs)
    torch._dynamo.reset()


# --- what it is for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_the_towers_stay_open_clips(kind):
    module = objective(kind)
    steps(module=module, count=1, dtype=torch.float32)
    fresh = build(kind)
    fresh.load_state_dict(module.model.state_dict(), strict=True)
    images, texts = batch()
    assert torch.equal(fresh.encode_text(texts), module.model.eval().encode_text(texts))
    assert torch.equal(fresh.encode_image(images), module.model.encode_image(images))


def test_bf16_computes_and_fp32_decides():
    module = objective()
    images, texts = batch(BATCH)
    exact = module.loss(module(images, texts))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = module(images, texts)
        losses = module.loss(outputs)
    assert {name: value.dtype for name, value in outputs.items() if value.dtype != torch.float32} == {}
    losses["loss"].backward()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05), name


def test_matching_and_guessing_are_learnt():
    """Captions of four words, each the colour of a quarter of the image: only who looks can know them."""
    torch.manual_seed(0)
    colours = torch.eye(4)[:, :3] * 2 - 1
    codes = torch.randint(0, 4, (256, 4))
    images = colours[codes].view(256, 2, 2, 3).permute(0, 3, 1, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    texts = torch.zeros(256, 16, dtype=torch.int64)
    texts[:, 0], texts[:, 1:5], texts[:, 5] = 62, codes, 63
    settings = config(
        objective__alpha_warmup=20_000,
        objective__queue_size=128,
        objective__negatives_among=16,
        objective__momentum=0.99,
        objective__mask_rate=0.25,
        objective__fusion_layers=1,
    )
    module = ALBEF(use_fast_blocks(build(vision={"layers": 1}, text={"layers": 1})), settings.objective, settings)
    optimizer = torch.optim.AdamW([w for w in module.parameters() if w.requires_grad], lr=5e-3, fused=True)
    for number in range(150):
        rows = torch.randperm(256)[:64]
        module.position = number * 64
        optimizer.zero_grad()
        module.loss(module(images[rows], texts[rows]))["loss"].backward()
        optimizer.step()
        module.after_step(module.position + 64)
    module.eval()
    others = torch.roll(torch.arange(256), 1)
    different = (codes != codes[others]).any(1)
    found = module.matcher().match(images, texts) > module.matcher().match(images[others], texts)
    assert found[different].float().mean() > 0.9  # chance is a half

    guesses = []
    for place in range(1, 5):
        hidden = texts.clone()
        hidden[:, place] = 64
        lengths = fusion_towers.lengths_of(texts)
        with torch.no_grad():
            words = towers.encode_texts(module.model, hidden, lengths, module.fusion.mask_embedding)[1]
            seen = fusion_towers.encode_images(module.model, images)[1]
            fused = module.fusion(words, Layout(lengths, words.device), seen, torch.arange(256))
            logits = module.fusion.words(fused.view(256, 6, -1)[:, place], module.model.token_embedding.weight)
        guesses.append(logits.argmax(-1) == texts[:, place])
    assert torch.stack(guesses).float().mean() > 0.6  # chance is a quarter


def test_candidates_share_an_image():
    module = objective().eval()
    images, texts = batch(8)
    image_of = torch.tensor([3, 3, 0, 1, 3, 2, 1, 0])
    found = module.matcher().match(images, texts, image_of)
    assert torch.allclose(found, module.matcher().match(images[image_of], texts), atol=1e-6)
    match = module.matcher().match
    alone = [match(images[i : i + 1], texts[j : j + 1]).item() for j, i in enumerate(image_of.tolist())]
    assert found.tolist() == pytest.approx(alone, abs=1e-5)


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_blocks_must_divide_what_is_worked_on_at_a_time():
    with pytest.raises(ConfigError, match="negatives_among"):
        config(objective__negatives_among=3)
    module = objective(objective__negatives_among=8)  # of a range of workers only it knows how many there are
    with pytest.raises(ConfigError, match="negatives_among"):
        module(*batch(12))
    module.position = 4
    with pytest.raises(ConfigError, match="negatives_among"):
        module(*batch(8))


def test_only_who_learnt_to_match_can():
    with pytest.raises(ConfigError, match="match"):
        objective(objective__itm_weight=0.0).matcher()


def test_a_resnet_may_contrast_but_not_fuse():
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8}
    with pytest.raises(ConfigError, match="image tower"):
        ALBEF(build(vision=vision), config().objective, config())
    alone = config(objective__itm_weight=0.0, objective__mlm_weight=0.0)
    module = ALBEF(build(vision=vision), alone.objective, alone)
    images, texts = batch(8)
    losses = module.loss(module(nn.functional.interpolate(images, 32), texts))
    assert math.isfinite(losses["loss"].item())


@pytest.mark.parametrize("kind", ["albef", "vilt", "vilbert"])
def test_a_model_of_another_kind_is_refused(kind):
    multimodal = {"context_length": 16, "vocab_size": 64, "width": 24, "heads": 2, "layers": 1}
    coca = open_clip.CoCa(
        12,
        multimodal_cfg=multimodal,
        text_cfg={**multimodal, "embed_cls": True, "output_tokens": True},
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    )
    settings = train.Config(objective={"kind": kind})
    with pytest.raises(ConfigError, match="text tower") as error:
        settings.objective.build(coca, settings, {})
    assert "CoCa" in error.value.found
