"""Answering against its loss written out question by question, split up, and loaded again."""

import json

import numpy as np
import open_clip
import pytest
import torch
from nesting import nested
from PIL import Image
from safetensors.torch import load_file, save_file
from small_data import MODEL, draw
from test_albef_parts import batch, build
from test_vilbert import CLASSES, FEATURES, MOST, tables
from torch import nn

from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError, Preempted
from infra.fusion.build import build_fusion
from infra.fusion.encoder import FusionEncoder
from infra.fusion.network import Layout
from infra.run.context import Context
from infra.store import LocalStore
from training import loop, step, train
from training.data.samples import Shards
from training.distributed.parallel import gathered, wrap
from training.distributed.world import World
from training.inputs import Inputs
from training.model.blocks import use_fast_blocks
from training.objectives import vqa
from training.objectives.vqa.objective import VQA

pytestmark = pytest.mark.long  # trains

BATCH = 8
KINDS = {
    "two_stream": {"kind": "two_stream", "layers": 1},
    "single_stream": {"kind": "single_stream"},
    "co_attention": {"kind": "co_attention", "layers": 2, "regions": [MOST, FEATURES, CLASSES]},
}
ANSWERS = {"one": [7], "two words": [8, 9], "words": [9]}


class Tokens:
    """Answers of one token and of two."""

    def ragged(self, texts):
        return [[62, *ANSWERS[text], 63] for text in texts]


def pretrained(folder, kind, model):
    """A fusion encoder in ``folder`` as albef, vilt and vilbert leave one."""
    config = {**KINDS[kind], "vocabulary": int(model.vocab_size), "matching": True}
    torch.manual_seed(4)
    (folder / "fusion").mkdir(parents=True)
    (folder / "fusion/config.json").write_text(json.dumps(config))
    save_file(build_fusion(model, config).state_dict(), folder / "fusion/model.safetensors")
    return folder


def asked(seed, kind="single_stream"):
    """Images or tables of regions, and questions with an answer behind them; the last one has none."""
    images, texts = batch(BATCH, seed)
    if kind == "co_attention":
        images = tables(BATCH, seed)[..., : FEATURES + 4]
    rows = list(ANSWERS.values())
    for number, text in enumerate(texts[:-1]):
        end, answer = int(text.argmax()), rows[(number + seed) % 3]
        text[end : end + len(answer) + 1] = torch.tensor([*answer, 63])
    texts[-1, int(texts[-1].argmax()) - 1] = 5
    return images, texts


def steps(folder, kind, parts=1, **cluster):
    """Losses and gradients of two steps of this rank, each in ``parts`` parts."""
    settings = train.Config(batch_size=BATCH, objective=vqa.Config(answers=tuple(ANSWERS)), cluster=cluster)
    module, world = VQA(use_fast_blocks(build()), settings.objective, settings, {"pretrained": folder}).double(), None
    module.use_tokenizer(Tokens())
    world = World.join(torch.device("cpu"))
    wrapped = wrap(module, settings, world)
    optimizer = torch.optim.SGD([weight for weight in module.parameters() if weight.requires_grad], lr=0.3)
    share, losses = BATCH // world.size, []
    for seed in range(2):
        images, texts = (x[world.rank * share :][:share] for x in asked(seed, kind))
        size = share // parts

        def encode_part(part, images=images, texts=texts, size=size):
            return wrapped(images[part * size :][:size].double(), texts[part * size :][:size])

        optimizer.zero_grad()
        losses.append(step.backward(module, encode_part, parts, wrapped.no_sync))
        optimizer.step()
        module.after_step(BATCH)
    gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    whole = gathered(gradients, world)
    return [{n: x.item() for n, x in line.items()} for line in losses], {
        name: value.numpy() for name, value in whole.items() if value is not None
    }


