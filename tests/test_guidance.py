import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from randomized import randomized_unet
from torch import Tensor

from ldm_edu.condition import Conditioning
from ldm_edu.config import Prediction
from ldm_edu.denoise import Denoiser, NetworkDenoiser
from ldm_edu.families import TOY
from ldm_edu.guidance import cfg, cfg2, interval, rescale
from ldm_edu.models.unet import UNet
from ldm_edu.prediction import PREDICTIONS, target, to_eps, to_x0
from ldm_edu.samplers import ddim, dpmpp_2m, initial_noise
from ldm_edu.schedule import Level, flow, levels, scaled_linear

RUN = levels(scaled_linear(), 6)
SHAPE = (4, 8, 8)


def constant(value: float) -> Denoiser:
    return lambda x, level: torch.full_like(x, value)


class Counted:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise, self.times = denoise, 0

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        self.times += 1
        return self.denoise(x, level)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return randomized_unet(TOY.unet)


@pytest.fixture
def batches(unet: UNet) -> Iterator[list[int]]:
    """The batch size of each run of the network."""
    sizes: list[int] = []
    hook = unet.conv_in.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    yield sizes
    hook.remove()


def branch(unet: UNet, count: int, length: int = 16) -> NetworkDenoiser:
    return NetworkDenoiser(unet, "v", Conditioning(context=torch.randn(count, length, 32)), RUN)


def test_the_formula() -> None:
    x = torch.zeros(2, *SHAPE)
    for scale, value in ((7.5, 2 + 7.5 * 3), (0.5, 3.5), (-1.0, -1.0)):
        torch.testing.assert_close(cfg(constant(5.0), constant(2.0), scale)(x, RUN[0]), torch.full_like(x, value))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_guiding_x0_is_guiding_the_prediction(kind: Prediction) -> None:
    x, cond, uncond = torch.randn(3, 2, *SHAPE, dtype=torch.float64)  # what the network would say
    for level in (scaled_linear().level(700), flow().level(300)):
        denoisers = [lambda x, level, out=out: to_x0(kind, out, x, level) for out in (cond, uncond)]
        guided = to_x0(kind, uncond + 7.5 * (cond - uncond), x, level)
        torch.testing.assert_close(cfg(*denoisers, 7.5)(x, level), guided)


def test_scale_one_is_no_guidance_and_costs_one_branch() -> None:
    cond, uncond = Counted(constant(5.0)), Counted(constant(2.0))
    x = torch.zeros(1, *SHAPE)
    assert cfg(cond, uncond, 1)(x, RUN[0]).eq(5).all() and (cond.times, uncond.times) == (1, 0)
    assert cfg(cond, uncond, 0.0)(x, RUN[0]).eq(2).all() and (cond.times, uncond.times) == (1, 1)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_scale_that_is_no_number(scale: float) -> None:
    with pytest.raises(ValueError, match="give a finite number: 1 is no guidance"):
        cfg(constant(1.0), constant(0.0), scale)


def test_a_model_that_says_nan_is_told_at_its_step() -> None:
    broken: Denoiser = lambda x, level: x * (math.nan if level.t < 600 else 1)  # noqa: E731
    guided = cfg(broken, constant(0.0), 7.5)
    with pytest.raises(ValueError, match=r"at step 3 \(t = 499\.0\).*lower the guidance scale"):
        list(ddim(guided, initial_noise([1], SHAPE), RUN))


