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


def test_a_causal_state_does_not_see_what_follows() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 5, 4).bfloat16().requires_grad_() for _ in range(3))
    changed = torch.cat([v[:, :, :4], v[:, :, 4:] + 9], dim=2)
    before, after = attend(q, k, v, causal=True), attend(q, k, changed, causal=True)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4], after[:, :, 4])
