"""The parts of ALBEF, each against its definition written out."""

import math

import open_clip
import pytest
import torch
from torch import nn

from infra.errors import ConfigError
from infra.fusion import towers as fusion_towers
from infra.fusion.heads import Heads
from infra.fusion.network import Fusion, Layout, token_places
from training.model.blocks import use_fast_blocks
from training.objectives import towers
from training.objectives.albef import momentum, sampling
from training.objectives.albef.momentum import Momentum, Queue, contrast

VISION = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
TEXT = {"context_length": 16, "vocab_size": 64, "width": 24, "heads": 2, "layers": 2}


def build(kind=open_clip.CLIP, vision=None, text=None, **changes):
    torch.manual_seed(3)
    return kind(
        embed_dim=12, vision_cfg={**VISION, **(vision or {})}, text_cfg={**TEXT, **(text or {})}, **changes
    ).eval()


def batch(count=8, seed=0, longest=9):
    """Images, and captions of several lengths between CLIP's two special tokens, here 62 and 63."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.zeros(count, 16, dtype=torch.int64)
    for row, length in zip(texts, torch.randint(1, longest - 1, (count,), generator=generator).tolist(), strict=True):
        row[: length + 2] = torch.cat(
            [torch.tensor([62]), torch.randint(0, 62, (length,), generator=generator), torch.tensor([63])]
        )
    return torch.randn(count, 3, 16, 16, generator=generator), texts


def candidates():
    """Six captions and the images that they are to be scored with."""
    draw = torch.Generator().manual_seed(0)
    texts = open_clip.get_tokenizer("ViT-B-32")(["a red disc", "a blue bar", "a green box and more words"] * 2)[:, :8]
    texts[:, -1] = 0
    return torch.randn(3, 3, 16, 16, generator=draw), texts, torch.tensor([0, 1, 2, 2, 0, 1])


# --- the towers -------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "vision", "text"),
    [
        (open_clip.CLIP, {}, {}),
        (open_clip.CLIP, {"pool_type": "avg", "final_ln_after_pool": True}, {"proj_type": "none", "width": 12}),
        (open_clip.CustomTextCLIP, {}, {"proj_bias": True}),
        (open_clip.CustomTextCLIP, {}, {"no_causal_mask": True}),
        (open_clip.CustomTextCLIP, {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}, {}),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_features_are_those_of_open_clip(kind, vision, text, packed):
    model = build(kind, vision, text)
    images, texts = batch()
    images = nn.functional.interpolate(images, vision.get("image_size", 16))
    expected = model.encode_image(images), model.encode_text(texts)
    if packed:
        use_fast_blocks(model)
    lengths = fusion_towers.lengths_of(texts)
    assert lengths.tolist() == [row.tolist().index(63) + 1 for row in texts]
    widths = fusion_towers.token_widths(model)
    pooled, tokens = fusion_towers.encode_images(model, images)
    assert torch.allclose(pooled, expected[0], atol=1e-5)
    assert tokens.shape[2] == widths.image
    pooled, tokens = towers.encode_texts(model, texts, lengths)
    assert torch.allclose(pooled, expected[1], atol=1e-5)
    assert tokens.shape == (lengths.sum(), widths.text)
    assert fusion_towers.shared_width(model) == pooled.shape[1] == 12


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_are_those_of_open_clip(packed):
    model = build(open_clip.CustomTextCLIP, {"output_tokens": True}, {"output_tokens": True})
    images, texts = batch()
    seen, read = model.visual(images)[1], model.text(texts)[1]
    if packed:
        use_fast_blocks(model)
    assert torch.allclose(fusion_towers.encode_images(model, images)[1][:, 1:], seen, atol=1e-5)
    lengths = fusion_towers.lengths_of(texts)
    expected = torch.cat([row[:length] for row, length in zip(read, lengths.tolist(), strict=True)])
    assert torch.allclose(towers.encode_texts(model, texts, lengths)[1], expected, atol=1e-5)


@pytest.mark.parametrize("kind", [open_clip.CLIP, open_clip.CustomTextCLIP])
def test_a_blank_stands_in_for_an_embedding(kind):
    model, blank = use_fast_blocks(build(kind)), torch.randn(24)
    _, texts = batch()
    lengths = fusion_towers.lengths_of(texts)
    texts[texts == 5] = 6
    hidden = torch.where(torch.rand(texts.shape) < 0.3, 64, texts)
    found = towers.encode_texts(model, hidden, lengths, blank)
    with torch.no_grad():
        fusion_towers.word_embedding(model)[5] = blank
    expected = towers.encode_texts(model, hidden.where(hidden < 64, 5), lengths)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("vision", "text", "found"),
    [
        ({"layers": [1, 1, 1, 1], "image_size": 32}, {}, "ModifiedResNet"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, {}, "VisionTransformer"),
        ({"timm_model_name": "test_resnet", "image_size": 160}, {}, "TimmModel of ResNet"),
        ({}, {"pool_type": "last"}, "pool_type 'last'"),
        ({}, {"embed_cls": True}, "a class token"),
    ],
)
def test_towers_without_tokens_are_refused(vision, text, found):
    with pytest.raises(ConfigError, match="token") as error:
        fusion_towers.token_widths(build(open_clip.CustomTextCLIP, vision, text))
    assert found in error.value.found
    assert error.value.expected


# --- chance -----------------------------------------------------------------------------------------------------------


def test_a_samples_draws_depend_on_its_number_only():
    from scipy import stats

    whole = sampling.uniform(7, 1, 1000, 64, 37)
    assert whole.shape == (64, 37)
    assert torch.equal(torch.cat([sampling.uniform(7, 1, 1000 + 16 * k, 16, 37) for k in range(4)]), whole)
    for other in (sampling.uniform(8, 1, 1000, 64, 37), sampling.uniform(7, 2, 1000, 64, 37)):
        assert (other != whole).all()
    assert stats.kstest(sampling.uniform(0, 1, 0, 100, 100).flatten().numpy(), "uniform").pvalue > 1e-3
    assert len(sampling.uniform(0, 1, 0, 1000, 3).flatten().unique()) == 3000


def test_words_are_hidden_at_their_rates():
    count, context = 4000, 20
    texts = torch.randint(0, 62, (count, context), generator=torch.Generator().manual_seed(0))
    ends = torch.arange(count) % 18 + 1
    texts[:, 0] = 62
    texts[torch.arange(count), ends] = 63
    before = texts.clone()
    draws = sampling.uniform(0, 1, 0, count, 3 * context).view(count, 3, context)
    found, hidden = sampling.mask_words(texts, ends + 1, draws, 0.15, 64)
    assert torch.equal(texts, before)
    place = torch.arange(context)
    words = (place > 0) & (place < ends[:, None])
    assert not hidden[~words].any()
    assert torch.equal(found[~hidden], texts[~hidden])
    assert hidden[words].float().mean().item() == pytest.approx(0.15, abs=0.01)
    blank, same = found[hidden] == 64, found[hidden] == texts[hidden]
    assert blank.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert same.float().mean().item() == pytest.approx(0.1 + 0.1 / 62, abs=0.02)
    random = found[hidden][~blank & ~same]
    assert random.max() == 61  # never a special token
    assert len(random.unique()) == 62


@pytest.mark.long
def test_negatives_follow_the_similarities():
    """The frequency of each pair over many draws against softmax over the others, by chi-square."""
    from scipy import stats

    blocks, among, draws = 2, 5, 4000
    torch.manual_seed(0)
    logits = [torch.randn(blocks, among, among) for _ in range(2)]
    captions = torch.arange(10)[:, None].repeat(1, 3)
    captions[3] = captions[1]  # in the first block, samples 1 and 3 say the same
    noise = sampling.gumbel(sampling.uniform(0, 2, 0, draws * 10, 2 * among)).view(draws, 10, -1)
    counts = torch.zeros(2, 10, 10)
    for one in noise:
        text, image, found = sampling.hard_negatives((logits[0], logits[1]), captions, one)
        assert found.all()
        for way, other in enumerate((text, image)):
            counts[way, torch.arange(10), other] += 1
    allowed = (torch.arange(10)[:, None] // among == torch.arange(10) // among) & ~torch.eye(10, dtype=torch.bool)
    allowed[1, 3] = allowed[3, 1] = False
    assert not counts[:, ~allowed].any()
    for way in range(2):
        for row in range(10):
            block, place = divmod(row, among)
            weights = [math.exp(x) for x in logits[way][block, place].tolist()]
            others = [j for j in range(10) if allowed[row, j]]
            total = sum(weights[j % among] for j in others)
            expected = [draws * weights[j % among] / total for j in others]
            assert stats.chisquare(counts[way, row, others].double().numpy(), expected).pvalue > 1e-5


def test_there_may_be_no_negative():
    same = torch.ones(4, 3)
    zeros = torch.zeros(1, 4, 4)
    *_, found = sampling.hard_negatives((zeros, zeros), same, torch.zeros(4, 8))
    assert not found.any()


# --- momentum contrast ------------------------------------------------------------------------------------------------


def features(*shape):
    return nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("tile", [2**24, 50])
@pytest.mark.parametrize("distilled", [True, False])
def test_contrast_is_its_formula(monkeypatch, tile, distilled):
    monkeypatch.setattr(momentum, "TILE", tile)
    torch.manual_seed(0)
    queries, teachers, keys = features(6, 4).requires_grad_(), features(6, 4), features(20, 4)
    scale, own = torch.tensor(7.0, dtype=torch.float64, requires_grad=True), torch.arange(6) + 3
    alpha = torch.rand(6, dtype=torch.float64)

    def by_hand():
        total = 0
        for i in range(6):
            logits = [scale * (queries[i] * key).sum() for key in keys]
            bottom = torch.stack([x.exp() for x in logits]).sum().log()
            soft = [(scale * (teachers[i] * key).sum()).exp().detach() for key in keys]
            for j in range(20):
                share = alpha[i] * soft[j] / sum(soft) if distilled else 0
                one = (1 - alpha[i] if distilled else 1) * (j == own[i])
                total = total - (share + one) * (logits[j] - bottom)
        return total / 6

    found = contrast(queries, keys, own, scale, teachers=teachers if distilled else None, alpha=alpha)
    expected = by_hand()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(loss, [queries, scale]) for loss in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert a.numpy() == pytest.approx(b.numpy(), rel=1e-10, abs=1e-13)


def test_the_average_has_a_closed_form():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    past = [module[0].weight.detach().clone()]
    slow = Momentum(module)
    for _ in range(5):
        module[0].weight.data.normal_()
        module[1].running_mean.normal_()
        past.append(module[0].weight.detach().clone())
        slow.update(module, 0.9)
    expected = 0.9**5 * past[0] + sum(0.1 * 0.9 ** (5 - k) * past[k] for k in range(1, 6))
    assert slow.average[0].weight.numpy() == pytest.approx(expected.numpy(), rel=1e-12)
    assert torch.equal(slow.average[1].running_mean, module[1].running_mean)
    assert not any(weight.requires_grad for weight in slow.parameters())
    assert not slow.train().average.training


@pytest.mark.parametrize("size", [0, 1, 7, 12])
@pytest.mark.parametrize("count", [3, 4, 10])
def test_the_queue_holds_the_last(size, count):
    queue, past = Queue(size, 2), torch.empty(0, 2)
    for _ in range(5):
        last = past[max(0, len(past) - size) :]
        assert sorted(queue.filled.tolist()) == sorted(last.tolist())
        new = torch.randn(count, 2)
        queue.put(new)
        past = torch.cat([past, new])
    for place, row in enumerate(queue.features):  # a ring: each feature at its number
        assert torch.equal(row, past[max(n for n in range(len(past)) if n % size == place)])


# --- fusion -----------------------------------------------------------------------------------------------------------


def fusion(layers=2):
    torch.manual_seed(0)
    return Fusion(
        fusion_towers.Widths(image=10, text=12, heads=3), layers, Heads(vocabulary=30, matching=True)
    ).double()


def tokens():
    """Four texts of 6, 3, 4 and 2 tokens, two images, and which belongs to which."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(15, 12, generator=generator, dtype=torch.float64),
        Layout(torch.tensor([6, 3, 4, 2]), torch.device("cpu")),
        torch.randn(2, 5, 10, generator=generator, dtype=torch.float64),
        torch.tensor([1, 0, 1, 1]),
    )