@pytest.mark.parametrize("blanks", [1, 3])
def test_two_branches_of_a_network_are_one_batch(unet: UNet, batches: list[int], blanks: int) -> None:
    cond, uncond, x = branch(unet, 3), branch(unet, blanks), initial_noise([1, 2, 3], SHAPE)
    alone = [denoise(x, RUN[2]) for denoise in (cond, uncond)]
    batches.clear()
    guided = cfg(cond, uncond, 5.0)
    result = guided(x, RUN[2])
    assert batches == [6]
    torch.testing.assert_close(result, alone[1] + 5 * (alone[0] - alone[1]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(result, alone[0], atol=1e-3)  # the two do differ


def test_a_batch_of_another_size_is_joined_anew(unet: UNet, batches: list[int]) -> None:
    guided = cfg(branch(unet, 1), branch(unet, 1), 5.0)
    x = initial_noise([1, 2], SHAPE)
    two = guided(x, RUN[1])
    torch.testing.assert_close(guided(x[:1], RUN[1]), two[:1], rtol=1e-4, atol=1e-4)
    assert batches == [4, 2]


def test_contexts_of_two_lengths_are_two_batches(unet: UNet, batches: list[int]) -> None:
    cond, uncond, x = branch(unet, 2, 16), branch(unet, 2, 5), initial_noise([1, 2], SHAPE)
    result = cfg(cond, uncond, 5.0)(x, RUN[2])
    assert batches == [2, 2]
    torch.testing.assert_close(result, uncond(x, RUN[2]) + 5 * (cond(x, RUN[2]) - uncond(x, RUN[2])))


def test_two_networks_are_two_batches(unet: UNet) -> None:
    other = randomized_unet(TOY.unet, seed=2)
    cond, uncond, x = branch(unet, 2), branch(other, 2), initial_noise([1, 2], SHAPE)
    expected = uncond(x, RUN[2]) + 5 * (cond(x, RUN[2]) - uncond(x, RUN[2]))
    torch.testing.assert_close(cfg(cond, uncond, 5.0)(x, RUN[2]), expected)


def test_states_are_computed_once_for_both_branches(unet: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    original: Callable[[Tensor], list] = unet.context_states
    monkeypatch.setattr(unet, "context_states", lambda context: computed.append(len(context)) or original(context))
    list(dpmpp_2m(cfg(branch(unet, 2), branch(unet, 1), 5.0), initial_noise([1, 2], SHAPE), RUN))
    assert computed == [4]


def test_rescaling_gives_the_spread_back() -> None:
    x, x0_cond, x0_uncond = torch.randn(3, 2, *SHAPE)
    level = scaled_linear().level(700)
    guided = cfg(lambda x, level: x0_cond, lambda x, level: x0_uncond, 7.5)

    def v(x0: Tensor) -> Tensor:
        return target("v", x0, to_eps(x0, x, level), level)

    def spread(x: Tensor) -> Tensor:
        return x.flatten(1).std(dim=1)[:, None, None, None]

    plain, full = v(guided(x, level)), v(rescale(guided, 1.0)(x, level))
    torch.testing.assert_close(spread(full), spread(v(x0_cond)))  # equation 15
    assert (spread(plain) > 2 * spread(full)).all()
    torch.testing.assert_close(v(rescale(guided, 0.7)(x, level)), 0.7 * full + 0.3 * plain)  # equation 16
    torch.testing.assert_close(rescale(guided, 0.0)(x, level), guided(x, level))
    in_eps = to_eps(rescale(guided, 1.0, "eps")(x, level), x, level)
    torch.testing.assert_close(spread(in_eps), spread(to_eps(x0_cond, x, level)))
    assert rescale(cfg(constant(1.0), constant(0.0), 1.0))(x, level).eq(1).all()  # nothing to rescale
    with pytest.raises(ValueError, match=r"phi=1\.5"):
        rescale(guided, 1.5)


def test_rescaled_branches_are_one_batch(unet: UNet, batches: list[int]) -> None:
    rescale(cfg(branch(unet, 2), branch(unet, 2), 5.0))(initial_noise([1, 2], SHAPE), RUN[0])
    assert batches == [4]


def test_guidance_in_an_interval() -> None:
    cond, uncond = Counted(constant(1.0)), Counted(constant(0.0))
    run = levels(scaled_linear(), 10, "karras")
    sometimes = interval(cfg(cond, uncond, 4.0), cond, low=0.2, high=5.0)
    steps = list(ddim(sometimes, torch.zeros(1, *SHAPE), run))
    for step, level in zip(steps, run, strict=False):
        inside = 0.2 < float(level.ratio) <= 5.0
        assert step.x0.eq(4.0 if inside else 1.0).all()
    guided = sum(bool(0.2 < level.ratio <= 5.0) for level in run)
    assert 0 < guided < 10 and (cond.times, uncond.times) == (10, guided)
    at_the_top = Level(torch.tensor(1.0), torch.tensor(0.5), torch.tensor(0.5))  # sigma / alpha is 1
    assert interval(constant(4.0), constant(1.0), 0.5, 1.0)(torch.zeros(1), at_the_top) == 4
    assert interval(constant(4.0), constant(1.0), 1.0, 2.0)(torch.zeros(1), at_the_top) == 1
    for low, high in ((1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="0 <= low < high"):
            interval(cond, cond, low, high)


def test_a_denoiser_of_its_own_kind_is_asked_itself() -> None:
    """As one with a ControlNet or a LoRA is: to run its U-Net without it would be something else."""

    class Own(NetworkDenoiser):
        def __call__(self, x: Tensor, level: Level) -> Tensor:
            return torch.full_like(x, 5.0)

    unet = randomized_unet(TOY.unet)
    context = torch.randn(1, 16, 32)
    own, plain = (kind(unet, "eps", Conditioning(context=context)) for kind in (Own, NetworkDenoiser))
    x = initial_noise([1], SHAPE)
    assert torch.equal(cfg(own, own, 3.0)(x, RUN[0]), torch.full_like(x, 5.0))
    mixed = cfg(own, plain, 3.0)(x, RUN[0])
    torch.testing.assert_close(mixed, 15.0 - 2 * plain(x, RUN[0]))


class Scaled:
    """A denoiser of one's own that can be one batch with others of its kind."""

    def __init__(self, factors: Tensor, sizes: list[int]) -> None:
        self.factors, self.sizes = factors, sizes  # (B,)

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        self.sizes.append(len(x))
        return x * self.factors.view(-1, 1, 1, 1)

    def joined(self, others: Sequence[Denoiser], size: int) -> Denoiser | None:
        if not all(isinstance(each, Scaled) for each in others):
            return None
        return Scaled(torch.cat([each.factors.expand(size) for each in (self, *others)]), self.sizes)


def test_denoisers_of_ones_own_are_one_batch() -> None:
    sizes: list[int] = []
    cond, uncond, x = Scaled(torch.tensor([3.0]), sizes), Scaled(torch.tensor([1.0]), sizes), torch.randn(2, *SHAPE)
    torch.testing.assert_close(cfg(cond, uncond, 4.0)(x, RUN[0]), x * (1 + 4 * 2))
    torch.testing.assert_close(cfg2(cond, uncond, uncond, 4.0, 2.0)(x, RUN[0]), x * (1 + 4 * 2))
    assert sizes == [4, 6]
    torch.testing.assert_close(cfg(cond, lambda x, level: 0 * x, 4.0)(x, RUN[0]), 12 * x)  # cannot be joined
    assert sizes == [4, 6, 2]
