"""Learning rate and decay rules against their definitions."""

import math

import pytest

from training import train
from training.config import Model, Optimizer, Schedule
from training.curve import Curve, InverseSqrt
from training.optim.schedule import adamw, learning_rate


def test_warms_up_linearly_then_follows_half_a_cosine():
    config = train.Config(optimizer={"lr": 2.0}, schedule={"warmup": 100})
    assert [learning_rate(config, samples, 1100) for samples in (0, 25, 100)] == [0, 0.5, 2.0]
    assert learning_rate(config, 350, 1100) == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(config, 600, 1100) == pytest.approx(1.0)
    assert learning_rate(config, 1100, 1100) == pytest.approx(0.0)


def test_constant_stays():
    config = train.Config(optimizer={"lr": 2.0}, schedule={"warmup": 100, "shape": "constant"})
    assert [learning_rate(config, samples, 1000) for samples in (50, 100, 999)] == [1.0, 2.0, 2.0]


def test_agrees_with_open_clips_schedule_at_the_middle_of_steps():
    # open_clip counts whole steps: lr = base * (step + 1) / warmup, then half a cosine over (step - warmup).
    config = train.Config(optimizer={"lr": 1.0}, schedule={"warmup": 64 * 10})
    for step in range(10, 100):
        theirs = 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert learning_rate(config, step * 64, 100 * 64) == pytest.approx(theirs)


def theirs(adjuster, steps):
    """Rates of one of open_clip_train's schedules."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return [adjuster(optimizer, 1.0, 10, 100)(step) for step in range(steps)]


def test_equals_open_clips_schedules_at_the_start_of_steps():
    """open_clip's step k stands for k whole steps; its warm-up runs a step ahead, which ours does not."""
    from functools import partial

    from open_clip_train.scheduler import const_lr, const_lr_cooldown, cosine_lr

    cooled = partial(const_lr_cooldown, cooldown_steps=30, cooldown_end_lr=0.25)
    ours = {
        cosine_lr: Schedule(warmup=640),
        const_lr: Schedule(warmup=640, shape="constant"),
        cooled: Schedule(warmup=640, shape="constant", floor=0.25, cooldown=30 * 64, cooldown_shape="linear"),
    }
    for adjuster, schedule in ours.items():
        expected = theirs(adjuster, 100)
        assert [schedule.rate(1.0, step * 64, 6400) for step in range(10, 100)] == pytest.approx(expected[10:])
        assert [schedule.rate(1.0, (step + 1) * 64, 6400) for step in range(10)] == pytest.approx(expected[:10])


def test_a_curve_of_your_own_is_warmed_up_and_cooled_down():
    class Steps(Curve):
        """Half the rate after each tenth."""

        def factor(self, seen, total):
            return 0.5 ** int(10 * seen / total)

    schedule = Schedule(warmup=100, curve={"kind": "steps"}, cooldown=100, cooldown_shape="linear")
    rates = [schedule.rate(8.0, samples, 1100) for samples in (50, 100, 199, 200, 350, 1050, 1100)]
    assert rates == pytest.approx([4.0, 8.0, 8.0, 4.0, 2.0, 8 / 2**9 / 2, 0.0])
    assert Schedule.model_validate(schedule.model_dump()) == schedule
    assert schedule.identity()["curve"] == {"kind": "steps"} and "curve" not in Schedule(warmup=1).identity()


def test_the_inverse_square_root():
    schedule = Schedule(warmup=100, curve=InverseSqrt(timescale=300), floor=0.1)
    for samples in (100, 400, 1000):
        expected = 0.1 + 0.9 / math.sqrt(1 + (samples - 100) / 300)
        assert schedule.rate(1.0, samples, 2000) == schedule.rate(1.0, samples, 9000) == pytest.approx(expected)


def test_cools_down_to_the_floor_by_one_minus_the_root():
    schedule = Schedule(shape="constant", cooldown=400, floor=0.1)
    assert [schedule.rate(1.0, samples, 1000) for samples in (0, 300, 600)] == [1.0, 1.0, 1.0]
    assert schedule.rate(1.0, 700, 1000) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule.rate(1.0, 1000, 1000) == pytest.approx(0.1)


def test_cosine_ends_at_the_floor():
    schedule = Schedule(warmup=100, floor=0.1)
    assert schedule.rate(1.0, 600, 1100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule.rate(1.0, 1100, 1100) == schedule.rate(1.0, 1200, 1100) == pytest.approx(0.1)


def test_layers_may_learn_the_slower_the_nearer_to_the_input():
    from small_data import MODEL

    from training.distributed.world import World
    from training.model.build import build

    config = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "layers": 3}}
    model = build(config, 0, World()).model
    names = {id(weight): name for name, weight in model.named_parameters()}
    scales = {
        names[id(weight)]: group["lr_scale"]
        for group in adamw(model, Optimizer(layer_decay=0.5)).param_groups
        for weight in group["params"]
    }
    assert scales["logit_scale"] == scales["visual.proj"] == scales["visual.ln_post.weight"] == 1.0
    assert [scales[f"visual.transformer.resblocks.{n}.ln_1.weight"] for n in (2, 1, 0)] == [1.0, 0.5, 0.25]
    assert scales["visual.conv1.weight"] == scales["visual.class_embedding"] == 0.125
    assert scales["transformer.resblocks.0.ln_1.weight"] == scales["text_projection"] == scales["ln_final.bias"] == 1.0
    assert scales["token_embedding.weight"] == scales["positional_embedding"] == 0.5


def test_what_is_locked_has_no_place_in_the_optimizer():
    from small_data import MODEL

    from training.distributed.world import World
    from training.model.build import build

    model = build(Model(architecture=MODEL, lock_image=0), 0, World()).model
    optimizer = adamw(model, Optimizer())
    listed = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert listed == {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert not listed & {id(weight) for weight in model.visual.parameters()}


def test_decay_is_for_matrices_only():
    """The same weights as open_clip's rule excludes by name and dimension."""
    import open_clip
    from small_data import MODEL

    from training.distributed.world import World
    from training.model.build import build

    model = build({**MODEL, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}, 0, World()).model
    assert isinstance(model, open_clip.CLIP)
    groups = adamw(model, Optimizer(weight_decay=0.3)).param_groups
    decayed, spared = sorted(groups, key=lambda group: -group["weight_decay"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    names = {id(weight): name for name, weight in model.named_parameters()}

    def excluded(name, weight):
        return weight.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    for group, expected in ((decayed, False), (spared, True)):
        assert group["params"]
        for weight in group["params"]:
            assert excluded(names[id(weight)], weight) is expected, names[id(weight)]


def test_the_text_tower_may_learn_at_its_own_rate():
    from small_data import MODEL

    from training.distributed.world import World
    from training.model.build import build
    from training.objectives.infonce.objective import InfoNCE

    model = InfoNCE(build(MODEL, 0, World()).model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    scales = {
        names[id(weight)]: group["lr_scale"]
        for group in adamw(model, Optimizer(lr=1e-3, text_lr=1e-4)).param_groups
        for weight in group["params"]
    }
    assert set(scales) == set(names.values())
    for name, scale in scales.items():
        image = name == "model.logit_scale" or name.startswith("model.visual.")
        assert scale == pytest.approx(1.0 if image else 0.1), name


def test_samples_or_epochs_make_whole_batches():
    assert train.Config(samples=1000, batch_size=64).steps(50) == 16
    assert train.Config(epochs=2, batch_size=64).steps(100) == 4
