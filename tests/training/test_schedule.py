"""Learning rate and decay rules against their definitions."""

import math

import pytest

from training import train
from training.schedule import adamw, learning_rate


def test_warms_up_linearly_then_follows_half_a_cosine():
    config = train.Config(lr=2.0, warmup=100)
    assert [learning_rate(config, samples, 1100) for samples in (0, 25, 100)] == [0, 0.5, 2.0]
    assert learning_rate(config, 350, 1100) == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(config, 600, 1100) == pytest.approx(1.0)
    assert learning_rate(config, 1100, 1100) == pytest.approx(0.0)


def test_constant_stays():
    config = train.Config(lr=2.0, warmup=100, schedule="constant")
    assert [learning_rate(config, samples, 1000) for samples in (50, 100, 999)] == [1.0, 2.0, 2.0]


def test_agrees_with_open_clips_schedule_at_the_middle_of_steps():
    # open_clip counts whole steps: lr = base * (step + 1) / warmup, then half a cosine over (step - warmup).
    config = train.Config(lr=1.0, warmup=64 * 10)
    for step in range(10, 100):
        theirs = 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert learning_rate(config, step * 64, 100 * 64) == pytest.approx(theirs)


def test_decay_is_for_matrices_only():
    """The same weights as open_clip's rule excludes by name and dimension."""
    import open_clip
    from conftest import MODEL

    from training.model import build
    from training.world import World

    model = build({**MODEL, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}, 0, World()).model
    assert isinstance(model, open_clip.CLIP)
    groups = adamw(model, train.Config(weight_decay=0.3)).param_groups
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
    from conftest import MODEL

    from training.model import build
    from training.objectives.infonce import InfoNCE
    from training.world import World

    model = InfoNCE(build(MODEL, 0, World()).model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    shares = {
        names[id(weight)]: group["share"]
        for group in adamw(model, train.Config(lr=1e-3, text_lr=1e-4)).param_groups
        for weight in group["params"]
    }
    assert set(shares) == set(names.values())
    for name, share in shares.items():
        image = name == "model.logit_scale" or name.startswith("model.visual.")
        assert share == pytest.approx(1.0 if image else 0.1), name


def test_samples_or_epochs_make_whole_batches():
    assert train.Config(samples=1000, batch_size=64).steps(50) == 16
    assert train.Config(epochs=2, batch_size=64).steps(100) == 4
