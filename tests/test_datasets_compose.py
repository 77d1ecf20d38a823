"""Composed pictures: what they are called is what they show, and what is held out is never made."""

import dataclasses
import random

import pytest
import torch
from torch import Tensor

from ldm_edu.datasets import emoji_labels, emoji_splits, emoji_tensors
from ldm_edu.datasets.compose import (
    PLACES,
    Drawing,
    Drawings,
    any_count,
    any_hue,
    any_two,
    compose,
    fitted,
    is_true,
    lay,
    several,
    side_by_side,
)
from ldm_edu.datasets.compose_check import find_things, halves, in_colour, read_colour, read_count
from ldm_edu.datasets.emoji import STYLES, EmojiTensors
from ldm_edu.datasets.hues import find_body, name_colour, oklab, recolour, srgb
from ldm_edu.datasets.patches import patches
from ldm_edu.datasets.words import COUNTS, HUES, countable, thing

RED, GREY = (210, 40, 40), (150, 150, 150)


def disc(colour: tuple[int, int, int], radius: float = 24) -> Tensor:
    """A disc of one colour on nothing: (4, 64, 64) uint8."""
    grid = torch.arange(64) - 31.5
    inside = grid[:, None] ** 2 + grid[None] ** 2 < radius**2
    return torch.cat([torch.tensor(colour)[:, None, None] * inside, 255 * inside[None]]).byte()


def on_white(rgba: Tensor) -> Tensor:
    alpha = rgba[3:] / 255
    return 2 * (alpha * rgba[:3] / 255 + 1 - alpha) - 1


@pytest.fixture(scope="module")
def source() -> Drawings:
    """Every drawing of five things."""
    data, labels = emoji_tensors("train", starter=True), emoji_labels()
    names = {"red apple", "green apple", "elephant", "fish", "carrot"}
    rows = torch.tensor([i for i, concept in enumerate(data.concepts.tolist()) if labels[concept] in names])
    few = EmojiTensors(data.rgba[rows], [data.captions[i] for i in rows], data.concepts[rows], data.styles[rows])
    return Drawings(few, {thing(name) for name in names})


def test_things_go_by_their_name_without_a_colour(source: Drawings) -> None:
    assert set(source.names) == {"apple", "elephant", "fish", "carrot"}
    assert len(source.of["apple"]) > len(STYLES)  # the red one's and the green one's


def test_what_a_picture_is_called_can_be_read_back(source: Drawings) -> None:
    made = compose(40, seed=1, source=source)
    kinds = set()
    for image, caption, (what, style, ground) in zip(*made, strict=True):
        picture = image / 127.5 - 1
        words = what.split()
        assert caption.removeprefix("a ").removeprefix("an ").startswith(what.removeprefix("a ").removeprefix("an "))
        assert style in caption and ((ground == "white") or caption.endswith(f"{ground} background"))
        if words[0] in HUES:
            assert read_colour(picture) == words[0] and words[0] != ground
        else:
            count = 3 if words[0] == "three" else 2
            assert read_count(picture) == count
        kinds.add(words[0] if words[0] in HUES else (words[0] if words[0] in COUNTS.values() else "pair"))
    assert {"two", "three", "pair"} < kinds and len(kinds) > 6


def test_a_picture_depends_on_its_number_alone(source: Drawings) -> None:
    few, more = compose(3, seed=2, source=source), compose(5, seed=2, source=source)
    assert torch.equal(few.images, more.images[:3]) and few.captions == more.captions[:3]
    assert compose(3, seed=3, source=source).captions != few.captions


def test_what_is_held_out_is_never_made(source: Drawings) -> None:
    nothing = dataclasses.replace(emoji_splits(), hues=frozenset(), counts=frozenset(), together=frozenset())
    but_blue = frozenset((name, hue) for name in source.names for hue in HUES if hue != "blue")
    but_two = frozenset((name, 3) for name in source.names)
    with_fish = frozenset(frozenset((name, "fish")) for name in source.names)
    held_out = dataclasses.replace(nothing, hues=but_blue, counts=but_two, together=with_fish)
    rng = random.Random(0)
    assert {made.hue for _ in range(20) if (made := any_hue(source, rng, held_out))} == {"blue"}
    assert {made.number for _ in range(20) if (made := any_count(source, rng, held_out))} == {2}
    pairs = [made.what for _ in range(40) if (made := any_two(source, rng, held_out))]
    assert pairs and not any("fish" in what for what in pairs)
    free = [made.what for _ in range(40) if (made := any_two(source, rng, nothing))]
    assert any("fish" in what for what in free)


