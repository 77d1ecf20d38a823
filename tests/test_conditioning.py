"""Conditions: made, repeated, joined; blank ones."""

from dataclasses import replace

import pytest
import torch

from ldm_edu.condition import Conditioning
from ldm_edu.conditioners.classes import ClassConditioner
from ldm_edu.conditioners.text import TextConditioner
from ldm_edu.families import TOY
from ldm_edu.models.clip import TextEncoder
from ldm_edu.nn.attention import attend
from ldm_edu.tokenizer import Tokenizer


@pytest.fixture
def text() -> TextConditioner:
    assert TOY.text
    return TextConditioner(Tokenizer(TOY.text.vocab, TOY.text.length), TextEncoder(TOY.text))


def test_prompts_become_the_states_of_their_tokens(text: TextConditioner) -> None:
    cond = text(["red apple", "blue fish", ""])
    assert cond.context is not None and cond.context.shape == (3, 16, 32)
    assert cond.vector is None and cond.concat is None and len(cond) == 3
    assert torch.equal(cond.context, text.encoder(text.tokenizer(["red apple", "blue fish", ""])).last)


def test_an_empty_prompt_is_the_blank(text: TextConditioner) -> None:
    blank = text.blank(2).context
    assert blank is not None and blank.shape == (2, 16, 32)
    assert torch.equal(blank, text(["", ""]).context)


def test_a_condition_does_not_depend_on_its_neighbours(text: TextConditioner) -> None:
    one, many = text(["red apple"]).context, text(["a", "red apple", "(漢)"]).context
    assert one is not None and many is not None
    torch.testing.assert_close(one[0], many[1])


def test_prompts_of_different_lengths_are_repeated_to_one_and_attention_does_not_notice(text: TextConditioner) -> None:
    prompts = ["red apple", "a " * 20, "b " * 40]  # 1, 2 and 3 windows of 14 words
    many = text(prompts).context
    assert many is not None and many.shape == (3, 6 * 16, 32)
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    for prompt, row in zip(prompts, many, strict=True):
        alone = text([prompt]).context
        assert alone is not None
        torch.testing.assert_close(attend(x, row[None], row[None]), attend(x, alone, alone))
    with pytest.raises(ValueError, match="by themselves"):
        text(["a " * 14 * 5, "b " * 14 * 7])


def test_a_long_prompt_is_read_in_windows(text: TextConditioner) -> None:
    words = ["a b c d e f g h i j k l m n", "o p q r s t u v w x y z a b", "c d"]
    whole, parts = text([" ".join(words)]).context, text(words).context
    assert whole is not None and parts is not None
    torch.testing.assert_close(whole[0], torch.cat(list(parts)))


def test_a_weight_moves_a_state_along_the_line_from_the_blank(text: TextConditioner) -> None:
    blank, plain = text([""]).context, text(["a b"]).context
    for weight in (0.0, 0.5, 1.0, 2.0):
        states = text([f"a (b:{weight})"]).context
        assert states is not None and blank is not None and plain is not None
        torch.testing.assert_close(states[0, 2], blank[0, 2] + weight * (plain[0, 2] - blank[0, 2]))
        torch.testing.assert_close(states[0, [0, 1, *range(3, 16)]], plain[0, [0, 1, *range(3, 16)]])
    assert torch.equal(text(["a (b:1)"]).context, plain)  # type: ignore[arg-type]


