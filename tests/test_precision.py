"""Which numbers a processor multiplies fastest, and the context that chooses them."""

from collections.abc import Iterator

import pytest
import torch

from ldm_edu.kernels import precision


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    precision.quick_bfloat16.cache_clear()
    yield
    precision.quick_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "quick"),
    [
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_bfloat16_where_the_processor_has_instructions_for_it(
    capabilities: dict[str, bool], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.quick_bfloat16() is quick
    assert precision.quick_bfloat16("cuda")
    a = torch.ones(2, 2)
    with precision.autocast("cpu"):
        assert (a @ a).dtype == (torch.bfloat16 if quick else torch.float32)


def test_an_older_pytorch_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert precision.quick_bfloat16()


def test_a_build_without_onednn_has_no_quick_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.quick_bfloat16()
