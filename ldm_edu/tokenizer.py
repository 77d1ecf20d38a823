"""CLIP's byte-pair encoding: text to the integers that its text transformer reads (Radford et al. 2021, section 2.4).

Byte-pair encoding (Sennrich et al. 2016, algorithm 1) starts from the letters of a word and joins the pair that comes
first in a list of 48,894 merges, again and again, until no pair of the word is in the list: frequent words end as one
token, rare ones as several. It works on the bytes of UTF-8, so no text is outside its vocabulary.

>>> tok = Tokenizer()
>>> ids = tok.encode("Red apple, 3d style")
>>> ids
[736, 3055, 267, 274, 323, 1844]
>>> [tok.decode([i]) for i in ids]
['red', 'apple', ',', '3', 'd', 'style']
>>> tok(["red apple", ""]).shape
torch.Size([2, 77])

Which tokenizer this equals: ``CLIPTokenizer`` of `transformers` 5. It composes characters (NFC), lowers them one by
one, and drops white space. Two differences, neither within reach of a prompt: a lone surrogate, which the reference
refuses, reads as "?" here; and a run of more than 16,384 characters without a space is cut there.

CLIP's first release cleaned a text first: curly quotes became straight ones, full-width letters and ligatures plain
letters, and broken encodings and HTML entities what they stood for. Neither `transformers` 5 nor this tokenizer does.
To read such a text as the first release did, give it ``html.unescape(html.unescape(ftfy.fix_text(text)))``.
"""

import gzip
import heapq
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice

import regex
import torch
from torch import Tensor

from ldm_edu.paths import data_dir

START, END = "<|startoftext|>", "<|endoftext|>"
FULL_VOCAB = 49408
_BYTES = 512  # each byte twice: inside a word, and at its end
_SPECIAL = rf"{regex.escape(START)}|{regex.escape(END)}"
_RUN = regex.compile(rf"{_SPECIAL}|(?:(?!{_SPECIAL})\S){{1,16384}}")  # the bound keeps a megabyte without spaces quick
_WORD = regex.compile(rf"{_SPECIAL}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+")


@dataclass(frozen=True)
class Tokenizer:
    """Text to tokens and back.

    Parameters
    ----------
    vocab
        number of tokens: 512 bytes, the first ``vocab - 514`` merges, start and end. The full 49,408 is CLIP's; a
        small model does with fewer, and spells rare words out.
    length
        number of tokens of every text after padding, start and end included.
    pad
        the token that fills a text up behind its end. None: the end token again, as CLIP has it. OpenCLIP has 0, which
        is "!" before more punctuation; a "!" that stands alone is token 256, and stays so.

    Raises
    ------
    ValueError
        if ``vocab`` is not between 514 and 49,408, ``length`` leaves no room for start and end, or ``pad`` is not a
        token.
    """

    vocab: int = FULL_VOCAB
    length: int = 77
    pad: int | None = None

    def __post_init__(self) -> None:
        if not _BYTES + 2 <= self.vocab <= FULL_VOCAB:
            raise ValueError(f"vocab={self.vocab}: choose between {_BYTES + 2} (bytes only) and {FULL_VOCAB} (CLIP's)")
        if self.length < 2:
            raise ValueError(f"length={self.length} leaves no room for the start and end tokens; choose 2 or more")
        if self.pad is not None and not 0 <= self.pad < self.vocab:
            raise ValueError(f"pad={self.pad} is not a token of this vocabulary; choose one from 0 to {self.end}")

    @property
    def start(self) -> int:
        """The token every text begins with."""
        return self.vocab - 2

    @property
    def end(self) -> int:
        """The token every text ends with."""
        return self.vocab - 1

    @property
    def padding(self) -> int:
        """The token behind the end."""
        return self.end if self.pad is None else self.pad

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts to tokens (B, length), int64: start, the text's first ``length - 2`` tokens, end, padding.

        What does not fit is dropped; `truncated` tells what that is.
        """
        if isinstance(texts, str):
            raise TypeError(f"pass a list of texts, [{texts[:20]!r}], not a single one")
        rows = [self.padded(list(islice(self._tokens(text), self.length - 2))) for text in texts]
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), self.length)  # (B, length)

    def padded(self, tokens: Sequence[int]) -> list[int]:
        """Start, at most ``length - 2`` tokens, end, and padding up to ``length``."""
        return [self.start, *tokens, self.end, *[self.padding] * (self.length - 2 - len(tokens))]

    def encode(self, text: str) -> list[int]:
        """All tokens of a text, without start and end, however many."""
        return list(self._tokens(text))

    def words(self, text: str) -> Iterator[Sequence[int]]:
        """The tokens of a text, without start and end, word by word: `encode`, not yet joined.

        >>> [len(word) for word in Tokenizer().words("a photograph, unphotogenic")]
        [1, 1, 1, 2]
        """
        for run in _RUN.finditer(_utf8(text)):
            yield from self._run_words(run[0])

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens, in lower case, one space after each word; start and end are left out.

        Raises
        ------
        ValueError
            if a token is not in the vocabulary.
        """
        pieces, ids = _vocabulary(self.vocab).pieces, [int(i) for i in tokens]
        if bad := [i for i in ids if not 0 <= i < self.vocab]:
            raise ValueError(f"token {bad[0]} is not in this vocabulary, which ends at {self.vocab - 1}")
        text = b"".join(pieces[i] for i in ids if i < self.start)
        return text.decode(errors="replace").strip()

    def truncated(self, text: str) -> str | None:
        """The end of a text that `__call__` drops, from the first word that is not read whole; None if all is read."""
        room = self.length - 2
        for run in _RUN.finditer(_utf8(text)):
            room -= len(self._run_tokens(run[0]))
            if room < 0:
                return _utf8(text)[run.start() :].rstrip()
        return None

    def files(self) -> dict[str, str]:
        """The text of the files from which `transformers` makes the same tokenizer, by their names."""
        known = _vocabulary(self.vocab)
        pad = END if self.pad is None else next(piece for piece, token in known.ids.items() if token == self.pad)
        special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
        config = special | {"model_max_length": self.length, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
        merges = [f"{left} {right}" for left, right in known.ranks]
        return {
            "vocab.json": json.dumps(known.ids | {START: self.start, END: self.end}, ensure_ascii=False),
            "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
            "special_tokens_map.json": json.dumps(special, indent=2),
            "tokenizer_config.json": json.dumps(config, indent=2),
        }

    def _tokens(self, text: str) -> Iterator[int]:
        for run in _RUN.finditer(_utf8(text)):
            yield from self._run_tokens(run[0])

    def _run_tokens(self, run: str) -> Sequence[int]:
        return [token for word in self._run_words(run) for token in word]

    def _run_words(self, run: str) -> Iterator[Sequence[int]]:
        if run in (START, END):
            yield (self.start if run == START else self.end,)
        else:
            yield from (_byte_pairs(word, self.vocab) for word in _words(_lower(run)))


@dataclass(frozen=True)
class _Vocabulary:
    ranks: dict[tuple[str, str], int]  # pair of symbols -> place in the list of merges
    ids: dict[str, int]  # symbol -> token
    pieces: list[bytes]  # token -> its bytes, a space at the end of a word


@cache
def _alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in the vocabulary file, in the order of their tokens.

    Printable bytes of Latin-1 stand for themselves, the other 68 are given the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


@cache
def _vocabulary(vocab: int) -> _Vocabulary:
    path = data_dir() / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in islice(file, 1, 1 + vocab - _BYTES - 2)]  # line 0 is a title
    ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
    letters = list(_alphabet().values())
    symbols = letters + [c + "</w>" for c in letters] + [left + right for left, right in ranks]
    byte_of = {c: bytes([byte]) for byte, c in _alphabet().items()}
    pieces = [
        b"".join(byte_of[c] for c in symbol.removesuffix("</w>")) + b" " * symbol.endswith("</w>") for symbol in symbols
    ]
    return _Vocabulary(ranks, {symbol: i for i, symbol in enumerate(symbols)}, pieces)


