"""Weights and windows of prompts: what people write, and what they mistype."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_edu.prompts import HEAVIEST, MOST_CHUNKS, Span, chunks, escape, parse, remarks
from ldm_edu.tokenizer import Tokenizer

SMALL = Tokenizer(vocab=1024, length=8)


def weighed(prompt: str) -> list[tuple[str, float]]:
    return [(span.text, round(span.weight, 4)) for span in parse(prompt)]


@pytest.mark.parametrize(
    "prompt, spans",
    [
        ("red apple", [("red apple", 1)]),
        ("", []),
        ("(red) apple", [("red", 1.1), (" apple", 1)]),
        ("[red] apple", [("red", 0.9091), (" apple", 1)]),
        ("(red:1.3) apple", [("red", 1.3), (" apple", 1)]),
        ("(red : 1.3 )", [("red ", 1.3)]),
        ("(red:.5)(blue:2.)", [("red", 0.5), ("blue", 2)]),
        ("(red:0)(blue:-1)", [("red", 0), ("blue", -1)]),
        ("((red))", [("red", 1.21)]),
        ("([red])", [("red", 1)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3), (" c", 1.5)]),
        ("(a (b:2):1.5)", [("a ", 1.5), ("b", 3)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("() (:1.3) []", [("  ", 1)]),
    ],
)
def test_the_notation(prompt: str, spans: list[tuple[str, float]]) -> None:
    assert weighed(prompt) == spans


@pytest.mark.parametrize(
    "prompt, spans",
    [
        ("(red", [("(red", 1)]),
        ("red)", [("red)", 1)]),
        (":-) (:", [(":-) (:", 1)]),
        ("([a)]", [("(", 1), ("a)", 0.9091)]),
        ("(a (b)", [("(a ", 1), ("b", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:nan)(b:inf)(c:1e9)", [("a:nanb:infc:1e9", 1.1)]),
        ("[a:1.3]", [("a:1.3", 0.9091)]),  # brackets take no number
        ("a:1.3", [("a:1.3", 1)]),
        (r"\(a\) \[b\] \\ \c", [(r"(a) [b] \ \c", 1)]),
        (r"(a\):2)", [("a)", 2)]),
        ("\\", [("\\", 1)]),
    ],
)
def test_what_is_no_weight_is_text(prompt: str, spans: list[tuple[str, float]]) -> None:
    assert weighed(prompt) == spans


def test_weights_are_bounded() -> None:
    assert parse("(" * 999 + "a" + ")" * 999) == [Span("a", HEAVIEST)]
    assert parse("(a:99999)(b:-99999)") == [Span("a", HEAVIEST), Span("b", -HEAVIEST)]


def test_many_parentheses_take_no_time() -> None:
    assert len(parse("(" * 200_000)) == 1
    assert weighed("[" * 100_000 + "a" + "]" * 100_000) == [("a", 0.0)]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab ()[]\\:1.", max_size=30))
def test_any_text_can_be_said_as_it_stands(text: str) -> None:
    assert "".join(span.text for span in parse(escape(text))) == text
    assert all(span.weight == 1 for span in parse(escape(text)))
    assert all(span.text for span in parse(text))


# --- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", " ", "()", "red", "a b c d e f", "漢", "<|endoftext|> a"])
def test_a_short_prompt_reads_as_the_tokenizer_has_it(prompt: str) -> None:
    read = chunks(SMALL, prompt)
    assert torch.equal(read.tokens, SMALL([prompt.replace("()", "")])) and read.whole
    assert (read.weights == 1).all()


def test_windows_follow_one_another() -> None:
    read = chunks(SMALL, "a b c d e f g h (i j:2) k l m n")
    assert read.tokens.shape == read.weights.shape == (3, 8)
    said = [SMALL.decode(row.tolist()) for row in read.tokens]
    assert said == ["a b c d e f", "g h i j k l", "m n"]
    assert read.weights.tolist()[1] == [1, 1, 1, 2, 2, 1, 1, 1]
    assert (read.tokens[:, 0] == SMALL.start).all() and (read.tokens[:, -1] == SMALL.end).all()


def test_a_word_is_not_cut_in_two_unless_it_must_be() -> None:
    (word,) = list(SMALL.words("photograph"))
    assert 2 < len(word) <= 6, "choose another word"
    read = chunks(SMALL, "a b c d e photograph")
    assert [SMALL.decode(row.tolist()) for row in read.tokens] == ["a b c d e", "photograph"]
    long = chunks(SMALL, "a " + "x" * 50)
    flat = [t for row in long.tokens.tolist() for t in row if t < SMALL.start]
    assert flat == SMALL.encode("a " + "x" * 50) and len(long.tokens) == -(-len(flat) // 6)


def test_ten_thousand_words_end_somewhere() -> None:
    read = chunks(Tokenizer(), "word " * 10_000)
    assert read.tokens.shape == (MOST_CHUNKS, 77) and not read.whole
    assert chunks(Tokenizer(), "word " * 75 * MOST_CHUNKS).whole
    assert not chunks(SMALL, "a b c d e f g", most=1).whole


# --- notation of other programs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, windows",
    [
        ("a cat BREAK a dog", ["a cat", "a dog"]),
        ("BREAK a cat BREAK BREAK a dog BREAK", ["a cat", "a dog"]),  # none of padding alone
        ("(a cat BREAK a dog:1.3)", ["a cat", "a dog"]),
        ("(a cat) BREAK (a dog:1.3)", ["a cat", "a dog"]),
        ("a cat,BREAK,a dog", ["a cat ,", ", a dog"]),
        ("a b c d e f BREAK g", ["a b c d e f", "g"]),
        ("a b c d e f g BREAK h i", ["a b c d e f", "g", "h i"]),
        ("BREAK photograph", ["photograph"]),
        ("BREAK", [""]),
    ],
)
def test_break_starts_a_window(prompt: str, windows: list[str]) -> None:
    read = chunks(SMALL, prompt)
    assert [SMALL.decode(row.tolist()) for row in read.tokens] == windows
    assert read.whole
    assert torch.equal(chunks(SMALL, escape("a BREAK b")).tokens, SMALL(["a break b"]))


def test_break_is_a_word_but_in_capitals_by_itself() -> None:
    assert len(chunks(Tokenizer(), "a break BREAKFAST Break").tokens) == 1


def test_weights_go_on_after_break() -> None:
    read = chunks(SMALL, "a (cat BREAK a:2) dog")
    assert read.weights[:, 1:3].tolist() == [[1, 2], [2, 1]]


@pytest.mark.parametrize(
    "prompt, sentence",
    [
        ("a cat AND a dog", "'AND' is read as words: prompts joined by AND"),
        ("[cat:dog:0.5]", "'[cat:dog:0.5]' is read as words: a prompt that changes from step to step"),
        ("a [cat : dog : .25] x", "'[cat : dog : .25]' is read as words"),
        ("a [dog:12]", "'[dog:12]' is read as words"),
        ("a [cat|dog]", "'[cat|dog]' is read as words"),
        ("<lora:style:0.8> a cat", "'<lora:style:0.8>' is read as words: files to load"),
        ("a cat BREAK a dog", "BREAK starts a new window"),
    ],
)
def test_notation_of_other_programs_is_named(prompt: str, sentence: str) -> None:
    (said,) = remarks([prompt, prompt])
    assert said.startswith(sentence)
    assert remarks([], negative=prompt, guidance=7.5) == [said]


@pytest.mark.parametrize(
    "prompt", ["a cat and a dog", "[a cat]", "(a:1.3)", r"\[cat:dog:0.5\]", "a < b", "16:9", "SAND", ""]
)
def test_what_is_read_as_it_looks_is_not_named(prompt: str) -> None:
    assert remarks([prompt]) == []


def test_a_negative_prompt_needs_guidance() -> None:
    (said,) = remarks(["a cat"], "ugly", 1.0)
    assert said == "the negative prompt 'ugly' has no effect with guidance 1; choose a guidance above 1"
    assert remarks(["a cat"], "ugly", 1.5) == remarks(["a cat"], "", 1.0) == remarks(["a cat"], "ugly") == []
