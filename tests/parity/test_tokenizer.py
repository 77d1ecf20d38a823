"""Our tokens against those of the reference, `transformers.CLIPTokenizer`, on more than 10,000 strings."""

import gzip
import html
import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ftfy
import pytest

from ldm_edu.paths import data_dir
from ldm_edu.tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


def merges() -> list[str]:
    text = gzip.decompress((data_dir() / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    return text.split("\n")[1 : 1 + 48_894]


def build_reference(folder: Path, vocab: int) -> Any:
    """The reference tokenizer from the vocabulary file alone: nothing is downloaded, none of our code is used."""
    kept = merges()[: vocab - 514]
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    symbols = letters + [c + "</w>" for c in letters] + [merge.replace(" ", "") for merge in kept]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *kept, ""]))
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_reference(tmp_path_factory.mktemp("reference"), 49408)


PROMPT = (
    "a the red blue big apple fish rocket style 3d flat smiling face with heart-eyes don't we'll they've I'm it's "
    "he'd rock'n'roll café naïve Straße ILLUSTRATION, trending on artstation; 4k --ar 16:9 (masterpiece:1.3) [[x]] #1 "
    "e=mc² 50% $9.99 https://example.org/a?b=c&d=e user@example.org C++ snake_case CamelCase ... ?!?! — “quoted” ‘one’"
)
PLAIN = PROMPT.split()
SCRIPTS = {  # a range of letters, digits and marks of each
    "latin": (0x00C0, 0x024F), "greek": (0x0370, 0x03FF), "cyrillic": (0x0400, 0x04FF), "hebrew": (0x0590, 0x05FF),
    "arabic": (0x0600, 0x06FF), "devanagari": (0x0900, 0x097F), "thai": (0x0E00, 0x0E7F), "hangul": (0xAC00, 0xAFFF),
    "jamo": (0x1100, 0x11FF), "kana": (0x3040, 0x30FF), "han": (0x4E00, 0x9FA5), "full width": (0xFF01, 0xFFEE),
    "maths": (0x1D400, 0x1D7FF), "numbers": (0x2150, 0x218B), "symbols": (0x2190, 0x27BF), "marks": (0x0300, 0x036F),
    "spaces": (0x2000, 0x206F), "control": (0x0000, 0x00A0), "private": (0xE000, 0xE100), "tags": (0xE0020, 0xE007F),
}  # fmt: skip
FACES = [chr(c) for c in (*range(0x1F300, 0x1F650), *range(0x1F900, 0x1F9FF))]
JOINERS = ["\u200d", "\ufe0f", "\U0001f3fb", "\U0001f3ff", "\u20e3", "", " "]
HOSTILE = [
    "", " ", "\x00", "\x00a\x00b", "\ufeffapple", "\ufffe\uffff", "a\u0301\u0323\u0302\u0315" * 9, "\u202eabc\u202c",
    "Z̸̡͎̈́a̷̤̔l̷̠̇g̶̱̃o̵", "<|startoftext|>", "<|endoftext|>", "a<|endoftext|>b<|startoftext|><|endoftext|>",
    "<|STARTOFTEXT|>!", "!<|EndOfText|>!", " <|Startoftext|>", "<|startof", "<||endoftext|>", "<|start\u200doftext|>",
    "</w>", "a</w> b", "ΣΑΣ ΌΣΟΣ ς", "İstanbul ıI", "ǅ ǈ ﬁ ﬀ ẞ", "Å Å Å", "한글 한글", "x" * 5000, "!?" * 2500,
    "ab" * 999 + "c", "é" * 1500, "漢" * 3000, "👨‍👩‍👧‍👦" * 400, "1234567890" * 100, "\u0300" * 1000,
    "'s't're've'm'll'd", "'S'T'RE'VE'M'LL'D", "’s don’t", "a\u00a0b\u1680c\u2028d\u3000e\x85f\x1cg\x1fh",
    "\u2000a\u2001b", "🇩🇪🇫🇷🏴󠁧󠁢󠁥󠁮󠁧󠁿", "¼½¾ ⅷ Ⅷ ②",
]  # fmt: skip


