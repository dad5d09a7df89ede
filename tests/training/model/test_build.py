"""What build makes of open_clip's models: locked, fine-tuned, with patches left out, by timm, compiled."""

import copy
import json

import numpy as np
import open_clip
import pytest
import torch
from small_data import MODEL

from infra.errors import ConfigError, DataError
from training.config import Config, Model
from training.distributed.parallel import gathered, wrap
from training.distributed.world import World
from training.model.blocks import compile_blocks, encode_image
from training.model.build import _replace_dropout, build
from training.model.dropout import Dropout, Position
from training.model.text import encode_text
from training.objectives.infonce.objective import InfoNCE
from training.optim.ema import Ema
from training.optim.schedule import adamw

pytestmark = pytest.mark.long  # compiles

WORLD = World()
DEEP = {
    **MODEL,
    "vision_cfg": {**MODEL["vision_cfg"], "layers": 3},
    "text_cfg": {**MODEL["text_cfg"], "layers": 3},
}
TIMM = {**MODEL, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token"}}


def pixels(towers, count=2):
    generator = torch.Generator().manual_seed(0)
    return towers.normalise(
        torch.randint(0, 256, (count, *towers.image_size, 3), dtype=torch.uint8, generator=generator)
    )


def learnt(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


# --- which model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_timm_towers_train_and_open_clip_loads_them(name, tmp_path):
    config = {**TIMM, "vision_cfg": {**TIMM["vision_cfg"], "timm_model_name": name, "timm_pool": "avg"}}
    towers = build(config, 0, WORLD)
    features = encode_image(towers.model, pixels(towers))
    assert features.shape == (2, 16)
    features.sum().backward()
    (tmp_path / "open_clip_config.json").write_text(json.dumps(towers.description))
    torch.save(towers.model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    loaded = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    towers.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(pixels(towers)), encode_image(towers.model, pixels(towers)))


def test_coca_is_the_same_for_one_seed():
    config = {
        **MODEL,
        "vision_cfg": {**MODEL["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**MODEL["text_cfg"], "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    }
    one, two = (build(config, 3, WORLD).model.state_dict() for _ in range(2))
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name
    assert one["text_decoder.text_projection"].std().item() == pytest.approx(0.25, rel=0.2)


def test_an_objective_may_set_what_the_configuration_leaves_open():
    settings = {"init_logit_scale": 1.5, "init_logit_bias": -10.0}
    towers = build(MODEL, 0, WORLD, settings=settings)
    assert (towers.model.logit_scale.item(), towers.model.logit_bias.item()) == (1.5, -10.0)
    assert towers.description["model_cfg"]["init_logit_bias"] == -10.0
    assert build({**MODEL, "init_logit_scale": 2.0}, 0, WORLD, settings=settings).model.logit_scale.item() == 2.0


def test_pixels_are_normalised_as_open_clip_does():
    towers = build(MODEL, 0, WORLD)
    images = torch.arange(256, dtype=torch.uint8).repeat(3 * 3).reshape(3, 16, 16, 3)
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    expected = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    found = towers.normalise(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-Z-99", "no model"),
        ({"embed_dim": 16}, "cannot build"),
        ({**MODEL, "vision_cfg": {"timm_model_name": "no_such_tower"}}, "cannot build"),
        ({**TIMM, "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 96}}, "another image size"),
    ],
)
def test_models_there_are_none_of_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        build(model, 0, WORLD)


# --- weights to start from --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model in each of the forms that weights come in."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("trained")
    towers = build(MODEL, 7, WORLD)
    weights = towers.model.state_dict()
    (folder / "artifact/data").mkdir(parents=True)
    (folder / "artifact/data/open_clip_config.json").write_text(json.dumps(towers.description))
    save_file(weights, folder / "artifact/data/open_clip_model.safetensors")
    ddp = {f"module.{name}": weight for name, weight in weights.items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": ddp, "optimizer": {}}, folder / "epoch_3.pt")
    return folder, weights


@pytest.mark.parametrize("source", ["artifact", "artifact/data", "local-dir:artifact/data", "epoch_3.pt"])
def test_training_starts_from_weights(trained, source, monkeypatch):
    folder, weights = trained
    monkeypatch.chdir(folder)
    found = build(MODEL, 0, WORLD, pretrained=source).model.state_dict()
    for name, weight in weights.items():
        assert torch.equal(found[name], weight), name


def test_positions_are_interpolated_to_another_image_size(trained):
    folder, weights = trained
    larger = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "image_size": 32}}
    found = build(larger, 0, WORLD, pretrained=f"{folder}/epoch_3.pt").model.state_dict()
    assert found["visual.positional_embedding"].shape == (17, 16)
    assert torch.equal(found["visual.positional_embedding"][0], weights["visual.positional_embedding"][0])


def test_weights_that_are_not_there_or_do_not_fit_are_refused(trained, tmp_path):
    folder, _ = trained
    for source in ("laion2b_s34b_b79k", "hf-hub:some/model", str(tmp_path)):
        with pytest.raises(ConfigError, match="no weights to start from"):
            build(MODEL, 0, WORLD, pretrained=source)
    with pytest.raises(DataError, match="not those of this model"):
        build(DEEP, 0, WORLD, pretrained=f"{folder}/artifact")


# --- locked towers ----------------------------------------------------------------------------------------------------


def test_a_locked_tower_learns_nothing_and_keeps_no_activations():
    towers = build(Model(architecture=DEEP, lock_image=0), 0, WORLD)
    assert not any(name.startswith("visual.") for name in learnt(towers.model))
    assert "token_embedding.weight" in learnt(towers.model)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        assert not encode_image(towers.model, pixels(towers)).requires_grad
    assert not kept


def test_its_last_groups_may_learn_all_the_same():
    model = build(Model(architecture=DEEP, lock_image=2, lock_text=1), 0, WORLD).model
    visual = {name.removeprefix("visual.") for name in learnt(model) if name.startswith("visual.")}
    assert {name.rsplit(".", 2)[0] if "resblocks" in name else name for name in visual} >= {"proj", "ln_post.weight"}
    assert all("resblocks.2" in name or name.startswith(("proj", "ln_post")) for name in visual)
    assert learnt(model) - {f"visual.{name}" for name in visual} == {"text_projection", "logit_scale"}


def test_batch_norms_of_a_locked_tower_keep_their_statistics():
    config = {**MODEL, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
    towers = build(Model(architecture=config, lock_image=0), 0, WORLD)
    before = copy.deepcopy(towers.model.state_dict())
    encode_image(towers.model.train(), pixels(towers))
    for name, value in towers.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ConfigError, match="cannot lock"):
        build(Model(architecture=config, lock_image=2), 0, WORLD)


def test_a_locked_timm_tower_computes_what_it_did():
    # open_clip would replace its batch norms, which include their activation, by ones without it.
    tower = {"timm_model_name": "tf_efficientnet_lite0", "timm_model_pretrained": False, "image_size": 32}
    config = {**MODEL, "vision_cfg": {**tower, "timm_pool": "", "timm_proj": "linear"}}
    free = build(Model(architecture=config), 0, WORLD)
    locked = build(Model(architecture=config, lock_image=0), 0, WORLD)
    images = pixels(free)
    with torch.no_grad():
        expected = encode_image(free.model.eval(), images)
        assert expected.std(dim=0).min() > 1e-4
        assert torch.equal(encode_image(locked.model.eval(), images), expected)
    encode_image(locked.model.train(), images)
    before, after = free.model.state_dict(), locked.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(name.startswith("visual.trunk.") for name in learnt(locked.model))


def five_steps(parallel):
    """Losses and moving average of a model half locked, with patches left out; which weights had a gradient."""
    world = World.join()
    config = Config(batch_size=8, optimizer={"lr": 1e-2}, cluster={"parallel": parallel})
    towers = build(Model(architecture=DEEP, patch_dropout=0.5, lock_image=1, lock_text=2), 0, world)
    objective = InfoNCE(towers.model)
    model = wrap(objective, config, world)
    optimizer = adamw(objective, config.optimizer)
    average = Ema(towers.model.state_dict().items(), half_life=20)
    draw = torch.Generator().manual_seed(0)
    own = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    losses = []
    for step in range(5):
        images = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8, generator=draw)
        texts = torch.randint(1, 1000, (8, 8), generator=draw)
        texts[torch.arange(8), torch.arange(8) % 5 + 2] = 49407
        towers.position.samples = step * 8 + own.start
        optimizer.zero_grad()
        loss = objective.loss(model(towers.normalise(images[own]), texts[own]))["loss"]
        loss.backward()
        model.clip(1.0)
        optimizer.step()
        average.update(towers.model.state_dict().items(), 8)
        losses.append(sum(world.gather(loss.item())) / world.size)
    averages = {name: None if x is None else x.numpy() for name, x in gathered(average.weights(), world).items()}
    return losses, averages, {name for name, weight in towers.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_ranks_learn_the_same_and_exchange_what_learns_only(ranks, parallel):
    losses, averages, moved = ranks(1, five_steps, "ddp")[0]
    assert moved == learnt(build(Model(architecture=DEEP, lock_image=1, lock_text=2), 0, WORLD).model)
    results = ranks(2, five_steps, parallel)
    for theirs, _, their_moved in results:
        assert theirs == pytest.approx(losses, rel=1e-6)
        assert their_moved == moved
    for name, value in averages.items():
        np.testing.assert_allclose(results[0][1][name], value, rtol=1e-3, atol=2e-4, err_msg=name)


# --- dropout ----------------------------------------------------------------------------------------------------------


def features_at(towers, position, images):
    towers.position.samples = position
    return encode_image(towers.model, images)


@pytest.mark.parametrize("config", [MODEL, TIMM], ids=["open_clip", "timm"])
def test_the_patches_left_out_belong_to_the_sample(config):
    towers = build(Model(architecture=config, patch_dropout=0.5), 0, WORLD)
    assert towers.description["model_cfg"]["vision_cfg"]["patch_dropout"] == 0.5
    images = pixels(towers, 1).expand(8, -1, -1, -1)
    whole = features_at(towers, 40, images)
    parts = torch.cat([features_at(towers, 40 + start, images[:2]) for start in range(0, 8, 2)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    assert len(whole.detach().round(decimals=3).unique(dim=0)) > 1  # the same picture, other patches
    assert (features_at(towers, 48, images) - whole).abs().max() > 1e-3
    torch.manual_seed(5)  # nothing of it comes from the worker's generator
    assert torch.equal(features_at(towers, 40, images), whole)
    towers.model.eval()
    assert len(features_at(towers, 40, images).detach().round(decimals=3).unique(dim=0)) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it to make its guards
def test_layers_of_timm_that_are_left_out_belong_to_the_sample():
    """What is drawn for a sample is the same in other parts, in compiled blocks, and whatever the worker draws."""
    vision = {**TIMM["vision_cfg"], "timm_drop": 0.5, "timm_drop_path": 0.5}
    towers = build({**TIMM, "vision_cfg": vision}, 0, WORLD)
    images = pixels(towers, 1).expand(8, -1, -1, -1)
    torch.manual_seed(1)
    whole = features_at(towers, 40, images)
    parts = torch.cat([features_at(towers, 40 + start, images[:2]) for start in range(0, 8, 2)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    assert len(whole.detach().round(decimals=3).unique(dim=0)) == 8
    torch._dynamo.reset()
    compile_blocks(towers.model, "eager")
    torch.testing.assert_close(features_at(towers, 40, images), whole, rtol=1e-4, atol=1e-4)
    towers.model.eval()
    assert len(features_at(towers, 40, images).detach().round(decimals=3).unique(dim=0)) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_dropout_keeps_its_part_and_the_mean(whole):
    position = Position()
    x = torch.ones(4000, 3, 5, requires_grad=True)
    y = Dropout(0.3, whole, 0, 1, position)(x)
    assert y.detach().unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert ((y == 0).flatten(1).float().mean(1) % 1 == 0).all() == whole
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert not torch.equal(Dropout(0.3, whole, 0, 2, position)(x), y)
    assert not torch.equal(Dropout(0.3, whole, 1, 1, position)(x), y)
    assert Dropout(0.3, whole, 0, 1, position).eval()(x) is x


def test_dropout_that_each_worker_draws_is_said(caplog):
    model = build(MODEL, 0, WORLD).model
    caplog.clear()
    _replace_dropout(model, 0, Position())
    assert not caplog.messages
    model.transformer.dropout = torch.nn.Dropout(0.1)
    _replace_dropout(model, 0, Position())
    assert caplog.messages == [
        "dropout in Transformer draws per worker: another number of workers gives another result"
    ]


def test_half_the_patches_cost_half_the_work():
    towers = build(
        Model(architecture={**DEEP, "vision_cfg": {**DEEP["vision_cfg"], "image_size": 64}}, patch_dropout=0.5),
        0,
        WORLD,
    )
    seen = []
    for block in towers.model.visual.transformer.resblocks:
        block.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    encode_image(towers.model, pixels(towers))
    assert seen == [33, 33, 33]


# --- the same by other means ------------------------------------------------------------------------------------------


def test_gradient_checkpointing_is_exact_with_patch_dropout():
    found = []
    for checkpointing in (False, True):
        towers = build(Model(architecture=DEEP, patch_dropout=0.5), 0, WORLD, grad_checkpointing=checkpointing)
        encode_image(towers.model, pixels(towers)).square().sum().backward()
        found.append([weight.grad for weight in towers.model.visual.parameters()])
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it to make its guards
@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_compiled_blocks_agree_with_eager_ones(backend):
    """Also as the shapes change from batch to batch, with the names of the weights as they were."""
    torch._dynamo.reset()
    eager = build(DEEP, 0, WORLD)
    compiled = copy.deepcopy(eager.model)
    compile_blocks(compiled, backend)
    assert list(compiled.state_dict()) == list(eager.model.state_dict())
    generator = torch.Generator().manual_seed(2)
    for count in (2, 5):
        texts = torch.zeros(count, 8, dtype=torch.int64)
        for row in range(count):
            length = 2 + row % 5
            texts[row, : length - 1] = torch.randint(1, 1000, (length - 1,), generator=generator)
            texts[row, length - 1] = 49407
        outputs = []
        for model in (eager.model, compiled):
            model.zero_grad()
            image, text = encode_image(model, pixels(eager, count)), encode_text(model, texts)
            (image * text).sum().backward()
            outputs.append([image, text, *(w.grad for w in model.parameters() if w.grad is not None)])
        for ours, theirs in zip(*outputs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
