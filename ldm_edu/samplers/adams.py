"""Samplers that remember eps: lms, plms, ipndm and deis. Each is a DDIM step with a better eps put in.

The mean of eps over the step to come is that of the polynomial through the last few estimates: Adams and Bashforth's
methods, in sigma / alpha or, for deis, in its logarithm. One evaluation a step.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ldm_edu.denoise import Denoiser
from ldm_edu.prediction import to_eps
from ldm_edu.samplers.noise import Noise
from ldm_edu.samplers.polynomial import Estimates, mean_in_log_snr, mean_in_ratio, order_left, remember, weighted
from ldm_edu.samplers.step import Step, estimate, move_eps, move_x0, pairs
from ldm_edu.schedule import Level

# Adams-Bashforth for equal strides: weights of the last 1, 2, 3 and 4 eps, the newest first (Liu et al. 2022b, eq. 12)
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def lms(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, order: int = 4, rng: Noise | None = None
) -> Iterator[Step]:
    """Linear multistep: Adams-Bashforth on eps with the strides as they are (Zhang and Chen 2023, rho-AB).

    It starts with steps of order 1, 2, 3. It keeps its order to the end, as the published sampler does: with 20 steps
    use karras spacing, since the long last stride of the others overshoots (`ipndm` lowers its order there). See
    `Sampler` for the other arguments.

    Raises
    ------
    ValueError
        if the order is less than 1.
    """
    _check_order(order)
    known: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        known = remember(now, to_eps(x0, x, now), known, order)
        x = move_eps(x, mean_in_ratio(now, nxt, known), now, nxt) if known else move_x0(x, x0, now, nxt)
        yield Step(i, x, x0, nxt)


def plms(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, fixed_weights: bool = False, rng: Noise | None = None
) -> Iterator[Step]:
    """PLMS, the first sampler of Stable Diffusion: Adams-Bashforth on eps (Liu et al. 2022b, PNDM, equations 9 and 12).

    The first step is taken twice, the second time with the mean of both ends' eps: one evaluation more than steps. The
    weights are those of the strides of sigma / alpha, and over the last steps the order falls from 4 to 1.
    ``fixed_weights`` takes the published weights to the end, which assume equal strides: of second order, and visibly
    wrong below 50 steps. See `Sampler` for the other arguments.
    """
    known: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        known = remember(now, to_eps(x0, x, now), known, 4)
        if i == 0 and now.alpha > 0 and nxt.sigma > 0:
            ahead = move_x0(x, x0, now, nxt)
            eps_ahead = to_eps(estimate(denoise, ahead, nxt, i), ahead, nxt)
            x = move_eps(x, (known[0][1] + eps_ahead) / 2, now, nxt)
        else:
            x = _adams_bashforth(x, x0, known, now, nxt, None if fixed_weights else len(levels) - 1 - i)
        yield Step(i, x, x0, nxt)


def ipndm(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, fixed_weights: bool = False, rng: Noise | None = None
) -> Iterator[Step]:
    """iPNDM: as `plms`, but starting with steps of order 1, 2 and 3 instead (Zhang and Chen 2023).

    One evaluation a step from the first on. See `plms` for ``fixed_weights`` and `Sampler` for the other arguments.
    """
    known: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        known = remember(now, to_eps(x0, x, now), known, 4)
        x = _adams_bashforth(x, x0, known, now, nxt, None if fixed_weights else len(levels) - 1 - i)
        yield Step(i, x, x0, nxt)


def deis(
    denoise: Denoiser, x: Tensor, levels: Sequence[Level], *, order: int = 2, rng: Noise | None = None
) -> Iterator[Step]:
    """DEIS: eps is extrapolated along a polynomial in log-SNR (Zhang and Chen 2023, log-rho-AB).

    ``order`` 2 suits guided sampling, 3 unguided. The first steps use less, and so do the last as in `dpmpp_3m`. See
    `Sampler` for the other arguments.

    Raises
    ------
    ValueError
        if the order is less than 1.
    """
    _check_order(order)
    known: Estimates = []
    for i, (now, nxt) in pairs(levels):
        x0 = estimate(denoise, x, now, i)
        known = remember(now, to_eps(x0, x, now), known, order)
        used = known[: order_left(i, levels)]
        if len(used) > 1:
            x = move_eps(x, mean_in_log_snr(now, nxt, used, growth=-1), now, nxt)
        else:
            x = move_x0(x, x0, now, nxt)
        yield Step(i, x, x0, nxt)


def _adams_bashforth(x: Tensor, x0: Tensor, known: Estimates, now: Level, nxt: Level, steps_left: int | None) -> Tensor:
    """One step of an order up to ``steps_left``; None: with the published weights. From pure noise, a DDIM step."""
    if not known:
        return move_x0(x, x0, now, nxt)
    if steps_left is None:
        return move_eps(x, weighted(ADAMS_BASHFORTH[len(known) - 1], [eps for _, eps in known]), now, nxt)
    return move_eps(x, mean_in_ratio(now, nxt, known[:steps_left]), now, nxt)


def _check_order(order: int) -> None:
    if order < 1:
        raise ValueError(f"order={order} must be at least 1; 2 to 4 are usual")
