"""Attention: the written-out form for training on a CPU equals the fused one, causal or not, gradients too."""

import pytest
import torch
import torch.nn.functional as F

from ldm_edu.nn.attention import attend


@pytest.mark.parametrize("causal", [False, True])
def test_written_out_attention_equals_the_fused_one(causal: bool) -> None:
    torch.manual_seed(0)
    length = 6 if causal else 9
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (6, length, length))
    upstream = torch.randn(2, 3, 6, 8)
    (F.scaled_dot_product_attention(q, k, v, is_causal=causal) * upstream).sum().backward()
    wanted = [p.grad.clone() for p in (q, k, v) if p.grad is not None]
    halves = [p.detach().bfloat16().requires_grad_() for p in (q, k, v)]
    out = attend(*halves, causal=causal)
    (out.float() * upstream).sum().backward()
    for got, want in zip((h.grad for h in halves), wanted, strict=True):
        assert got is not None
        assert (got.float() - want).abs().max() < 0.03 * want.abs().max()


@pytest.mark.parametrize("queries, keys", [(9, 6), (700, 1500), (1030, 1030)])
@pytest.mark.parametrize("contexts", [1, 2])
def test_attention_in_blocks_equals_the_fused_one(queries: int, keys: int, contexts: int) -> None:
    """One block, several blocks of queries and heads, a last block that is smaller; a context that holds for all."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, queries, 8), torch.randn(contexts, 3, keys, 8), torch.randn(contexts, 3, keys, 8)
    wanted = F.scaled_dot_product_attention(q, k.expand(2, -1, -1, -1), v.expand(2, -1, -1, -1))
    with torch.no_grad():
        out = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert out.dtype == torch.bfloat16 and out.shape == wanted.shape
    assert (out.float() - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("largest", [1.0, 30.0, 300.0, 3000.0])
def test_products_of_any_size_neither_overflow_nor_vanish(largest: float) -> None:
    """Rows whose products are all large, all far below zero, or mixed; the second head's are small."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 64, 8) for _ in range(3))
    q, k, v = (tensor.bfloat16().float() for tensor in (q, k, v))
    q[:, 0, :20] = k[:, 0, :20] = 8**-0.25 * largest**0.5 * torch.eye(8)[0]  # products of 20 keys: ``largest``
    q[:, 0, 20:40] = -q[:, 0, :20]
    with torch.no_grad():
        out = attend(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    wanted = F.scaled_dot_product_attention(q.bfloat16().float(), k.bfloat16().float(), v)
    assert out.isfinite().all()
    # a product is rounded to 8 bits, and that is a factor of its power: a large one is less exact
    assert (out - wanted)[:, 1].abs().max() < 0.03
    assert (out - wanted)[:, 0].abs().mean() < 0.05


def test_attention_in_blocks_is_as_near_to_float32_as_the_fused_one() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 2048, 40).bfloat16() for _ in range(3))
    wanted = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    fused = (F.scaled_dot_product_attention(q, k, v).float() - wanted).square().mean().sqrt()
    with torch.no_grad():
        ours = (attend(q, k, v).float() - wanted).square().mean().sqrt()
    assert ours < 3 * fused  # products are rounded to bfloat16 here, not there


def test_not_a_number_is_not_hidden() -> None:
    q, k, v = (torch.zeros(1, 2, 4, 8).bfloat16() for _ in range(3))
    q[0, 1, 2, 3] = torch.nan
    with torch.no_grad():
        out = attend(q, k, v)
    assert out[0, 1, 2].isnan().all() and out[0, 0].isfinite().all()


def test_a_causal_state_does_not_see_what_follows() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 5, 4).bfloat16().requires_grad_() for _ in range(3))
    changed = torch.cat([v[:, :, :4], v[:, :, 4:] + 9], dim=2)
    before, after = attend(q, k, v, causal=True), attend(q, k, changed, causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4], after[:, :, 4])


def test_products_beyond_float16_do_not_overflow() -> None:
    """Stable Diffusion 2.1 at 768 pixels draws black where products of queries and keys are kept in float16."""
    torch.manual_seed(0)
    q, k, v = ((scale * torch.randn(1, 2, 9, 64)).half() for scale in (300, 300, 1))
    assert (q.float() @ k.float().mT).abs().max() / 8 > torch.finfo(torch.float16).max
    wanted = attend(q.float(), k.float(), v.float())
    torch.testing.assert_close(attend(q, k, v).float(), wanted, rtol=1e-3, atol=1e-3)
