"""Captions behind a prefix: the loss written out word by word, split up, run to an export that writes."""

import json

import open_clip
import pytest
import torch
from nesting import nested
from PIL import Image
from safetensors.torch import load_file, save_file
from small_data import MODEL, draw
from test_albef_parts import batch, build
from torch import nn

from infra.captioning.captioner import load_captioner
from infra.captioning.config import Greedy
from infra.encoder.open_clip import load_encoder
from infra.errors import ConfigError
from infra.run.context import Context
from infra.run.manifest import Artifact, File, Manifest
from infra.store import LocalStore
from training import loop, step, train
from training.data.samples import Shards
from training.distributed.parallel import gathered, wrap
from training.distributed.world import World
from training.inputs import Inputs
from training.model.blocks import use_fast_blocks
from training.objectives import clipcap
from training.objectives.clipcap.objective import ClipCap

pytestmark = pytest.mark.long  # trains

BATCH = 8
SMALL = {"prefix": 3, "width": 16, "layers": 2, "heads": 2}


def objective():
    settings = train.Config(batch_size=BATCH, objective=clipcap.Config(**SMALL))
    return ClipCap(use_fast_blocks(build()), settings.objective, settings).double()


def by_hand(module, images, texts):
    """Minus the mean log-probability of all words, a sentence and a block at a time."""
    text, nats = module.captioner.text, []
    for image, ids in zip(images, texts, strict=True):
        feature = module.model.encode_image(image[None])[0]
        hidden, out = module.captioner.mapping[0], module.captioner.mapping[2]
        prefix = out(torch.tanh(hidden(feature / feature.norm()))).view(3, 16)
        ids = ids[: int(ids.argmax()) + 1]
        x = torch.cat([prefix, text.token_embedding(ids[:-1])]) + text.positional_embedding[: 3 + len(ids) - 1]
        ahead = torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype).triu(1)
        for block in text.transformer.resblocks:
            attention, normed = block.attn, block.ln_1(x)[:, None]
            x = x + nn.functional.multi_head_attention_forward(
                normed, normed, normed, 16, 2, attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0,
                attention.out_proj.weight, attention.out_proj.bias, attn_mask=ahead, need_weights=False,
            )[0][:, 0]  # fmt: skip
            x = x + block.mlp(block.ln_2(x))
        logits = text.ln_final(x[3:]) @ text.token_embedding.weight.T
        nats += [-row.log_softmax(-1)[token] for row, token in zip(logits, ids[1:], strict=True)]
    return sum(nats) / len(nats)


def test_the_loss_and_gradients_are_the_papers():
    module, (images, texts) = objective().train(), batch(BATCH, seed=2)
    loss = module.loss(module(images.double(), texts))["loss"]
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.requires_grad}
    assert all(name.startswith("captioner.") and gradient.abs().max() > 0 for name, gradient in found.items())
    assert not module.model.training
    module.zero_grad()
    expected = by_hand(module, images.double(), texts)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for name, gradient in found.items():
        own = dict(module.named_parameters())[name].grad
        assert gradient.numpy() == pytest.approx(own.numpy(), rel=1e-8, abs=1e-12), name


def steps(parts=1):
    module, world = objective(), World.join(torch.device("cpu"))
    wrapped = wrap(module, train.Config(batch_size=BATCH, objective=clipcap.Config(**SMALL)), world)
    share = BATCH // world.size
    size = share // parts
    images, texts = (x[world.rank * share :][:share] for x in batch(BATCH, seed=1))

    def encode(part):
        return wrapped(images[part * size :][:size].double(), texts[part * size :][:size])

    losses = step.backward(module, encode, parts, wrapped.no_sync)
    whole = gathered({name: w.grad for name, w in module.named_parameters() if w.grad is not None}, world)
    return losses["loss"].item(), {name: value.numpy() for name, value in whole.items() if value is not None}


def test_ranks_and_parts_change_nothing(ranks):
    loss, gradients = steps()
    for results in ([steps(4)], ranks(2, steps, 2), ranks(4, steps)):
        assert sum(result[0] for result in results) / len(results) == pytest.approx(loss, rel=1e-12)
        assert set(results[0][1]) == set(gradients)
        for name, gradient in gradients.items():
            assert results[0][1][name] == pytest.approx(gradient, rel=1e-9, abs=1e-13), name


def go(folder, shards, start, kept_mb=100):
    """Train to the end; what the history says, and whether the tower's features were kept."""
    values = {
        "model__architecture": MODEL, "batch_size": 8, "samples": 400, "optimizer__lr": 1e-2, "log_every": 8,
        "objective": {"kind": "clipcap", **SMALL}, "augment__crop_scale": (1.0, 1.0),
        "loading__feature_cache_mb": kept_mb,
    }  # fmt: skip
    tars = Shards(LocalStore(shards), sorted(str(path.relative_to(shards)) for path in shards.rglob("*.tar")))
    inputs = Inputs({"shards": tars}, models={"pretrained": start})
    trainer = loop.Trainer(train.Config(**nested(values)), inputs, Context(folder), World.join(torch.device("cpu")))
    trainer.restore()
    trainer.run()
    trainer.finish()
    return [line["loss"] for line in trainer.state.history], trainer.locked is not None


def test_it_learns_from_kept_features_and_writes_when_loaded(ranks, shards, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**MODEL).state_dict(), start / "open_clip_model.safetensors")
    described = {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (start / "open_clip_config.json").write_text(json.dumps(described))
    (kept, was_kept), *_ = ranks(1, go, tmp_path / "kept", shards, start)
    (plain, not_kept), *_ = ranks(1, go, tmp_path / "plain", shards, start, 0)
    assert (was_kept, not_kept) == (True, False)
    assert kept == pytest.approx(plain, rel=1e-4)
    assert kept[-1] < 0.4 * kept[0]

    folder = tmp_path / "kept"
    names = [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "captioner/config.json",
        "captioner/model.safetensors",
    ]
    files = [File(path=f"data/{name}", bytes=1, sha256="0" * 64) for name in names]
    model = Artifact(str(folder), Manifest(stage="train", digest="a" * 64, identity={}, files=files))
    written = load_captioner(load_encoder(folder / "data"), model).write(
        [Image.fromarray(draw(number)[0]) for number in range(4)], Greedy()
    )
    assert all(caption.startswith("a ") for caption in written), written
    weights = (load_file(place / "open_clip_model.safetensors") for place in (start, folder / "data"))
    before, after = weights
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tokenizer_without_an_end_is_refused():
    module = objective()
    module.use_tokenizer(lambda text: torch.tensor([62, 63, 0, 0]))
    with pytest.raises(ConfigError, match="where captions end"):
        module.use_tokenizer(lambda text: torch.tensor([1, 0, 0, 0]))
    with pytest.raises(ConfigError, match="divide"):
        clipcap.Config(width=16, heads=3).check(8)