def strings(rng: random.Random, count: int) -> Iterator[str]:
    """Texts of every kind that a prompt box sees, and some it should not."""
    yield from HOSTILE
    ranges = list(SCRIPTS.values())
    syllables = [merge.replace(" ", "").replace("</w>", " ") for merge in merges() if merge.isascii()]
    for i in range(count - len(HOSTILE)):
        words = rng.choices(PLAIN, k=rng.randint(1, 12))
        kind = i % 9
        if kind == 0:  # plain, in odd case and spacing
            yield rng.choice([" ", "  ", "\n", "\t", ""]).join(rng.choice([w, w.upper(), w.title()]) for w in words)
        elif kind == 1:  # one script
            low, high = rng.choice(ranges)
            yield "".join(rng.choice([chr(rng.randint(low, high)), " "]) for _ in range(rng.randint(1, 40)))
        elif kind == 2:  # all scripts
            yield "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 30)))
        elif kind == 3:  # emoji with joiners, skin tones, variation selectors
            yield "".join(rng.choice(FACES) + rng.choice(JOINERS) for _ in range(rng.randint(1, 12)))
        elif kind == 4:  # mojibake: UTF-8 read as Latin-1 or Windows-1252, once or twice
            text = " ".join(rng.choices(["café", "“quote”", "naïve—", "漢字", "üñî", "👍", "Ж"], k=4))
            for _ in range(rng.randint(1, 2)):
                text = text.encode().decode(rng.choice(["latin-1", "cp1252"]), errors="replace")
            yield text
        elif kind == 5:  # HTML
            yield html.escape("<b>" + " & ".join(words) + "</b>") + rng.choice(
                ["&nbsp;", "&#x1F600;", "&amp;amp;", "&lt"]
            )
        elif kind == 6:  # letters with marks, composed and decomposed
            text = "".join(rng.choice("aeiouncsÅΣ") + chr(rng.randint(0x300, 0x36F)) * rng.randint(0, 3) for _ in words)
            yield unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC", "NFKD"]), text)
        elif kind == 7:  # pieces of the vocabulary in any order, so that every merge has its turn
            yield "".join(rng.choices(syllables, k=rng.randint(1, 20)))
        else:  # bytes at random, as far as they can be read
            yield rng.randbytes(rng.randint(1, 60)).decode(rng.choice(["utf-8", "utf-16"]), errors="replace")


def assigned(text: str) -> bool:
    """Whether this Python's Unicode tables, which may be older than the reference's, know every character."""
    return all(unicodedata.category(c) != "Cn" for c in text)


@pytest.mark.slow
def test_more_than_ten_thousand_strings(reference: Any) -> None:
    texts = [text for text in strings(random.Random(0), 14_000) if assigned(text)]
    assert len(texts) > 10_000
    tok = Tokenizer()
    theirs = reference(texts).input_ids
    wrong = [
        (text, ours, ids)
        for text, ids in zip(texts, theirs, strict=True)
        if (ours := [tok.start, *tok.encode(text), tok.end]) != ids
    ]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ; the first: {wrong[0]!r}"


def test_every_kind_of_string_is_there() -> None:
    """Guards the test above: its strings must reach each script and use enough of the vocabulary."""
    texts = [text for text in strings(random.Random(0), 14_000) if assigned(text)]
    tok, seen = Tokenizer(), set()
    for text in texts:
        seen.update(tok.encode(text))
    assert len(seen) > 10_000
    everything = "".join(texts)
    assert all(any(chr(low) <= c <= chr(high) for c in everything) for low, high in SCRIPTS.values())


def test_padded_and_truncated_rows(reference: Any) -> None:
    texts = [*PLAIN, " ".join(PLAIN * 3), "", "漢" * 200]
    theirs = reference(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert Tokenizer()(texts).equal(theirs)


def test_decoding(reference: Any) -> None:
    for text in PLAIN:
        ids = reference(text).input_ids
        assert Tokenizer().decode(ids) == reference.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("vocab", [514, 1024, 8192])
def test_smaller_vocabularies(tmp_path: Path, vocab: int) -> None:
    small, tok = build_reference(tmp_path, vocab), Tokenizer(vocab, length=32)
    texts = [text for text in strings(random.Random(1), 400) if assigned(text)]
    theirs = small(texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt").input_ids
    assert tok(texts).equal(theirs)


def as_first_released(text: str) -> str:
    """How CLIP's first release cleaned a text."""
    return html.unescape(html.unescape(ftfy.fix_text(text)))


@pytest.mark.parametrize("text", ["Red apple, 3d style", "a — b … c", "it's 50% of 漢字 ½ café", "smile 😀 :)"])
def test_plain_text_needs_no_cleaning(text: str) -> None:
    assert Tokenizer().encode(text) == Tokenizer().encode(as_first_released(text))


@pytest.mark.parametrize(
    "text, plain", [("“don’t”", '"don\'t"'), ("ＲＥＤ", "red"), ("ﬁsh", "fish"), ("tea &amp; cafÃ©", "tea & café")]
)
def test_what_the_first_release_cleaned_is_read_as_it_is(text: str, plain: str) -> None:
    """As the docstring says, and as the reference does."""
    assert Tokenizer().encode(as_first_released(text)) == Tokenizer().encode(plain) != Tokenizer().encode(text)
