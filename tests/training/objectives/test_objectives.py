"""Objectives against their formulas in float64, open_clip's losses, and themselves in parts and on other ranks."""

import copy
import json
import math
import tempfile
from contextlib import nullcontext
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip import loss as peer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from infra.errors import ConfigError
from training.config import Config
from training.model.blocks import use_fast_blocks
from training.objectives import coca, siglip
from training.objectives.coca.objective import CoCa
from training.objectives.config import ObjectiveConfig
from training.objectives.distill.objective import Teacher, distillation
from training.objectives.infonce.objective import info_nce
from training.objectives.siglip.objective import SigLIP, pairwise_sigmoid
from training.objectives.vsepp.objective import hinge
from training.step import backward

pytestmark = pytest.mark.long  # several processes

SMALL = {"context_length": 8, "width": 16, "heads": 2, "layers": 1}
MODEL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {**SMALL, "vocab_size": 64},
    "init_logit_bias": -3.0,
}
COCA = {
    "embed_dim": 16,
    "vision_cfg": {**MODEL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**SMALL, "vocab_size": 64, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**SMALL, "vocab_size": 64, "attn_pooler_heads": 2},
    "custom_text": True,
}
NAMES = ("infonce", "siglip", "vsepp", "coca", "distill", "data2vec image", "data2vec text")


def build(settings=MODEL, folder=None, **preprocess):
    """A model with random weights. Like ``build``, but a tokenizer would take longer than the rest."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return build(settings, Path(temporary))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": preprocess}))
    torch.manual_seed(len(str(settings)))
    model = use_fast_blocks(open_clip.create_model(f"local-dir:{folder}", load_weights=False))
    if "multimodal_cfg" in settings:
        nn.init.normal_(model.text_decoder.text_projection, std=0.2)  # open_clip does not
    return model


def save(folder, settings, **preprocess):
    """A model as training writes it."""
    from safetensors.torch import save_file

    model = build(settings, folder, **preprocess)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    save(folder, {**MODEL, "embed_dim": 20})
    return str(folder)


def make(name, teacher, weights=torch.float64):
    settings = {
        "vsepp": {"warmup": 32},
        "distill": {"weight": 0.7},
        "data2vec": {"layers": 1, "mask_rate": 0.5, "modality": name.partition(" ")[2]},
    }
    kind = name.partition(" ")[0]
    run = Config(batch_size=8, objective={"kind": kind, **settings.get(kind, {})})
    model = build(COCA if name == "coca" else MODEL)
    objective = run.objective.build(model, run, {"teacher": teacher}).to(weights)
    objective.position = 8
    return objective


def batch():
    """Eight images, and captions of two to seven tokens; 63 ends a text."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(1, 60, (8, 8), generator=generator)
    for row, length in enumerate((2, 7, 3, 5, 4, 2, 6, 7)):
        texts[row, length:] = 0
        texts[row, length] = 63
    return torch.randn(8, 3, 16, 16, generator=generator).double(), texts


def features(n=12, d=6, seed=3, dtype=torch.float64, count=2):
    generator = torch.Generator().manual_seed(seed)
    sets = [F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1) for _ in range(count)]
    return [x.to(dtype).requires_grad_() for x in sets]