@lru_cache(maxsize=8192)
def _byte_pairs(word: str, vocab: int) -> tuple[int, ...]:
    """The tokens of one word: join the pair of lowest rank, the leftmost first, until no known pair is left.

    The symbols are a linked list and the known pairs a heap, so that n bytes take n log n time. A pair in the heap
    whose symbols have been joined to others since is recognised by its rank, and skipped.
    """
    known, alphabet = _vocabulary(vocab), _alphabet()
    symbols = [alphabet[byte] for byte in word.encode()]
    symbols[-1] += "</w>"
    before, after = list(range(-1, len(symbols) - 1)), list(range(1, len(symbols) + 1))

    def rank(i: int) -> int | None:
        """The rank of symbol i and the one after it; None if there is none, or they are not to be joined."""
        return known.ranks.get((symbols[i], symbols[after[i]])) if i >= 0 and after[i] < len(symbols) else None

    heap = [(found, i) for i in range(len(symbols)) if (found := rank(i)) is not None]
    heapq.heapify(heap)
    while heap:
        lowest, i = heapq.heappop(heap)
        if rank(i) != lowest:
            continue
        j = after[i]
        symbols[i], symbols[j], after[i] = symbols[i] + symbols[j], "", after[j]
        if after[i] < len(symbols):
            before[after[i]] = i
        for k in (before[i], i):
            if (found := rank(k)) is not None:
                heapq.heappush(heap, (found, k))
    return tuple(known.ids[symbol] for symbol in symbols if symbol)


def _words(run: str) -> Iterator[str]:
    """Letters, single digits, punctuation, each by themselves."""
    for word in _WORD.findall(run):
        # a special token in capitals: lowering made it look like one, yet it is text, and splits like this
        yield from (word[:2], word[2:-2], word[-2:]) if word in (START, END) else (word,)


def _utf8(text: str) -> str:
    """The text with each lone surrogate, which has no UTF-8, as "?"."""
    return text.encode(errors="replace").decode()


def _lower(text: str) -> str:
    """Composed and in lower case, each character by itself: a sigma at the end of a word is no special case."""
    return unicodedata.normalize("NFC", text).replace("Σ", "σ").lower()