@pytest.mark.parametrize(
    ("kind", "pictures"),
    [
        ("two_stream", 1),
        ("single_stream", 1),
        ("co_attention", 1),
        ("two_stream", 2),
        ("single_stream", 3),
        ("co_attention", 2),
    ],
)
def test_the_loss_is_that_of_each_question_alone(tmp_path, kind, pictures):
    model = use_fast_blocks(build())
    settings = train.Config(batch_size=BATCH, objective=vqa.Config(answers=tuple(ANSWERS), images=pictures))
    module = VQA(model, settings.objective, settings, {"pretrained": pretrained(tmp_path, kind, model)}).double()
    module.use_tokenizer(Tokens())
    images, texts = asked(1, kind)
    shown = [images.double(), *(asked(seed, kind)[0].double() for seed in range(2, pictures + 1))]
    if kind == "co_attention":
        shown[-1][3] = 0.0  # a picture in which the detector found nothing
    losses = module.loss(module(torch.cat(shown, dim=1 if kind == "co_attention" else 3), texts))
    losses["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.requires_grad}
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    module.zero_grad()
    expected, right = [], []
    for number in range(BATCH - 1):
        answer = list(ANSWERS.values())[(number + 1) % 3]
        length = int(texts[number].argmax()) + 1 - len(answer)
        question = texts[number : number + 1, :length].clone()
        question[0, -1] = 63
        lengths = torch.tensor([length])
        words = module.fusion.read_texts(model, question, lengths)
        states = []
        for picture in (images[number : number + 1] for images in shown):
            seen = module.fusion.read_images(model, picture)
            states.append(module.fusion.fuse(model, words, Layout(lengths, words.device), seen, torch.tensor([0]))[-1])
        logits = module.fusion.answer_head(torch.cat(states))
        expected.append(-logits.log_softmax(-1)[(number + 1) % 3])
        right.append(float(logits.argmax() == (number + 1) % 3))
    (sum(expected) / len(expected)).backward()
    assert losses["loss"].item() == pytest.approx(sum(expected).item() / len(expected), rel=1e-10)
    assert losses["right"].item() == pytest.approx(np.mean(right))
    assert losses["answered"].item() == pytest.approx(1 - 1 / BATCH)
    for name, gradient in found.items():
        own = dict(module.named_parameters())[name].grad
        assert gradient.numpy() == pytest.approx(own.numpy(), rel=1e-8, abs=1e-12), name


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_parts_change_nothing(ranks, tmp_path, kind):
    folder = pretrained(tmp_path, kind, build())
    losses, gradients = steps(folder, kind)
    for results in ([steps(folder, kind, 4)], ranks(2, steps, folder, kind, 2)):
        for number, line in enumerate(losses):
            for name, loss in line.items():
                found = sum(result[0][number][name] for result in results) / len(results)
                assert found == pytest.approx(loss, rel=1e-10), name
        assert set(results[0][1]) == set(gradients)
        for name, gradient in gradients.items():
            assert results[0][1][name] == pytest.approx(gradient, rel=1e-8, abs=1e-12), name


@pytest.mark.parametrize("kind", KINDS)
def test_activations_may_be_computed_again(tmp_path, kind):
    with torch.random.fork_rng():
        folder = pretrained(tmp_path / "model", kind, build())
    passes = []
    counted = nn.modules.module.register_module_forward_pre_hook(lambda *_: passes.append(1))
    try:
        losses, gradients = steps(folder, kind)
        once = len(passes)
        again = steps(folder, kind, grad_checkpointing=True)
    finally:
        counted.remove()
    assert again[0] == losses
    assert len(passes) > 2 * once
    for name, gradient in gradients.items():
        np.testing.assert_allclose(again[1][name], gradient, rtol=1e-12, atol=1e-15, err_msg=name)


def go(folder, shards, start, stop_at=None, workers=1):
    """Fine-tune to the end, or until so many samples are seen; the answers' logits at the end."""
    values = {
        "model__architecture": MODEL, "batch_size": 8, "samples": 64, "optimizer__lr": 3e-3, "log_every": 8,
        "data__caption_key": "txt", "objective": {"kind": "vqa", "answers": ["disc", "box", "bar"]},
        "cluster__workers": workers,
    }  # fmt: skip
    seen = [0]
    context = Context(
        folder,
        emit=lambda event: seen.__setitem__(0, event.done if event.kind == "progress" else seen[0]),
        stopping=lambda: stop_at is not None and seen[0] >= stop_at,
    )
    tars = Shards(LocalStore(shards), sorted(str(path.relative_to(shards)) for path in shards.rglob("*.tar")))
    inputs = Inputs({"shards": tars}, models={"pretrained": start})
    try:
        loop.train(train.Config(**nested(values)), inputs, context, World.join(torch.device("cpu")))
    except Preempted:
        assert stop_at is not None


def test_it_is_continued_exactly_and_answers_when_loaded(ranks, shards, tmp_path):
    model = open_clip.CLIP(**MODEL)
    start = pretrained(tmp_path / "start", "single_stream", model)
    save_file(model.state_dict(), start / "open_clip_model.safetensors")
    described = {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (start / "open_clip_config.json").write_text(json.dumps(described))
    ranks(1, go, tmp_path / "calm", shards, start)
    ranks(2, go, tmp_path / "other", shards, start, 32, 2)
    ranks(1, go, tmp_path / "other", shards, start)
    calm, other = (
        [json.loads(line) for line in (tmp_path / name / "data/history.jsonl").read_text().splitlines()]
        for name in ("calm", "other")
    )
    assert [line["samples"] for line in calm] == list(range(8, 72, 8))
    assert [line["loss"] for line in other] == pytest.approx([line["loss"] for line in calm], rel=1e-6)
    assert {line["answered"] for line in calm} == {1.0}

    folder = tmp_path / "calm/data"
    config = json.loads((folder / "fusion/config.json").read_text())
    assert config["answers"] == ["disc", "box", "bar"]
    encoder = load_encoder(folder)
    fusion = build_fusion(encoder.model, config)
    fusion.load_state_dict(load_file(folder / "fusion/model.safetensors"))
    loaded = FusionEncoder(encoder, fusion, config["answers"])
    pictures = [Image.fromarray(draw(number)[0]) for number in range(3)]
    logits = loaded.answer(pictures, [["a red", "a blue"], ["a red"], []])
    assert logits.shape == (3, 3)
    alone = loaded.answer([pictures[0]], [["a blue"]])
    assert logits[1] == pytest.approx(alone[0], abs=1e-5)
    assert not np.allclose(logits[0], logits[2], atol=1e-4)


def test_what_cannot_be_answered_is_refused(tmp_path):
    settings = train.Config(batch_size=BATCH, objective=vqa.Config(answers=tuple(ANSWERS)))
    with pytest.raises(ConfigError, match="no fusion encoder"):
        VQA(build(), settings.objective, settings, {"pretrained": tmp_path})
    with pytest.raises(ConfigError, match="answers"):
        vqa.Config(answers=("yes", "yes"))
    module = VQA(build(), settings.objective, settings, {"pretrained": pretrained(tmp_path, "single_stream", build())})
    module.use_tokenizer(Tokens())
    texts = torch.tensor([[62, 8, 9, 63, 0], [62, 1, 8, 9, 63], [62, 9, 63, 0, 0]])
    questions, lengths, numbers = module.split(texts)
    assert numbers.tolist() == [2, 1, -1]  # of the first the longer answer would leave no question
    assert questions.tolist() == [[62, 8, 63, 0, 0], [62, 1, 63, 0, 0], [62, 9, 63, 0, 0]]
    assert lengths.tolist() == [3, 3, 3]
    assert isinstance(module.fusion.answer_head, nn.Sequential)


def compared(count, seed):
    """Two pictures, each of two textures in two colours: of every other pair the colours are exchanged.

    The question names a texture. "one": it has one colour in both; "words": it has not. The words alone, either picture
    alone, and the bag of textures and colours say nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    textures, colours = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.eye(3) * 2 - 0.5
    images, texts = torch.zeros(count, 3, 16, 32), torch.zeros(count, 16, dtype=torch.int64)
    for row in range(count):
        (kinds, shades), same = (torch.randperm(3, generator=generator)[:2] for _ in range(2)), row % 2 == 0
        for side in range(2):
            for place, kind, shade in zip(
                torch.randperm(4, generator=generator)[:2].tolist(),
                kinds.tolist(),
                (shades if same or not side else shades.flip(0)).tolist(),
                strict=True,
            ):
                y, x = 8 * (place // 2), 16 * side + 8 * (place % 2)
                images[row, :, y : y + 8, x : x + 8] = colours[shade][:, None, None] * textures[kind]
        texts[row, :4] = torch.tensor([62, 20 + kinds[0], 7 if same else 9, 63])
    return images, texts


def test_two_pictures_are_compared(tmp_path):
    """What takes both pictures and which colour belongs to which texture is learnt, and holds for others."""
    torch.manual_seed(0)
    model = use_fast_blocks(build(vision={"width": 48, "head_width": 12}, text={"layers": 1}))
    settings = train.Config(objective=vqa.Config(answers=tuple(ANSWERS), images=2))
    start = {"pretrained": pretrained(tmp_path, "single_stream", model)}
    module = VQA(model, settings.objective, settings, start)
    module.use_tokenizer(Tokens())
    images, texts = compared(1000, 1)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-3, betas=(0.9, 0.98), fused=True)
    for number in range(120):
        rows = torch.randint(0, len(images), (64,))
        optimizer.param_groups[0]["lr"] = 3e-3 * min((number + 1) / 20, 1 - number / 120)
        optimizer.zero_grad()
        module.loss(module(images[rows], texts[rows]))["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        assert module.loss(module(*compared(200, 2)))["right"] > 0.9  # chance is a half