def scalars(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


# --- formulas ---------------------------------------------------------------------------------------------------------
# Each over the whole matrix, by autograd.


def plain_info_nce(images, texts, scale):
    logits = scale * images @ texts.T
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    return -(rows.diagonal() + columns.diagonal()).mean() / 2


def plain_sigmoid(images, texts, scale, bias):
    logits = scale * images @ texts.T + bias
    signs = 2 * torch.eye(len(images), dtype=logits.dtype) - 1
    return (1 + (-signs * logits).exp()).log().sum() / len(images)


def plain_distillation(images, texts, scale, teacher, weight):
    logits, targets = scale * images @ texts.T, teacher[2] * teacher[0] @ teacher[1].T
    crosses = [-(targets.softmax(dim) * logits.log_softmax(dim)).sum(dim).mean() for dim in (0, 1)]
    return plain_info_nce(images, texts, scale) + weight * sum(crosses) / 2


def plain_hinge(queries, keys, margin, hardness):
    total = 0.0
    for i, query in enumerate(queries):
        costs = [(margin + query @ key - query @ keys[i]).clamp(min=0) for j, key in enumerate(keys) if j != i]
        total = total + hardness * max(costs) + (1 - hardness) * sum(costs) / len(costs)
    return total / len(queries)


def cases(share=lambda x: x):
    """Name -> (ours, formula, inputs), of the samples that are this rank's ``share``."""
    pair = [share(x.detach()).requires_grad_() for x in features()]
    taught = [*(share(x.detach()) for x in features(d=9, seed=8)), torch.tensor(5.0).double()]
    return {
        "infonce": (info_nce, plain_info_nce, [*pair, *scalars(7.0)]),
        "siglip": (pairwise_sigmoid, plain_sigmoid, [*pair, *scalars(7.0, -2.0)]),
        "distill": (
            lambda *x, tile: distillation(*x, taught, 0.7, tile)["loss"],
            lambda *x: plain_distillation(*x, taught, 0.7),
            [*pair, *scalars(7.0)],
        ),
        **{
            f"hinge {hardness}": (
                lambda *x, tile, hardness=hardness: hinge(*x, 0.3, hardness, tile),
                lambda *x, hardness=hardness: plain_hinge(*x, 0.3, hardness),
                pair,
            )
            for hardness in (0.0, 0.25, 1.0)
        },
    }


@pytest.mark.parametrize("tile", [1, 20, 90, None])
@pytest.mark.parametrize("name", cases())
def test_loss_and_gradients_are_the_formulas(name, tile):
    ours, formula, inputs = cases()[name]
    expected, found = formula(*inputs), ours(*inputs, tile=tile)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = zip(torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_equal_to_open_clips_losses():
    images, texts, *taught = features(count=4)
    scale, bias, warm = scalars(7.0, -2.0, 5.0)
    for ours, theirs in [
        (info_nce(images, texts, scale), peer.ClipLoss()(images, texts, scale)),
        (pairwise_sigmoid(images, texts, scale, bias), peer.SigLipLoss()(images, texts, scale, bias)),
        (
            distillation(images, texts, scale, (*taught, warm))["loss"],
            sum(peer.DistillClipLoss()(images, texts, scale, *(x.detach() for x in (*taught, warm)))),
        ),
    ]:
        inputs = [images, texts, scale]
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
        for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_coca_is_open_clips_model_with_open_clips_loss(teacher):
    objective = make("coca", teacher)
    images, texts = batch()
    losses = objective.loss(objective(images, texts))
    outputs = objective.model(images, texts)
    theirs = peer.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(**outputs, output_dict=True)
    assert losses["contrastive"].item() == pytest.approx(theirs["contrastive_loss"].item(), rel=1e-12)
    assert 2 * losses["caption"].item() == pytest.approx(theirs["caption_loss"].item(), rel=1e-12)
    weights = list(objective.parameters())
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (losses["loss"], sum(theirs.values())))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


def test_a_caption_costs_what_it_is_long(teacher, monkeypatch):
    """The decoder ends with the longest, and the vocabulary is asked for words only."""
    objective, seen = make("coca", teacher), []
    entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda x, *y, **z: seen.append(tuple(x.shape)) or entropy(x, *y, **z))
    objective.model.text_decoder.ln_final.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    images, texts = batch()
    texts[:, 4:] = 0
    texts[:, 3] = 63
    texts[0, 2:] = torch.tensor([63, 0, 0, 0, 0, 0])
    objective(images, texts)
    words = int((texts[:, 1:] != 0).sum())
    assert seen == [(8, 3, 16), (words, 64)]
    assert words < 8 * 3


# --- however the batch is divided -------------------------------------------------------------------------------------


