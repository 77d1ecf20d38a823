"""SDXL's conditions: what they are made of, long and weighted prompts, blanks, prompts that were read before."""

import pytest
import torch

from ldm_edu.conditioners.two_texts import TwoTextConditioner, sinusoids
from ldm_edu.config import TextConfig
from ldm_edu.models.clip import TextEncoder
from ldm_edu.nn.embeddings import timestep_embedding
from ldm_edu.tokenizer import Tokenizer

FIRST = TextConfig(1024, length=16, width=32, layers=2, heads=2)
SECOND = TextConfig(1024, length=16, width=48, layers=2, heads=2, activation="gelu", projection=40, pad=0)
SIZES = 6 * 256


@pytest.fixture
def two() -> TwoTextConditioner:
    readers = [(Tokenizer(c.vocab, c.length, c.pad), TextEncoder(c).eval()) for c in (FIRST, SECOND)]
    return TwoTextConditioner(readers, (64, 96))


def test_the_parts_of_a_condition(two: TwoTextConditioner) -> None:
    cond = two(["red apple", "blue fish"])
    assert cond.context is not None and cond.context.shape == (2, 16, 32 + 48)
    assert cond.vector is not None and cond.vector.shape == (2, 40 + SIZES)
    (_, first), (tokenizer, second) = two.readers
    states = second(tokenizer(["red apple", "blue fish"]))
    assert torch.equal(cond.context[..., 32:], states.hidden[1])
    assert states.projected is not None and torch.equal(cond.vector[:, :40], states.projected)
    assert torch.equal(cond.context[..., :32], first(two.readers[0][0](["red apple", "blue fish"])).hidden[1])


def test_the_numbers_stand_in_order_and_follow_the_size_that_is_drawn(two: TwoTextConditioner) -> None:
    def numbers(**given: object) -> torch.Tensor:
        vector = two([""], **given).vector  # type: ignore[arg-type]
        assert vector is not None
        return vector[0, 40:]

    assert torch.equal(numbers(), sinusoids([64, 96, 0, 0, 64, 96])[0])
    assert torch.equal(numbers(size=(32, 80)), sinusoids([32, 80, 0, 0, 32, 80])[0])
    asked = numbers(size=(32, 80), original=(500, 600), crop=(7, 8), target=(9, 10))
    assert torch.equal(asked, sinusoids([500, 600, 7, 8, 9, 10])[0])
    assert torch.equal(asked[256:512], timestep_embedding(torch.tensor([600.0]), 256)[0])


def test_the_blank_is_zeros_that_know_the_size(two: TwoTextConditioner) -> None:
    blank = two.blank(3, (32, 80))
    assert blank.context is not None and blank.vector is not None and len(blank) == 3
    assert blank.context.shape == (3, 16, 80) and not blank.context.any() and not blank.vector[:, :40].any()
    assert torch.equal(blank.vector[2, 40:], sinusoids([32, 80, 0, 0, 32, 80])[0])


def test_a_refiner_reads_one_encoder_and_a_score(two: TwoTextConditioner) -> None:
    refiner = TwoTextConditioner(two.readers[1:], (64, 96), numbers="score", zeros=False)
    cond, blank = refiner(["red apple"]), refiner.blank()
    assert cond.context is not None and cond.context.shape == (1, 16, 48)
    assert cond.vector is not None and torch.equal(cond.vector[0, 40:], sinusoids([64, 96, 0, 0, 6.0])[0])
    assert blank.context is not None and torch.equal(blank.context, refiner([""]).context)  # type: ignore[arg-type]
    assert blank.vector is not None and torch.equal(blank.vector[0, 40:], sinusoids([64, 96, 0, 0, 2.5])[0])


def test_a_long_prompt_is_read_in_windows_and_its_first_one_is_projected(two: TwoTextConditioner) -> None:
    first = "a b c d e f g h i j k l m n"
    long, short = two([f"{first} o p q"]), two([first])
    assert long.context is not None and short.context is not None
    assert long.context.shape == (1, 32, 80)
    torch.testing.assert_close(long.context[:, :16], short.context)
    torch.testing.assert_close(long.vector, short.vector)


def test_a_weight_moves_the_states_and_not_the_projection(two: TwoTextConditioner) -> None:
    plain, heavy, empty = two(["a b"]), two(["a (b:2)"]), two([""])
    assert plain.context is not None and heavy.context is not None and empty.context is not None
    torch.testing.assert_close(heavy.context[0, 2], 2 * plain.context[0, 2] - empty.context[0, 2])
    torch.testing.assert_close(heavy.context[0, :2], plain.context[0, :2])
    torch.testing.assert_close(heavy.vector, plain.vector)


def test_prompts_are_read_once(two: TwoTextConditioner) -> None:
    read = two.read(["red apple", "blue fish", "red apple"])
    assert read[0] is read[2] and two.read(read) == read
    for part in ("context", "vector"):
        assert torch.equal(getattr(two(read), part), getattr(two(["red apple", "blue fish", "red apple"]), part))


def test_encoders_that_do_not_fit_are_refused(two: TwoTextConditioner) -> None:
    with pytest.raises(ValueError, match="no projection"):
        TwoTextConditioner(two.readers[:1], (64, 96))
    with pytest.raises(ValueError, match="different tokens"):
        TwoTextConditioner([(Tokenizer(600, 16), two.readers[0][1]), two.readers[1]], (64, 96))
    with pytest.raises(TypeError, match="not a single one"):
        two("red apple")
