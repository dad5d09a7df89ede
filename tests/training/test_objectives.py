"""InfoNCE against its formula in float64, open_clip's loss, and itself on other numbers of ranks."""

import math

import pytest
import torch
from torch import nn

import training.objectives.infonce as infonce


class Linear(nn.Module):
    """Two linear towers; stands for a model whose gradients are easy to compare."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.text = (nn.Linear(5, 4, bias=False) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, texts):
        return self.text(texts)


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 5, generator=generator).double(), torch.randn(8, 5, generator=generator).double()


def gradients(objective=infonce.InfoNCE):
    """Loss and gradients of this rank's part of the batch, averaged over ranks by DDP."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    images, texts = batch()
    module = objective(Linear().double())
    wrapped = module
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
        images, texts = images.chunk(size)[rank], texts.chunk(size)[rank]
        wrapped = DistributedDataParallel(module)
    loss = module.loss(wrapped(images, texts))["loss"]
    loss.backward()
    return loss.item(), {name: weight.grad.numpy() for name, weight in module.named_parameters()}


def test_value_is_the_formula():
    model = Linear().double()
    images, texts = batch()
    a = nn.functional.normalize(model.encode_image(images), dim=1).tolist()
    b = nn.functional.normalize(model.encode_text(texts), dim=1).tolist()
    scale = math.exp(2.0)
    logits = [[scale * sum(x * y for x, y in zip(u, v, strict=True)) for v in b] for u in a]
    rows = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(logits)]
    columns = [math.log(sum(map(math.exp, column))) - column[i] for i, column in enumerate(zip(*logits, strict=True))]
    assert gradients()[0] == pytest.approx((sum(rows) + sum(columns)) / 16, rel=1e-12)


def test_equals_open_clips_loss():
    from open_clip.loss import ClipLoss

    class Reference(infonce.InfoNCE):
        def loss(self, outputs):
            return {"loss": ClipLoss()(outputs["image"], outputs["text"], outputs["scale"])}

    ours, theirs = gradients(), gradients(Reference)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12)
    for name, gradient in theirs[1].items():
        assert ours[1][name] == pytest.approx(gradient, rel=1e-10, abs=1e-14), name


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_do_not_depend_on_the_number_of_ranks(ranks, size):
    loss, expected = gradients()
    results = ranks(size, gradients)
    assert sum(part for part, _ in results) / size == pytest.approx(loss, rel=1e-12)
    for _, found in results:
        for name, gradient in expected.items():
            assert found[name] == pytest.approx(gradient, rel=1e-10, abs=1e-14), name


def test_logits_are_fp32_under_autocast():
    images, texts = (part.float() for part in batch())
    objective = infonce.InfoNCE(Linear())
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(objective(images, texts))["loss"]
        features = objective.model.encode_image(images), objective.model.encode_text(texts)
    assert features[0].dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    exact = infonce.info_nce(
        *(nn.functional.normalize(part.float(), dim=-1) for part in features), torch.tensor(2.0).exp()
    )
    assert loss.item() == exact.item()


def test_logit_scale_is_clamped_after_the_step():
    objective = infonce.InfoNCE(Linear())
    for value, expected in [(9.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)]:
        objective.model.logit_scale.data.fill_(value)
        objective.after_step(8)
        assert objective.model.logit_scale.item() == pytest.approx(expected)