def step(objective, parts=1):
    """Losses, and gradients averaged over ranks by DDP, of this rank's share of the batch in ``parts``."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    images, texts = batch()
    wrapped, no_sync, first = objective, nullcontext, objective.position
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        images, texts = images.chunk(size)[rank], texts.chunk(size)[rank]
        first += rank * len(images)
        wrapped = DistributedDataParallel(objective, broadcast_buffers=False)
        no_sync = wrapped.no_sync
    pieces = list(zip(images.chunk(parts), texts.chunk(parts), strict=True))

    def encode(part):
        objective.position = first + part * len(pieces[0][0])
        return wrapped(*pieces[part])

    losses = backward(objective, encode, parts, no_sync)
    gradients = {n: w.grad.numpy().copy() for n, w in objective.named_parameters() if w.requires_grad}
    objective.zero_grad()
    return {name: loss.item() for name, loss in losses.items()}, gradients


def all_objectives(teacher, parts):
    return {name: step(make(name, teacher), parts) for name in NAMES}


@pytest.fixture(scope="module")
def undivided(teacher):
    return all_objectives(teacher, 1)


@pytest.mark.parametrize(("size", "parts"), [(1, 2), (1, 8), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_parts_change_nothing(ranks, undivided, teacher, size, parts):
    results = ranks(size, all_objectives, teacher, parts) if size > 1 else [all_objectives(teacher, parts)]
    for name in NAMES:
        losses, expected = undivided[name]
        for key, loss in losses.items():
            assert sum(result[name][0][key] for result in results) / size == pytest.approx(loss, rel=1e-12), (name, key)
        assert all(gradient.any() for gradient in expected.values())
        for result in results:
            assert result[name][1].keys() == expected.keys()
            for weight, gradient in expected.items():
                assert result[name][1][weight] == pytest.approx(gradient, rel=1e-9, abs=1e-13), (name, weight)


def by_tiles(tile):
    """Loss and gradients of this rank's share of each case."""
    from training.distributed import collectives

    results = {}
    for name, (ours, _, inputs) in cases(lambda x: x.chunk(collectives.size())[collectives.rank()]).items():
        loss = ours(*inputs, tile=tile)
        results[name] = loss.item(), [gradient.numpy() for gradient in torch.autograd.grad(loss, inputs)]
    return results


@pytest.mark.parametrize(("size", "tile"), [(2, 7), (4, 5)])
def test_tiles_over_ranks_are_the_formulas(ranks, size, tile):
    results = ranks(size, by_tiles, tile)
    for name, (_, formula, inputs) in cases().items():
        loss = formula(*inputs)
        assert sum(result[name][0] for result in results) / size == pytest.approx(loss.item(), rel=1e-12)
        parts = zip(*(result[name][1] for result in results), strict=True)  # of each input, from all ranks
        for expected, found in zip(torch.autograd.grad(loss, inputs), parts, strict=True):
            joined = torch.cat([torch.as_tensor(x) for x in found]) if expected.ndim else torch.tensor(sum(found))
            torch.testing.assert_close(joined / size, expected, rtol=1e-10, atol=1e-13, msg=name)


def pieces_of_collectives():
    import torch.distributed as dist

    from training.distributed import collectives

    rank = collectives.rank()
    x = torch.arange(4.0).view(2, 2) + 10 * rank
    x.requires_grad_()
    gathered = collectives.all_gather_with_grad(x)
    weights = torch.arange(float(gathered.numel())).view_as(gathered) * (rank + 1)
    (gathered * weights).sum().backward()
    return (
        gathered.tolist(),
        x.grad.tolist(),
        collectives.all_gather(x).tolist(),
        collectives.reduce_scatter(weights).tolist(),
        collectives.all_reduce(x).tolist(),
        collectives.all_reduce(x, dist.ReduceOp.MAX).tolist(),
        collectives.all_gather(x).requires_grad or collectives.size() == 1,
    )


def test_collectives(ranks):
    rows = [[10.0 * rank + 2 * row, 10.0 * rank + 2 * row + 1] for rank in range(2) for row in range(2)]
    weights = torch.arange(8.0).view(4, 2) * 3  # summed over two ranks
    for rank, (gathered, gradient, plain, scattered, total, most, tracked) in enumerate(
        ranks(2, pieces_of_collectives)
    ):
        assert gathered == plain == rows
        assert gradient == scattered == weights[2 * rank : 2 * rank + 2].tolist()
        assert total == [[10.0, 12.0], [14.0, 16.0]]
        assert most == rows[2:]
        assert not tracked
    alone = pieces_of_collectives()
    assert alone[0] == alone[2] == alone[4] == alone[5] == rows[:2]