def test_prompts_are_tokenized_once(text: TextConditioner, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = text(["red apple", "a (b:2)", "red apple"]).context
    read = text.read(["red apple", "a (b:2)", "red apple"])
    assert read[0] is read[2]
    monkeypatch.setattr("ldm_edu.conditioners.text.chunks", lambda *_: pytest.fail("tokenized again"))
    assert wanted is not None and torch.equal(text(read).context, wanted)  # type: ignore[arg-type]


def test_layers_are_left_out_before_the_norm(text: TextConditioner) -> None:
    assert TOY.text
    encoder = TextEncoder(replace(TOY.text, layers=3))
    fewer = TextEncoder(replace(TOY.text, layers=1))
    fewer.load_state_dict(encoder.state_dict(), strict=False)
    skipped = TextConditioner(text.tokenizer, encoder, skip=2)(["a (red:1.3) apple"]).context
    wanted = TextConditioner(text.tokenizer, fewer)(["a (red:1.3) apple"]).context
    assert skipped is not None and wanted is not None and torch.equal(skipped, wanted)
    with pytest.raises(ValueError, match="skip=3 must lie from 0 to 2"):
        TextConditioner(text.tokenizer, encoder, skip=3)


def test_padding_is_the_encoder_s_own(text: TextConditioner) -> None:
    other = TextConditioner(Tokenizer(1024, 16, pad=0), text.encoder)
    assert torch.equal(other(text.read(["red apple"])).context, other(["red apple"]).context)  # type: ignore[arg-type]
    assert not torch.equal(other(["red apple"]).context, text(["red apple"]).context)  # type: ignore[arg-type]


def test_no_prompts_make_no_condition(text: TextConditioner) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        text([])


def test_classes_become_rows_of_the_table() -> None:
    conditioner = ClassConditioner(10, 8)
    vector = conditioner([3, None, 0, 3]).vector
    assert vector is not None and vector.shape == (4, 8)
    assert torch.equal(vector[0], conditioner.table.weight[3]) and torch.equal(vector[0], vector[3])
    assert torch.equal(vector[2], conditioner.table.weight[0])
    assert torch.equal(vector[1], torch.zeros(8))
    assert torch.equal(conditioner.blank(5).vector, torch.zeros(5, 8))


@pytest.mark.parametrize("label", [-1, 10, "shoes"])
def test_labels_that_are_no_class_are_refused(label: object) -> None:
    with pytest.raises(ValueError, match="0 to 9"):
        ClassConditioner(10, 8)([1, label])  # type: ignore[list-item]


def test_repeat_keeps_neighbours_together() -> None:
    cond = Conditioning(context=torch.arange(2.0).view(2, 1, 1), vector=torch.arange(2.0).view(2, 1)).repeat(3)
    assert cond.context is not None and cond.vector is not None
    assert cond.context.flatten().tolist() == cond.vector.flatten().tolist() == [0, 0, 0, 1, 1, 1]


def test_cat_joins_every_part() -> None:
    a = Conditioning(torch.zeros(1, 3, 2), torch.zeros(1, 4), torch.zeros(1, 1, 2, 2))
    b = Conditioning(torch.ones(2, 3, 2), torch.ones(2, 4), torch.ones(2, 1, 2, 2))
    both = Conditioning.cat([a, b])
    assert both.context is not None and both.vector is not None and both.concat is not None
    assert both.context.shape == (3, 3, 2) and both.vector.shape == (3, 4) and both.concat.shape == (3, 1, 2, 2)
    assert both.context[0].sum() == 0 and both.context[2].sum() == 6


def test_conditions_of_different_kinds_make_no_batch() -> None:
    with pytest.raises(ValueError, match=r"context of shapes \(1, 3, 2\), none"):
        Conditioning.cat([Conditioning(torch.zeros(1, 3, 2)), Conditioning()])
    with pytest.raises(ValueError, match="same conditioner"):
        Conditioning.cat([Conditioning(torch.zeros(1, 3, 2)), Conditioning(torch.zeros(1, 4, 2))])


def test_parts_of_different_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] pictures"):
        Conditioning(torch.zeros(1, 3, 2), torch.zeros(2, 4))


def test_an_unconditional_condition_fits_any_batch() -> None:
    none = Conditioning()
    assert len(none) == 0
    for same in (none.repeat(4), none.to("cpu", torch.bfloat16), Conditioning.cat([none, none])):
        assert same.context is None and same.vector is None and same.concat is None


def test_to_changes_every_part() -> None:
    cond = Conditioning(torch.zeros(1, 3, 2), torch.zeros(1, 4)).to(dtype=torch.float64)
    assert cond.context is not None and cond.vector is not None
    assert cond.context.dtype == cond.vector.dtype == torch.float64
