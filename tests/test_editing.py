"""Image to image, inpainting, outpainting, instructions: what is kept is kept, what is told is told."""

import dataclasses
import math

import pytest
import torch
from randomized import randomized_model, toy_with
from test_samplers import STOCHASTIC
from torch import Tensor

from ldm_edu.editing import Edit, begin, depth_map, first_step, inpaint, latent_mask
from ldm_edu.families import FASHION, TOY
from ldm_edu.guidance import cfg2
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import SAMPLERS, Rng, ddim, initial_noise
from ldm_edu.schedule import Level, add_noise, levels, scaled_linear


@pytest.fixture(scope="module")
def toy() -> LatentDiffusion:
    return randomized_model(TOY)


@pytest.fixture(scope="module")
def filler() -> LatentDiffusion:
    """As Stable Diffusion's inpainting model: 9 channels."""
    return randomized_model(toy_with(9))


@pytest.fixture(scope="module")
def editor() -> LatentDiffusion:
    """As instruct-pix2pix: 8 channels."""
    return randomized_model(toy_with(8))


def pictures(n: int = 1, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def half(side: int = 16) -> Tensor:
    """A mask of the right half."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 2 :] = 1
    return mask


def draw(model: LatentDiffusion, prompts: list[str], **how) -> Tensor:  # type: ignore[no-untyped-def]
    *_, last = model.generate(prompts, **({"steps": 4} | how))
    return last.x


# --- image to image -------------------------------------------------------------------------------------------------


def test_a_strength_is_a_number_of_steps(toy: LatentDiffusion) -> None:
    for strength, left in [(1.0, 10), (0.75, 7), (0.5, 5), (0.1, 1), (0.01, 1)]:
        run = list(toy.generate(["a"], steps=10, edit=Edit(pictures(), strength=strength)))
        assert [step.index for step in run] == list(range(left))
        assert run[-1].level.sigma == 0
    assert len(list(toy.generate(["a"], steps=10, edit=Edit(pictures())))) == 6


@pytest.mark.parametrize("steps", range(1, 101))
def test_rounding_takes_no_step_away(steps: int) -> None:
    assert [first_step(steps, left / steps) for left in range(1, steps + 1)] == list(range(steps - 1, -1, -1))


def test_the_weaker_the_closer_to_the_picture(toy: LatentDiffusion) -> None:
    picture = pictures()
    known = toy.encode(picture)
    far = [float((draw(toy, ["a"], steps=20, edit=Edit(picture, s)) - known).abs().mean()) for s in (0.05, 0.5, 1.0)]
    assert far == sorted(far) and far[0] < 0.5 * far[2]


def test_full_strength_is_text_to_image(toy: LatentDiffusion) -> None:
    assert torch.equal(draw(toy, ["a"], edit=Edit(pictures(), strength=1.0)), draw(toy, ["a"]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_edit_depends_on_its_prompt_its_seed_and_its_picture_alone(toy: LatentDiffusion, sampler: str) -> None:
    how = {"sampler": SAMPLERS[sampler], "steps": 6}
    three = pictures(3)
    many = draw(toy, ["a", "b", "c"], seeds=[3, 4, 5], edit=Edit(three, 0.5), **how)
    alone = draw(toy, ["b"], seeds=[4], edit=Edit(three[1:2], 0.5), **how)
    torch.testing.assert_close(many[1:2], alone, rtol=1e-4, atol=1e-5)
    other = draw(toy, ["b"], seeds=[4], edit=Edit(three[2:], 0.5), **how)
    assert not torch.allclose(other, alone)
    same = draw(toy, ["b"], seeds=[4, 5], edit=Edit(three[1:2], 0.5), **how)  # one picture for both seeds
    torch.testing.assert_close(same[:1], alone, rtol=1e-4, atol=1e-5)


# --- inpainting -----------------------------------------------------------------------------------------------------


def exact(x: Tensor, level: Level) -> Tensor:
    """A denoiser with an opinion of its own."""
    return torch.tanh(x + 0.3)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - STOCHASTIC))
def test_the_known_part_is_held_to_its_noise_at_every_level(name: str) -> None:
    known, noise = torch.randn(1, 4, 8, 8), initial_noise([3], (4, 8, 8))
    run, mask = levels(scaled_linear(), 12)[4:], half(8)
    x = add_noise(known, noise, run[0])
    for step in SAMPLERS[name](inpaint(exact, known, mask), x, run):
        torch.testing.assert_close(step.x[..., :4], add_noise(known, noise, step.level)[..., :4], atol=2e-5, rtol=0)
        assert (step.x[..., 4:] - known[..., 4:]).abs().max() > 0.1
    assert torch.equal(step.x0[..., :4], known[..., :4])


def test_it_is_the_blending_of_every_step() -> None:
    known, noise = torch.randn(1, 4, 8, 8), initial_noise([3], (4, 8, 8))
    run, mask = levels(scaled_linear(), 10), half(8)
    blended = add_noise(known, noise, run[0])
    ours = list(ddim(inpaint(exact, known, mask), blended, run))
    for now, nxt, step in zip(run, run[1:], ours, strict=False):
        (alone,) = ddim(exact, blended, [now, nxt])
        blended = mask * alone.x + (1 - mask) * add_noise(known, noise, nxt)
        torch.testing.assert_close(step.x, blended)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_a_stochastic_sampler_ends_at_the_known_part(name: str) -> None:
    known, run = torch.randn(1, 4, 8, 8), levels(scaled_linear(), 12)
    *_, last = SAMPLERS[name](inpaint(exact, known, half(8)), torch.randn(1, 4, 8, 8), run, rng=Rng([0]))
    torch.testing.assert_close(last.x[..., :4], known[..., :4])


def test_inpainting_keeps_every_pixel_outside_of_the_mask(toy: LatentDiffusion) -> None:
    picture = pictures()
    edit = Edit(picture, mask=half())
    drawn = toy.decode(draw(toy, ["a", "b"], edit=edit))
    image = edit.paste(drawn)
    assert torch.equal(image[..., :8], picture[..., :8].expand(2, -1, -1, -1))
    assert torch.equal(image[..., 8:], drawn[..., 8:])
    assert torch.equal(Edit(picture).paste(drawn), drawn)


def test_what_the_mask_hides_leaves_no_trace(toy: LatentDiffusion) -> None:
    """At full strength; the encoder may look a little across the edge, so that only a model of pixels shows it."""
    preset = dataclasses.replace(
        TOY, autoencoder=None, unet=dataclasses.replace(TOY.unet, in_channels=3, out_channels=3)
    )
    model = LatentDiffusion.from_preset(preset)
    picture, mask = pictures(), half()
    other = torch.where(mask > 0, -picture, picture)
    assert torch.equal(
        draw(model, ["a"], edit=Edit(picture, mask=mask)), draw(model, ["a"], edit=Edit(other, mask=mask))
    )


def test_any_pixel_of_a_block_hides_it() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[0, 0, 5, 11] = 1
    small = latent_mask(mask, 4)
    assert small.shape == (1, 1, 4, 4) and small.sum() == 1 and small[0, 0, 1, 2] == 1


# --- soft masks -------------------------------------------------------------------------------------------------------


def soft(side: int = 16) -> Tensor:
    """A mask from 0 at the left to 1 at the right."""
    return torch.linspace(0, 1, side).expand(1, 1, side, side).contiguous()


def test_a_soft_mask_mixes_the_estimates_and_the_pixels_by_its_value() -> None:
    known, x, level = torch.randn(1, 4, 8, 8), torch.randn(2, 4, 8, 8), levels(scaled_linear(), 4)[1]
    mask = soft(8)
    mixed = inpaint(exact, known, mask)(x, level)
    torch.testing.assert_close(mixed, mask * exact(x, level) + (1 - mask) * known)
    picture, images = pictures(), pictures(2, seed=1)
    image = Edit(picture, mask=soft()).paste(images)
    torch.testing.assert_close(image, soft() * images + (1 - soft()) * picture)
    assert torch.equal(image[..., 0], picture[..., 0].expand(2, -1, -1)) and torch.equal(
        image[..., -1], images[..., -1]
    )


def test_a_soft_mask_stays_soft_in_latents_and_covers_what_it_covers_in_pixels() -> None:
    small = latent_mask(soft(), 4)
    assert small[0, 0, 0].tolist() == soft()[0, 0, 0, 3::4].tolist()
    assert (small.repeat_interleave(4, -1).repeat_interleave(4, -2) >= soft()).all()


@pytest.mark.parametrize("strength", [None, 0.5])
def test_a_mask_that_is_0_or_1_almost_everywhere_draws_almost_the_same(
    toy: LatentDiffusion, strength: float | None
) -> None:
    """Softness is no other way to draw: the hard mask is its limit, also at full strength, where noise is put in."""
    hard, almost = half(), (half() * 0.998 + 0.001)
    drawn = [draw(toy, ["a"], edit=Edit(pictures(), strength, mask)) for mask in (hard, almost)]
    assert (drawn[0] - drawn[1]).abs().max() < 0.02 * drawn[0].abs().max()


def test_an_inpainting_network_is_shown_a_mask_of_0_and_1(filler: LatentDiffusion) -> None:
    """Which it was trained with: what is painted by half or more is hidden from it."""
    picture, noise, run = pictures(), initial_noise([0], (4, 8, 8)), levels(filler.schedule, 4)
    start = begin(Edit(picture, mask=soft()), noise, run, filler)
    wanted = begin(Edit(picture, mask=half()), noise, run, filler)
    assert start.concat is not None and wanted.concat is not None
    assert torch.equal(start.concat, wanted.concat)


# --- outpainting ----------------------------------------------------------------------------------------------------


def test_outpainting_adds_a_border_to_paint(toy: LatentDiffusion) -> None:
    picture = pictures()
    edit = Edit.outpaint(picture, left=4, right=8, bottom=4)
    assert edit.size == (20, 28)
    assert edit.mask is not None and edit.mask.sum() == 20 * 28 - 16 * 16
    image = edit.paste(toy.decode(draw(toy, ["a"], edit=edit)))
    assert image.shape == (1, 3, 20, 28) and torch.equal(image[..., :16, 4:20], picture)
    assert (image[..., 20:] - picture[..., -1:].mean()).abs().max() > 0.01


@pytest.mark.parametrize("border", [{}, {"left": 0}, {"left": -4, "right": 8}])
def test_no_border_is_refused(border: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is none"):
        Edit.outpaint(pictures(), **border)


# --- networks that are told of the picture --------------------------------------------------------------------------


def test_an_inpainting_network_sees_the_mask_and_what_is_left(filler: LatentDiffusion) -> None:
    picture, mask, noise = pictures(), half(), initial_noise([0, 1], (4, 8, 8))
    start = begin(Edit(picture, mask=mask), noise, levels(filler.schedule, 4), filler)
    assert start.concat is not None and start.concat.shape == (1, 5, 8, 8) and start.known is None
    assert torch.equal(start.concat[:, :1], latent_mask(mask, 2))
    torch.testing.assert_close(start.concat[:, 1:], filler.encode(picture * (1 - mask)))
    assert torch.equal(start.x, noise)
    hidden, seen = picture.clone(), picture.clone()
    hidden[..., 8:] *= -1
    seen[..., :8] *= -1
    drawn = draw(filler, ["a"], edit=Edit(picture, mask=mask))
    assert torch.equal(drawn, draw(filler, ["a"], edit=Edit(hidden, mask=mask)))
    assert not torch.allclose(drawn, draw(filler, ["a"], edit=Edit(seen, mask=mask)))


def test_an_inpainting_network_draws_by_painting_everything(filler: LatentDiffusion) -> None:
    grey = Edit(torch.zeros(1, 3, 16, 16), strength=1.0)
    drawn = draw(filler, ["a", "b"])
    assert torch.equal(drawn, draw(filler, ["a", "b"], edit=grey))
    assert torch.equal(drawn, draw(filler, ["a", "b"], edit=dataclasses.replace(grey, mask=torch.ones(1, 1, 16, 16))))
    assert draw(filler, ["a"], size=(24, 8)).shape == (1, 4, 12, 4)
    assert not torch.allclose(drawn, draw(filler, ["a", "b"], edit=Edit(pictures(), strength=0.5)))


def test_an_instruction_follows_two_scales(editor: LatentDiffusion) -> None:
    picture, noise, run = pictures(), initial_noise([0], (4, 8, 8)), levels(editor.schedule, 4)
    z = editor.encode(picture)
    words, blank = editor.condition(["make it red"]), editor.condition([""])
    guided = cfg2(
        editor.denoiser(words.beside(z)),
        editor.denoiser(blank.beside(z)),
        editor.denoiser(blank.beside(0 * z)),
        scale=4.0,
        image_scale=2.0,
    )
    *_, last = ddim(guided, noise, run)
    edit = Edit(picture, image_guidance=2.0)
    torch.testing.assert_close(draw(editor, ["make it red"], guidance=4.0, sampler=ddim, edit=edit), last.x)
    other = dataclasses.replace(edit, image_guidance=1.0)
    assert not torch.allclose(draw(editor, ["make it red"], guidance=4.0, sampler=ddim, edit=other), last.x)
    with pytest.raises(ValueError, match="edits pictures"):
        editor.generate(["a"])


def test_an_instruction_can_be_confined_to_a_mask(editor: LatentDiffusion) -> None:
    picture = pictures()
    x = draw(editor, ["make it red"], edit=Edit(picture, mask=half()))
    torch.testing.assert_close(x[..., :4], editor.encode(picture)[..., :4])


def test_the_three_branches_are_one_batch_or_three() -> None:
    """Equation 3 by hand; and denoisers that are no networks are asked one by one."""
    x, level = torch.randn(2, 4, 8, 8), levels(scaled_linear(), 4)[1]
    both, image, neither = (lambda x, level, k=k: k * x for k in (3.0, 2.0, 1.0))
    guided = cfg2(both, image, neither, scale=7.0, image_scale=1.5)
    torch.testing.assert_close(guided(x, level), x + 1.5 * (2 * x - x) + 7 * (3 * x - 2 * x))
    for scales in ((math.nan, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="finite"):
            cfg2(both, image, neither, *scales)


def test_a_network_that_reads_what_no_picture_gives_is_refused() -> None:
    preset = dataclasses.replace(TOY, unet=dataclasses.replace(TOY.unet, in_channels=7, beside="low_res"))
    with pytest.raises(ValueError, match="reads 'low_res' besides the sample"):
        randomized_model(preset).generate(["a"], edit=Edit(pictures()))


def test_depths_are_scaled_to_one_range_and_belong_to_a_model_that_reads_them() -> None:
    preset = dataclasses.replace(TOY, unet=dataclasses.replace(TOY.unet, in_channels=5, beside="depth"))
    model, picture, depth = randomized_model(preset), pictures()[:1], torch.rand(1, 1, 16, 16)
    for unit in (depth, 7 * depth + 3):
        small = depth_map(unit, 2)
        assert small.shape == (1, 1, 8, 8) and float(small.min()) == -1 and float(small.max()) == pytest.approx(1)
        torch.testing.assert_close(small, depth_map(depth, 2), rtol=1e-4, atol=1e-4)
    *_, last = model.generate(["a"], edit=Edit(picture, depth=depth), steps=2)
    *_, other = model.generate(["a"], edit=Edit(picture, depth=1 - depth), steps=2)
    assert not torch.allclose(last.x, other.x)
    with pytest.raises(ValueError, match="give both, or neither"):
        model.generate(["a"], edit=Edit(picture))
    with pytest.raises(ValueError, match="give both, or neither"):
        randomized_model(TOY).generate(["a"], edit=Edit(picture, depth=depth))
    with pytest.raises(ValueError, match=r"expected depths \(1 or B, 1, 16, 16\)"):
        Edit(picture, depth=depth[..., :8])


def test_channels_that_do_not_fit_what_a_network_reads_are_refused() -> None:
    with pytest.raises(ValueError, match="in_channels=7 and out_channels=4 do not fit beside='mask'"):
        dataclasses.replace(TOY.unet, in_channels=7, beside="mask")


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.5, math.nan, math.inf])
def test_strengths_that_cannot_be(strength: float) -> None:
    with pytest.raises(ValueError, match="strength="):
        Edit(pictures(), strength)


@pytest.mark.parametrize(
    "mask, words",
    [
        (torch.ones(1, 1, 8, 8), r"mask \(1, 1, 16, 16\)"),
        (torch.ones(1, 3, 16, 16), r"not \(1, 3, 16, 16\)"),
        (torch.ones(16, 16), r"not \(16, 16\)"),
        (torch.full((1, 1, 16, 16), 255.0), "numbers from 0, .* to 1"),
        (torch.full((1, 1, 16, 16), -0.1), "numbers from 0, .* to 1"),
        (torch.full((1, 1, 16, 16), math.nan), "numbers from 0, .* to 1"),
        (torch.zeros(1, 1, 16, 16), "nothing would be painted"),
    ],
)
def test_masks_that_cannot_be(mask: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Edit(pictures(), mask=mask)


def test_pictures_that_cannot_be(toy: LatentDiffusion) -> None:
    with pytest.raises(ValueError, match="adds B"):
        Edit(pictures()[0])
    with pytest.raises(ValueError, match="nearest are 16 and 20"):
        toy.generate(["a"], edit=Edit(pictures(side=18)))
    with pytest.raises(ValueError, match="2 pictures to edit and 3 seeds"):
        toy.generate(["a"], seeds=[1, 2, 3], edit=Edit(pictures(2)))
    with pytest.raises(ValueError, match="resize it"):
        toy.generate(["a"], size=32, edit=Edit(pictures()))
    with pytest.raises(ValueError, match="expected pictures"):
        toy.generate(["a"], edit=Edit(pictures()[:, :2]))
    assert draw(toy, ["a"], size=16, edit=Edit(pictures())).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    "picture", [torch.zeros(1, 3, 8, 8).byte(), 255 * torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), math.nan)]
)
def test_numbers_that_are_no_picture(picture: Tensor) -> None:
    with pytest.raises(ValueError, match="from -1 to 1"):
        Edit(picture)


def test_masks_are_as_many_as_what_they_hide(toy: LatentDiffusion) -> None:
    masks = half().repeat(2, 1, 1, 1)
    assert draw(toy, ["a", "b"], edit=Edit(pictures(), mask=masks)).shape[0] == 2
    with pytest.raises(ValueError, match="2 masks and 1 seeds"):
        toy.generate(["a"], edit=Edit(pictures(), mask=masks))
    with pytest.raises(ValueError, match="3 masks and 2 pictures"):
        Edit(pictures(2), mask=half().repeat(3, 1, 1, 1))


def test_a_coloured_picture_for_a_model_of_grey_ones() -> None:
    with pytest.raises(ValueError, match="draws pictures of 1 channels, and these have 3"):
        randomized_model(FASHION).generate([3], edit=Edit(pictures(side=28)))