# --- precision and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [14.3, 100.0])
@pytest.mark.parametrize("matching", [0.0, 0.97])
def test_fp32_is_as_good_as_the_plain_form(scale, matching):
    images, texts = features(200, 32)
    texts = F.normalize((1 - matching) * texts + matching * images, dim=1).detach().requires_grad_()
    exact = plain_info_nce(images, texts, torch.tensor(scale).double())
    exact_gradient = torch.autograd.grad(exact, images)[0]
    errors = []
    for form in (info_nce, plain_info_nce):
        singles = [x.detach().float().requires_grad_() for x in (images, texts)]
        found = form(*singles, torch.tensor(scale))
        assert found.dtype == torch.float32
        (gradient,) = torch.autograd.grad(found, singles[:1])
        errors.append([abs(found.item() - exact.item()), (gradient - exact_gradient).abs().max().item()])
    ours, theirs = errors
    assert ours[0] <= max(2 * theirs[0], 1e-6 * exact.item())
    assert ours[1] <= 2 * theirs[1]


def test_nothing_over_or_underflows_within_a_tile():
    images = torch.eye(4).double()
    texts = torch.stack([images[0], -images[0], images[1], images[0]]).requires_grad_()
    images.requires_grad_()
    inputs = images, texts, torch.tensor(100.0).double()
    exact, exact_gradients = plain_info_nce(*inputs), torch.autograd.grad(plain_info_nce(*inputs), inputs[:2])
    singles = [x.detach().float().requires_grad_() for x in inputs]
    found = info_nce(*singles)
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(found, singles[:2]), exact_gradients, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made meanwhile holds."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("name", cases())
def test_no_more_logits_than_a_tile(name):
    ours = cases()[name][0]
    inputs = [*features(100, 6), *scalars(7.0, -2.0)[: len(cases()[name][2]) - 2]]
    if name == "distill":
        taught = [x.detach() for x in (*features(100, 5, seed=8), torch.tensor(5.0))]
        ours = lambda *x, tile: distillation(*x, taught, 0.7, tile)["loss"]  # noqa: E731
    with Largest() as largest:
        ours(*inputs, tile=800).backward()
    assert largest.numbers <= 800  # the features have 600 numbers, the logits 10,000