def test_the_split_file_leaves_every_thing_most_of_its_words() -> None:
    splits, labels = emoji_splits(), {thing(label) for label in emoji_labels()}
    hued, counted = [name for name, _ in splits.hues], [name for name, _ in splits.counts]
    assert len(set(hued)) == len(hued) and len(set(counted)) == len(counted)  # at most one colour, one count
    assert set(hued) | set(counted) | set().union(*splits.together) <= labels
    assert all(countable(name) for name in counted) and all(len(pair) == 2 for pair in splits.together)
    assert not {"fish", "apple", "rocket", "cat", "pizza"} & (set(hued) | set(counted) | set().union(*splits.together))


def test_a_recoloured_thing_keeps_its_greys_and_its_outline() -> None:
    rgba = disc(RED)
    rgba[:3, 28:36, 28:36] = 20  # a pupil
    rgba[:3, 40:44, 28:36] = 250  # a tooth
    body = find_body(rgba)
    assert body is not None
    for hue in HUES:
        blue = recolour(rgba, body, hue)
        assert name_colour(blue[:3] / 255, blue[3] > 0) == hue
        assert torch.equal(blue[3], rgba[3])
        grey = rgba[:3].float().std(0) < 1
        assert (blue.float() - rgba.float())[:3, grey].abs().max() <= 2


def test_a_grey_thing_can_be_coloured_and_a_motley_one_cannot() -> None:
    body = find_body(disc(GREY))
    assert body is not None and body.chroma == 0
    assert name_colour(recolour(disc(GREY), body, "purple")[:3] / 255, disc(GREY)[3] > 0) == "purple"
    stripes = disc(RED)
    for i, colour in enumerate(((40, 160, 60), (40, 80, 220), (250, 210, 40))):
        stripes[:3, 16 * (i + 1) :] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    assert find_body(stripes) is None


def test_oklab_there_and_back() -> None:
    rgb = torch.rand(3, 100)
    torch.testing.assert_close(srgb(oklab(rgb)), rgb, atol=1e-4, rtol=0)
    white = oklab(torch.ones(3, 1))
    torch.testing.assert_close(white[:, 0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", COUNTS)
def test_so_many_stand_apart(count: int) -> None:
    drawing = Drawing(disc(RED), "ball", "flat")
    made = several(drawing, count, random.Random(0))
    assert read_count(on_white(made.rgba)) == count
    assert is_true(on_white(made.rgba), made)
    assert not is_true(on_white(made.rgba), made._replace(number=5 - count))
    assert not is_true(on_white(made.rgba), made._replace(hue="blue"))


@pytest.mark.parametrize(("relation", "left"), [("left of", "red"), ("right of", "blue")])
def test_two_things_stand_on_the_sides_that_are_said(relation: str, left: str) -> None:
    red, blue = Drawing(disc(RED), "ball", "flat"), Drawing(disc((30, 90, 230)), "sun", "flat")
    made = side_by_side(red, relation, blue, random.Random(0))  # type: ignore[arg-type]
    assert made.what == f"a ball {relation} a sun"
    sides = halves(on_white(made.rgba))
    assert [read_colour(side) for side in sides] == (["red", "blue"] if left == "red" else ["blue", "red"])
    assert all(side.shape == (3, 64, 64) for side in sides)


def test_a_thing_is_seen_in_its_own_colour_again() -> None:
    body = find_body(disc(RED))
    assert body is not None
    blue = on_white(recolour(disc(RED), body, "blue"))
    assert read_colour(blue) == "blue"
    again = in_colour(blue, body.colour)
    assert read_colour(again) == "red"
    inside = find_things(on_white(disc(RED)))
    assert (again - on_white(disc(RED)))[:, inside].abs().mean() < 0.1
    nothing = torch.ones(3, 64, 64)
    assert torch.equal(in_colour(nothing, body.colour), nothing)


def test_a_picture_of_nothing_reads_as_nothing() -> None:
    white = torch.ones(3, 64, 64)
    assert read_count(white) == 0 and read_colour(white) == ""
    assert halves(white)[0].shape == (3, 64, 64)


def test_parts_fill_their_box_and_keep_their_form() -> None:
    part = fitted(disc(RED, 20), 28, 44)
    assert part.shape == (4, 28, 28)
    rgba = lay([part], [PLACES[2][0]])
    columns = (rgba[3] > 0).any(0).nonzero()[:, 0]
    assert columns.min() == 2 and columns.max() == 29


def test_patches_are_of_four_neighbours_and_end_at_the_border() -> None:
    mask = torch.tensor(
        [
            [1, 0, 0, 1],
            [1, 0, 1, 0],
            [0, 1, 0, 1],
            [0, 0, 0, 1],
        ],
        dtype=torch.bool,
    )
    found = patches(mask, least=1)
    assert sorted(int(patch.sum()) for patch in found) == [1, 1, 1, 2, 2]
    assert torch.equal(torch.stack(found).sum(0).bool(), mask)
    assert len(patches(mask, least=2)) == 2