def test_a_block_is_attention_written_by_torch():
    module = fusion(1)
    block = module.blocks[0]
    torch.manual_seed(2)
    for weight in module.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    texts, layout, images, image_of = tokens()
    alone = nn.MultiheadAttention(12, 3, batch_first=True).double()
    alone.in_proj_weight.data, alone.in_proj_bias.data = block.self_in.weight.data, block.self_in.bias.data
    alone.out_proj.load_state_dict(block.self_out.state_dict())
    across = nn.MultiheadAttention(12, 3, kdim=10, vdim=10, batch_first=True).double()
    across.q_proj_weight.data = block.cross_query.weight.data
    across.k_proj_weight.data, across.v_proj_weight.data = block.cross_image.weight.data.chunk(2)
    across.in_proj_bias.data = torch.cat([block.cross_query.bias.data, block.cross_image.bias.data])
    across.out_proj.load_state_dict(block.cross_out.state_dict())
    expected = []
    for text, image in zip(texts.split([6, 3, 4, 2]), image_of.tolist(), strict=True):
        x = block.self_norm(text)
        y = text + alone(x, x, x, need_weights=False)[0]
        y = y + across(block.cross_norm(y), images[image], images[image], need_weights=False)[0]
        expected.append(module.norm(y + block.mlp_out(nn.functional.gelu(block.mlp_in(block.mlp_norm(y))))))
    found = module(texts, layout, images, image_of).detach().numpy()
    assert found == pytest.approx(torch.cat(expected).detach().numpy(), rel=1e-9)


