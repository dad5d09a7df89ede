"""The moving average against its formula, with nothing left of the weights it did not see."""

import pytest
import torch
from torch import nn

from training.optim.ema import Ema


def weights(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "a.weight": torch.randn(3, 4, generator=generator),
        "a.count": torch.tensor(step),
        "half": torch.randn(5, generator=generator).bfloat16(),
    }


def run(ema, steps, batch):
    for step in steps:
        ema.update(weights(step).items(), batch)
    return ema


def test_it_is_the_weighted_mean_of_all_weights_seen():
    ema = run(Ema(weights(99).items(), half_life=100), range(6), batch=25)
    coefficients = torch.tensor([2 ** (-25 * (5 - step) / 100) for step in range(6)], dtype=torch.float64)
    coefficients /= coefficients.sum()
    for name in ("a.weight", "half"):
        values = torch.stack([weights(step)[name].double() for step in range(6)])
        expected = torch.einsum("s,s...->...", coefficients, values)
        torch.testing.assert_close(ema.weights()[name].double(), expected, rtol=1e-5, atol=1e-6)
        assert ema.weights()[name].dtype == torch.float32
    assert ema.weights()["a.count"] == 5


def test_the_half_life_is_one_in_samples_whatever_the_batch():
    """Weights that jump once: the average has gone half the way after as many samples."""
    for batch in (10, 50, 100):
        ema = Ema([("w", torch.zeros(1))], half_life=1000)
        for _ in range(100_000 // batch):
            ema.update([("w", torch.zeros(1))], batch)
        for _ in range(1000 // batch):
            ema.update([("w", torch.ones(1))], batch)
        assert ema.weights()["w"].item() == pytest.approx(0.5, abs=1e-4)


def test_it_continues_from_its_state():
    whole = run(Ema(weights(0).items(), 50), range(8), 10)
    first = run(Ema(weights(0).items(), 50), range(3), 10)
    second = Ema(weights(0).items(), 50)
    second.load_state_dict(first.state_dict())
    run(second, range(3, 8), 10)
    for name, value in whole.weights().items():
        assert torch.equal(second.weights()[name], value), name


def test_it_lives_in_a_module_and_loads_into_the_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.average = Ema(model.state_dict().items(), 10)
    assert len(list(model.parameters())) == 4  # nothing of it is learnt
    model.average.update(((n, v) for n, v in model.state_dict().items() if not n.startswith("average")), 10)
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    other.load_state_dict(model.average.weights())
    assert torch.allclose(other[0].weight, model[0].weight)
    assert any(name.startswith("average.") for name in model.state_dict())


def test_before_the_first_update_there_is_none():
    with pytest.raises(ValueError, match="no average"):
        Ema(weights(0).items(), 10).weights()
    assert float(Ema(weights(0).items(), 10)._coefficients) == 0
