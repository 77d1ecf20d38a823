from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from randomized import randomized_unet

from ldm_edu.condition import Conditioning, for_batch
from ldm_edu.config import Prediction
from ldm_edu.denoise import NetworkDenoiser
from ldm_edu.families import TOY
from ldm_edu.models.unet import UNet
from ldm_edu.prediction import PREDICTIONS, to_x0
from ldm_edu.samplers import dpmpp_2m, heun, initial_noise
from ldm_edu.schedule import levels, scaled_linear

RUN = levels(scaled_linear(), 6)
SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomized_unet(TOY.unet)


def condition(count: int, length: int = 16) -> Conditioning:
    return Conditioning(context=torch.randn(count, length, 32))


@pytest.fixture
def calls(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the network is run, and how often what stays the same is computed."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> None:
        method = getattr(unet, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return method(*args, **kwargs)

        monkeypatch.setattr(unet, name, call)

    for name in ("step", "context_states", "time_states"):
        counted(name)
    return counts


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("known", [True, False])
def test_it_is_the_network_and_its_prediction(unet: UNet, kind: Prediction, known: bool) -> None:
    cond, x = condition(2), initial_noise([1, 2], SHAPE)
    denoise = NetworkDenoiser(unet, kind, cond, RUN if known else None)
    for level in RUN[:-1]:
        with torch.no_grad():
            out = unet(x, level.t.float(), cond)
        torch.testing.assert_close(denoise(x, level), to_x0(kind, out, x, level))


def test_what_stays_the_same_is_computed_once(unet: UNet, calls: Counter[str]) -> None:
    denoise = NetworkDenoiser(unet, "v", condition(2), RUN)
    list(dpmpp_2m(denoise, initial_noise([1, 2], SHAPE), RUN))
    assert calls == {"step": 6, "context_states": 1, "time_states": 1}


def test_levels_that_were_not_announced(unet: UNet, calls: Counter[str]) -> None:
    cond, x = condition(1), initial_noise([1], SHAPE)
    announced, surprised = (NetworkDenoiser(unet, "v", cond, run) for run in (RUN, RUN[:2]))
    for a, b in zip(heun(announced, x, RUN), heun(surprised, x, RUN), strict=True):
        torch.testing.assert_close(a.x, b.x)
    assert calls["time_states"] > 2


def test_one_condition_holds_for_all(unet: UNet) -> None:
    x, cond = initial_noise([1, 2, 3], SHAPE), condition(1)
    together = NetworkDenoiser(unet, "eps", cond, RUN)
    x0 = together(x, RUN[2])
    torch.testing.assert_close(x0, NetworkDenoiser(unet, "eps", cond.repeat(3), RUN)(x, RUN[2]))
    torch.testing.assert_close(together(x[:1], RUN[2]), x0[:1], rtol=1e-4, atol=1e-5)  # then one picture, then three
    torch.testing.assert_close(together(x, RUN[2]), x0)


def test_conditions_that_do_not_fit(unet: UNet) -> None:
    with pytest.raises(ValueError, match="conditions for 2 pictures do not fit a batch of 3"):
        NetworkDenoiser(unet, "eps", condition(2))(initial_noise([1, 2, 3], SHAPE), RUN[0])
    with pytest.raises(ValueError, match="reads a context"):
        NetworkDenoiser(unet, "eps", Conditioning())(initial_noise([1], SHAPE), RUN[0])
    assert len(for_batch(Conditioning(), 5)) == 0


@pytest.mark.parametrize("known", [True, False])
def test_a_vector_is_each_picture_s_own(known: bool) -> None:
    unet = randomized_unet(replace(TOY.unet, context_dim=None, vector_dim=8))
    vector, x = torch.randn(3, 8), initial_noise([1, 2, 3], SHAPE)
    denoise = NetworkDenoiser(unet, "v", Conditioning(vector=vector), RUN if known else None)
    for level in RUN[:-1]:
        with torch.no_grad():
            out = unet(x, level.t.float(), Conditioning(vector=vector))
        torch.testing.assert_close(denoise(x, level), to_x0("v", out, x, level))
    swapped = NetworkDenoiser(unet, "v", Conditioning(vector=vector.flip(0)), RUN)(x, RUN[3])
    assert not torch.allclose(swapped, denoise(x, RUN[3]))


def test_channels_laid_beside_the_sample() -> None:
    """Inpainting: a mask of one channel and the latents of the masked picture."""
    unet = randomized_unet(replace(TOY.unet, in_channels=9, beside="mask"))
    cond = Conditioning(condition(2).context, concat=torch.randn(2, 5, 8, 8))
    x = initial_noise([1, 2], SHAPE)
    with torch.no_grad():
        out = unet(x, RUN[1].t.float(), cond)
    x0 = NetworkDenoiser(unet, "eps", cond, RUN)(x, RUN[1])
    assert x0.shape == x.shape
    torch.testing.assert_close(x0, to_x0("eps", out, x, RUN[1]))
    with pytest.raises(ValueError, match=r"expected x of shape \(B, 9, H, W\)"):
        NetworkDenoiser(unet, "eps", condition(2), RUN)(x, RUN[1])


def test_a_network_in_bfloat16_leaves_the_sample_in_float32(unet: UNet) -> None:
    cond, x = condition(1), initial_noise([1], SHAPE)
    half = UNet(TOY.unet)
    half.load_state_dict(unet.state_dict())
    x0 = NetworkDenoiser(half.bfloat16(), "v", cond, RUN)(x, RUN[0])
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0, NetworkDenoiser(unet, "v", cond, RUN)(x, RUN[0]), rtol=0.1, atol=0.05)


def test_no_gradients_pile_up(unet: UNet) -> None:
    x0 = NetworkDenoiser(unet, "v", condition(1), RUN)(initial_noise([1], SHAPE), RUN[0])
    assert not x0.requires_grad


def test_a_picture_does_not_depend_on_its_batch(unet: UNet) -> None:
    def pictures(seeds: list[int]) -> torch.Tensor:
        denoise = NetworkDenoiser(unet, "v", Conditioning(context=torch.stack([prompts[s] for s in seeds])), RUN)
        return list(dpmpp_2m(denoise, initial_noise(seeds, SHAPE), RUN))[-1].x

    prompts = {seed: torch.randn(16, 32) for seed in (1, 2, 3)}
    batch = pictures([1, 2, 3])
    torch.testing.assert_close(pictures([3, 1]), batch[[2, 0]], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_picture_does_not_depend_on_the_device(unet: UNet) -> None:
    cond, x = condition(2), initial_noise([1, 2], SHAPE)
    here = list(dpmpp_2m(NetworkDenoiser(unet, "v", cond, RUN), x, RUN))[-1].x
    moved = UNet(TOY.unet).cuda()
    moved.load_state_dict(unet.state_dict())
    there = list(dpmpp_2m(NetworkDenoiser(moved, "v", cond.to("cuda"), RUN), x.cuda(), RUN))[-1].x
    torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=1e-2)