def test_texts_see_themselves_both_ways_and_their_image():
    module = fusion()
    texts, layout, images, image_of = tokens()
    before = module(texts, layout, images, image_of)
    later, other = texts.clone(), images.clone()
    later[8, 0] += 1.0  # the last token of the second text
    other[0, 0, 0] += 1.0  # whose image this is
    for changed in (module(later, layout, images, image_of), module(texts, layout, other, image_of)):
        assert (changed[6:9] != before[6:9]).all()
        assert torch.equal(changed[:6], before[:6])
        assert torch.equal(changed[9:], before[9:])


def test_tokens_of_chosen_texts_are_picked():
    lengths = torch.tensor([6, 3, 4, 2])
    parts = torch.arange(15).split(lengths.tolist())
    for chosen in ([2, 2, 0], [1], [3, 2, 1, 0, 1]):
        found = token_places(lengths, torch.tensor(chosen))
        assert found.tolist() == torch.cat([parts[text] for text in chosen]).tolist()


def test_heads_are_read_where_they_should():
    module = fusion()
    texts, layout, images, image_of = tokens()
    fused = module(texts, layout, images, image_of)
    expected = [module.match_head(fused[end]).item() for end in (5, 8, 12, 14)]
    assert module.match(fused, layout.ends).tolist() == pytest.approx(expected)
    embedding = torch.randn(30, 12, dtype=torch.float64)
    expected = module.word_head(fused) @ embedding.T + module.word_bias
    assert torch.allclose(module.words(fused, embedding), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.float().match(fused.float(), layout.ends).dtype == torch.float32


def test_activations_may_be_computed_again():
    module = fusion()
    inputs = tokens()
    gradients = []
    for module.grad_checkpointing in (False, True):
        module.zero_grad()
        module(*inputs).square().sum().backward()
        gradients.append([weight.grad for weight in module.blocks.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
