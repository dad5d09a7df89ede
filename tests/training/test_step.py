"""The gradient of a batch in parts, against the gradient of the batch at once; in double precision."""

import types
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from training.objectives.infonce.objective import InfoNCE
from training.step import backward

SETTINGS = types.SimpleNamespace(objective="infonce", seed=0, batch_size=12)


class Towers(nn.Module):
    """Two towers that drop out, as open_clip's would."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 5))
        self.text = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 5))
        self.logit_scale = nn.Parameter(torch.tensor(1.3))

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, texts):
        return self.text(texts)


def gradients(parts, objective, images, texts, *, at_once):
    """Of the whole batch's loss; ``at_once`` keeps all activations, with the random numbers of ``parts`` parts."""
    objective.zero_grad()
    torch.manual_seed(5)
    pieces = list(zip(images.chunk(parts), texts.chunk(parts), strict=True))
    if at_once:
        encoded = [objective(*piece) for piece in pieces]
        outputs = {name: torch.cat([one[name] for one in encoded]) for name in ("image", "text")}
        losses = objective.loss({**outputs, "scale": encoded[0]["scale"]})
        losses["loss"].backward()
    else:
        losses = backward(objective, lambda part: objective(*pieces[part]), parts, nullcontext)
    return float(losses["loss"].detach()), {name: weight.grad.clone() for name, weight in objective.named_parameters()}


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts_have_the_gradient_of_the_whole(parts):
    torch.manual_seed(0)
    objective = InfoNCE(Towers().double()).double().train()
    images, texts = torch.randn(12, 6).double(), torch.randn(12, 4).double()
    loss, found = gradients(parts, objective, images, texts, at_once=False)
    expected_loss, expected = gradients(parts, objective, images, texts, at_once=True)
    assert loss == pytest.approx(expected_loss, abs=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


class Plain(nn.Module):
    """An objective without a model around it."""

    again = False

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
        self.seen = []

    def forward(self, x):
        self.seen.append((self.again, torch.is_grad_enabled()))
        outputs = {"feature": self.layer(x)}
        return outputs if self.again else outputs | {"known": x.sum(1), "count": torch.arange(len(x))}

    def loss(self, outputs):
        everything = (outputs["feature"] * outputs["known"][:, None]).logsumexp(0).sum()  # no sum over samples
        return {"loss": 2 * everything, "everything": everything}


def test_what_has_no_gradient_is_asked_for_once():
    torch.manual_seed(1)
    module, x = Plain(), torch.randn(8, 3).double()
    module.loss(module(x))["loss"].backward()
    expected = {name: weight.grad.clone() for name, weight in module.named_parameters()}
    module.zero_grad()
    module.seen.clear()
    synced = []

    class NoSync:
        def __enter__(self):
            synced.append(False)

        def __exit__(self, *_):
            pass

    losses = backward(module, lambda part: module(x.chunk(4)[part]), 4, NoSync)
    assert module.seen == [(False, False)] * 4 + [(True, True)] * 4
    assert not module.again
    assert len(synced) == 3  # all but the last
    assert set(losses) == {"loss", "everything"}
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-12, atol=1e-14)


def test_other_draws_go_on_as_if_nothing_had_been():
    torch.manual_seed(2)
    module, x = Plain(), torch.randn(4, 3).double()
    torch.manual_seed(7)
    first = torch.rand(1)
    torch.manual_seed(7)
    backward(module, lambda part: module(x.chunk(2)[part]), 2, nullcontext)
    assert torch.rand(1) == first