def test_features_of_half_precision_and_autocast_make_fp32_logits():
    halves = features(dtype=torch.bfloat16)
    scale = torch.tensor(50.0, requires_grad=True)
    exact = plain_info_nce(*(x.detach().double() for x in halves), scale.detach().double())
    with torch.autocast("cpu", torch.bfloat16):
        loss = info_nce(*halves, scale)
        hard = hinge(*(x.float() for x in halves), 0.2)
    assert loss.dtype == hard.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    loss.backward()
    assert [x.grad.dtype for x in (*halves, scale)] == [torch.bfloat16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("name", NAMES)
def test_features_of_bf16_towers_are_fp32_and_of_unit_length(name, teacher):
    objective = make(name, teacher, torch.float32)
    images, texts = batch()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = objective(images.float(), texts)
        losses = objective.loss(outputs)
    for key, output in outputs.items():
        if key.endswith(("image", "text")):
            assert output.dtype == torch.float32
            torch.testing.assert_close(output.norm(dim=1), torch.ones(8), rtol=1e-6, atol=0)
        assert output.ndim == 0 or len(output) == 8
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    losses["loss"].backward()
    assert all(weight.grad is not None for weight in objective.parameters() if weight.requires_grad)
    exact = step(make(name, teacher))[0]
    for key, loss in losses.items():
        assert loss.item() == pytest.approx(exact[key], rel=0.03)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks, not we
@pytest.mark.parametrize("name", cases())
def test_compiled_it_is_the_same(name):
    ours, _, inputs = cases()[name]
    compiled = torch.compile(lambda *x: 2 * ours(*x, tile=50), backend="aot_eager")
    found, expected = compiled(*inputs), 2 * ours(*inputs, tile=50)
    assert found.item() == expected.item()
    for a, b in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert torch.equal(a, b)


def test_without_grad_there_is_the_loss_alone():
    for ours, _, inputs in cases().values():
        with torch.no_grad():
            assert not ours(*inputs, tile=None).requires_grad


# --- beside the loss --------------------------------------------------------------------------------------------------


def test_logit_scale_is_clamped_after_the_step(teacher):
    objective = make("infonce", teacher)
    for value, expected in [(9.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)]:
        objective.model.logit_scale.data.fill_(value)
        objective.after_step(8)
        assert objective.model.logit_scale.item() == pytest.approx(expected)


def test_scalars_that_a_loss_does_not_use_are_frozen(teacher):
    learnt = {"infonce": (True, False), "siglip": (True, True), "vsepp": (False, False), "distill": (True, False)}
    for name, expected in learnt.items():
        model = make(name, teacher).model
        assert (model.logit_scale.requires_grad, model.logit_bias.requires_grad) == expected


@pytest.mark.parametrize("name", ["infonce", "coca"])
def test_a_decoder_that_a_loss_does_not_use_is_frozen(teacher, name):
    """DDP would wait for its gradients in vain."""
    run = Config(objective=name)
    objective = run.objective.build(build(COCA), run, {}).double()
    objective.loss(objective(*batch()))["loss"].backward()
    learnt = {name for name, weight in objective.named_parameters() if weight.requires_grad}
    assert learnt == {name for name, weight in objective.named_parameters() if weight.grad is not None}
    assert any("text_decoder" in weight for weight in learnt) == (name == "coca")


def test_siglip_needs_a_bias_and_its_settings_give_one():
    plain = {key: value for key, value in MODEL.items() if key != "init_logit_bias"}
    with pytest.raises(ConfigError, match="bias"):
        SigLIP(build(plain))
    model = SigLIP(build({**plain, **siglip.Config.model_settings})).model
    assert model.logit_scale.exp().item() == pytest.approx(10)
    assert model.logit_bias.item() == -10


def test_coca_needs_a_model_that_writes():
    with pytest.raises(ConfigError, match="captions"):
        CoCa(build(), coca.Config())


def test_hardness_follows_samples_seen(teacher):
    objective = make("vsepp", teacher)
    found = []
    for position in (0, 7, 8, 20, 31, 32, 1000):
        objective.position = position
        found.append(objective.hardness)
    assert found == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    objective.warmup = 0
    assert objective.hardness == 1


def test_the_teacher_sees_what_it_was_trained_to_see(tmp_path):
    """Another side, mean and deviation than the student's."""
    mine = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    its = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    student = save(tmp_path / "student", MODEL, **mine)
    for side in (16, 24):
        settings = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": side}}
        model = save(tmp_path / f"teacher{side}", settings, **its).eval()
        teacher = Teacher(tmp_path / f"teacher{side}", student)
        pixels, texts = torch.rand(8, 3, 16, 16), batch()[1]
        mean, std = (torch.tensor(mine[key]).view(3, 1, 1) for key in ("mean", "std"))
        found = teacher((pixels - mean) / std, texts)
        large = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True) if side != 16 else pixels
        with torch.no_grad():
            torch.testing.assert_close(found["image"], model.encode_image(large * 2 - 1, normalize=True))
            torch.testing.assert_close(found["text"], model.encode_text(texts, normalize=True))
        assert found["scale"].item() == pytest.approx(model.logit_scale.exp().item())


def test_the_teacher_stays_what_it_is(teacher):
    objective = make("distill", teacher)
    assert all(name.startswith("model.") for name in objective.state_dict())
    assert all(name.startswith("model.") for name, _ in objective.named_parameters())
    before = copy.deepcopy(objective._teacher[0].state_dict())
    objective.train()
    step(objective)
    after = objective._teacher[0].state_dict()
    assert not objective._teacher[0].model.training
    assert {weight.dtype for weight in after.values() if weight.is_floating_point()} == {torch.float64}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_teacher_is_asked_once_however_many_parts_there_are(teacher):
    objective, asked = make("distill", teacher), []
    objective._teacher[0].register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    step(objective, parts=4)
    assert asked == [2, 2, 2, 2]


@pytest.mark.parametrize("change", [{"vocab_size": 65}, {"context_length": 7}])
def test_a_teacher_that_cannot_read_the_tokens_is_refused(tmp_path, change):
    save(tmp_path, {**MODEL, "text_cfg": {**MODEL["text_cfg"], **change}})
    with pytest.raises(ConfigError, match="cannot read"):
        Teacher(tmp_path, build())


def test_no_teacher_is_an_error(tmp_path):
    save(tmp_path / "data", MODEL)
    Teacher(tmp_path, build())
    (tmp_path / "data/open_clip_model.safetensors").unlink()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(ConfigError, match="teacher cannot be loaded"):
            Teacher(folder, build())


def test_every_objective_is_found():
    assert {"albef", *(name.partition(" ")[0] for name in NAMES)} <= {*ObjectiveConfig.all_members()}
