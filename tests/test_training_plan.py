"""The plan of a large run: its counts are those of the networks, its arithmetic holds, and the page repeats it."""

from pathlib import Path

import pytest

from ldm_edu.families import FASHION, SD15, TOY
from ldm_edu.training.plan import PASSES, PUBLISHED, Machine, counts, exchange, failures, parameters, resident, step
from ldm_edu.training.plan_report import report

PAGE = Path(__file__).parents[1] / "docs" / "training_at_scale.md"
MACHINE = Machine()
PAGE_TEXT = " ".join(PAGE.read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_the_counts_are_those_of_stable_diffusion() -> None:
    assert parameters(SD15) == 859_520_964
    at_256, at_512 = counts(SD15, 256), counts(SD15, 512)
    assert at_256.flops / PASSES == pytest.approx(180.1e9, rel=1e-3)
    assert at_512.flops / PASSES == pytest.approx(803.3e9, rel=1e-3)
    assert at_512.text_flops == pytest.approx(13.3e9, rel=1e-2)
    assert (at_512.latents, at_512.text) == (4 * 64 * 64 * 2, 77 * 768 * 2)
    assert at_512.activations == pytest.approx(4 * at_256.activations, rel=0.1)  # but for the text's keys and values
    assert at_512.recomputed < 0.15 * at_512.activations


@pytest.mark.slow
def test_the_activations_are_those_of_a_real_pass() -> None:
    import torch

    from ldm_edu.condition import Conditioning
    from ldm_edu.models.unet import UNet

    model, kept = UNet(TOY.unet), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    sizes = []
    for n in (1, 2):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
            out = model(torch.randn(n, 4, 8, 8), torch.zeros(n), Conditioning(torch.randn(n, 16, 32)))
        sizes.append(sum(size for block, size in kept.items() if block not in own))
        del out
    assert counts(TOY, 16).activations == pytest.approx(sizes[1] - sizes[0], rel=0.02)


def test_more_gpus_share_the_computing_and_exchange_more() -> None:
    steps = [step(TOY, 16, 2048, n, "ddp", MACHINE, utilisation=0.25) for n in (1, 8, 64, 256)]
    assert [s.own for s in steps] == [2048, 256, 32, 8]
    assert all(s.own % s.micro == 0 for s in steps)
    assert steps[0].compute == pytest.approx(256 * steps[-1].compute)
    assert steps[0].exchange == 0 < steps[1].exchange < steps[2].exchange < steps[3].exchange
    assert all(s.seconds >= s.compute for s in steps)
    with pytest.raises(ValueError, match="batch of 10 cannot be shared by 4"):
        step(TOY, 16, 10, 4, "ddp", MACHINE, utilisation=0.25)
    with pytest.raises(ValueError, match="fashion has no cached latents"):
        counts(FASHION, 28)


def test_the_traffic_of_a_ring() -> None:
    bytes_ = 4 * parameters(TOY)  # float32 gradients, each sent and received but for one's own share
    assert exchange(TOY, 2, "ddp", MACHINE) == pytest.approx(2 * 1 / 2 * bytes_ / MACHINE.link)
    assert exchange(TOY, 256, "ddp", MACHINE) == pytest.approx(2 * 31 / 32 * bytes_ / MACHINE.fabric)
    assert resident(TOY, "fsdp", MACHINE) < resident(TOY, "ddp", MACHINE) / 4


def test_saving_as_often_as_is_best_costs_least() -> None:
    found = failures(TOY, 256, MACHINE)
    lost = lambda every: found.saving / every + (every / 2 + MACHINE.restart) / found.between  # noqa: E731
    assert found.lost == pytest.approx(lost(found.every))
    assert lost(found.every) < min(lost(0.8 * found.every), lost(1.25 * found.every))
    assert found.between == pytest.approx(MACHINE.hours_between_failures * 3600 / 256)


@pytest.mark.slow
def test_the_page_shows_what_the_command_prints() -> None:
    shown = PAGE.read_text(encoding="utf-8").split("<!-- ldm-edu plan -->\n")[1].split("\n<!-- end -->")[0]
    assert shown == "\n".join(report(SD15)).strip(), "print it anew: ldm-edu plan"


@pytest.mark.slow
def test_the_page_says_what_the_tables_show() -> None:
    small, large = (step(SD15, size, 2048, 256, "ddp", MACHINE, utilisation=0.25) for size in (256, 512))
    at = counts(SD15, 512)
    lost = failures(SD15, 256, MACHINE)
    total = sum(steps * 2048 * counts(SD15, size).flops for size, steps in PUBLISHED.items())
    hours = total / (0.25 * MACHINE.flops) / 3600
    between_saves = round(lost.every / large.seconds, -2)
    saying = [
        f"takes {resident(SD15, 'ddp', MACHINE) / 1e9:.0f} GB before activations",
        f"each has {small.own} pictures, {small.compute:.2f} s of computing",
        f"exchanging {4 * parameters(SD15) / 1e9:.1f} GB of float32 gradients",
        f"{total:.1e}".replace("e+", "e") + " operations",
        f"{at.text / 1e3:.0f} kB against {at.latents / 1e3:.0f} kB",
        f"it is {600e6 * at.text / 1e12:.0f} TB",
        f"{lost.every / 60:.0f} minutes are {between_saves:,.0f} steps of {large.seconds:.2f} s",
    ]
    assert [words for words in saying if words not in PAGE_TEXT] == []
    assert 0.6 < 1 - small.compute / small.seconds < 0.7  # two thirds of the time are spent waiting
    assert large.seconds == large.compute  # hidden
    assert 5.5 < 150_000 / hours < 6.5  # six times
    assert 7.5 < lost.between / 86_400 < 8.5 and 0.004 < lost.lost < 0.006
