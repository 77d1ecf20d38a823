"""Byte pairs: round trips, padding, truncation, small vocabularies, hostile text."""

import pickle

import pytest
import torch

from ldm_edu.tokenizer import FULL_VOCAB, Tokenizer, _byte_pairs, _vocabulary

TOK = Tokenizer()


def test_vocabulary_has_clip_s_size_and_no_twins() -> None:
    known = _vocabulary(FULL_VOCAB)
    assert len(known.ids) == len(known.pieces) == FULL_VOCAB - 2
    assert len(known.ranks) == 48_894
    assert (TOK.start, TOK.end) == (49406, 49407)


def test_known_words_are_single_tokens() -> None:
    assert TOK.encode("a photo of an astronaut") == [320, 1125, 539, 550, 18376]
    assert TOK.encode("A  Photo\tOF\nan astronaut ") == TOK.encode("a photo of an astronaut")


def test_rows_begin_end_and_are_padded() -> None:
    rows = TOK(["red apple", ""])
    assert rows.dtype == torch.int64 and rows.shape == (2, 77)
    assert rows[0].tolist() == [TOK.start, 736, 3055] + [TOK.end] * 74
    assert rows[1].tolist() == [TOK.start] + [TOK.end] * 76
    assert TOK([]).shape == (0, 77)


def test_what_does_not_fit_is_dropped_and_can_be_asked_for() -> None:
    tok = Tokenizer(length=6)
    assert tok(["one two three four"])[0].tolist() == [tok.start, *tok.encode("one two three four"), tok.end]
    assert tok.truncated("one two three four ") is None
    assert tok(["one two three four five six"])[0].tolist() == tok(["one two three four"])[0].tolist()
    assert tok.truncated("One two three four Five, six ") == "Five, six"
    assert Tokenizer(length=2).truncated("a") == "a"


def test_a_word_cut_in_the_middle_counts_as_dropped() -> None:
    tok = Tokenizer(vocab=514, length=5)  # one token a letter
    assert tok.decode(tok(["ab cd"])[0].tolist()) == "ab c"
    assert tok.truncated("ab cd") == "cd"


@pytest.mark.parametrize("text", ["red apple", "ñandú, 漢字!", "3 d", "👩🏽‍🚀", "مرحبا بالعالم", "it 's"])
def test_decoding_gives_the_text_back(text: str) -> None:
    for vocab in (514, 700, 8192, FULL_VOCAB):
        tok = Tokenizer(vocab)
        assert tok.decode(tok.encode(text)).replace(" ", "") == text.replace(" ", "")
    assert TOK.decode(TOK([text])[0]).replace(" ", "") == text.replace(" ", "")  # start, end and padding are left out


def test_half_a_character_decodes_to_a_replacement() -> None:
    tok = Tokenizer(514)
    assert tok.decode(tok.encode("漢")[:2]) == "\ufffd"


def test_a_smaller_vocabulary_keeps_the_first_merges() -> None:
    for vocab in (514, 515, 1024, 8192):
        tok = Tokenizer(vocab)
        ids = tok.encode("the noise of a thousand lions ✨")
        assert max(ids) < tok.start == vocab - 2
        assert all(i < vocab - 2 for i in tok.encode("in the"))
    assert len(Tokenizer(514).encode("the")) == 3
    assert len(Tokenizer(1024).encode("the")) == 1
    small, full = _vocabulary(1024), _vocabulary(FULL_VOCAB)
    assert list(full.ranks)[: len(small.ranks)] == list(small.ranks)


@pytest.mark.parametrize("vocab", [0, 513, FULL_VOCAB + 1])
def test_impossible_vocabularies_are_refused(vocab: int) -> None:
    with pytest.raises(ValueError, match=str(vocab)):
        Tokenizer(vocab)


def test_no_room_for_start_and_end_is_refused() -> None:
    with pytest.raises(ValueError, match="length=1"):
        Tokenizer(length=1)


def test_a_single_string_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        TOK("red apple")


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="49408"):
        TOK.decode([320, 49408])


@pytest.mark.parametrize(
    "text",
    [
        "red apple, 3d style " * 50_000,
        "x" * 1_000_000,
        " " * 1_000_000 + "apple",
        "a" + "\u0315" * 500_000 + "\u0323" * 500_000,  # marks that must be reordered
        "👨‍👩‍👧" * 200_000,
        "\x00" * 1_000_000,
        "<|endoftext|>" * 80_000,
    ],
    ids=["words", "one word", "spaces", "marks", "emoji", "nulls", "ends"],
)
def test_a_million_characters(text: str) -> None:
    """Quick enough not to be noticed: quadratic code would hang here."""
    row = TOK([text])[0]
    assert row[0] == TOK.start and row[-1] == TOK.end
    dropped = TOK.truncated(text)
    if text.endswith(" apple"):
        assert dropped is None
    else:
        assert dropped and text.rstrip().endswith(dropped)


def test_a_long_prompt_begins_like_its_beginning() -> None:
    text = "".join(chr(97 + (i * i * 7919 >> 5) % 26) for i in range(20_000))
    assert TOK([text])[0].tolist() == TOK([text[:15_000]])[0].tolist()
    assert TOK.encode(text)[:1000] == list(_byte_pairs(text, FULL_VOCAB))[:1000]


@pytest.mark.parametrize("text", ["\ud800", "a\udcff b", "\ud83d\ude00"])
def test_lone_surrogates_read_as_question_marks(text: str) -> None:
    safe = "".join("?" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert TOK.encode(text) == TOK.encode(safe)
    assert "\ud800" not in (Tokenizer(length=2).truncated(text) or "")


def test_a_written_special_token_counts_as_one() -> None:
    assert TOK.encode("a<|endoftext|>b") == [320, TOK.end, 321]
    assert TOK.end not in TOK.encode("<|ENDOFTEXT|>")


def test_tokenizers_travel_between_processes() -> None:
    tok = pickle.loads(pickle.dumps(Tokenizer(1024, 16)))
    assert tok == Tokenizer(1024, 16)
    assert tok.encode("apple") == Tokenizer(1024, 16).encode("apple")


def test_another_padding() -> None:
    tok = Tokenizer(length=8, pad=0)
    assert tok(["red !", ""]).tolist() == [[49406, 736, 256, 49407, 0, 0, 0, 0], [49406, 49407] + [0] * 6]
    assert tok(["!! !!!", "x " * 9]).tolist()[0][1:4] == [748, 995, 49407]
    assert tok(["x " * 9]).tolist()[0][-1] == 49407
    assert '"pad_token": "!"' in tok.files()["special_tokens_map.json"]
    with pytest.raises(ValueError, match="pad=1024 is not a token"):
        Tokenizer(1024, pad=1024)
