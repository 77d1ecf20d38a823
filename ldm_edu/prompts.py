"""What a prompt says besides its words: weights in parentheses; and prompts longer than the text encoder's window.

>>> [(span.text, round(span.weight, 3)) for span in parse("a (red:1.5) apple on [a (plate)]")]
[('a ', 1.0), ('red', 1.5), (' apple on ', 1.0), ('a ', 0.909), ('plate', 1.0)]

The notation is the one that people write for Stable Diffusion: ``(word)`` multiplies the weight of what it encloses by
1.1, ``[word]`` divides it by 1.1, ``(word:1.3)`` multiplies it by 1.3; enclosures multiply. A parenthesis without a
partner is text, and so is one after a backslash: ``\\\\(``. The word ``BREAK`` starts a new window. Other notation of
the same origin is read as words: `remarks` says so.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ldm_edu.tokenizer import Tokenizer

EMPHASIS = 1.1  # what a pair of parentheses is worth
HEAVIEST = 10.0  # no weight goes beyond it, whatever is multiplied
MOST_CHUNKS = 32  # 2,400 tokens for Stable Diffusion; nobody means more, and attention to it takes its time

_PARTNER = {")": "(", "]": "["}
_TOKEN = re.compile(r"\\[()\[\]\\]|[()\[\]]|[^()\[\]\\]+|\\")  # an escape, a bracket, text, a backslash by itself
_BREAK = re.compile(r"\bBREAK\b")  # in capitals alone: "a break" is text
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")  # ":1.3", just before a parenthesis closes


_UNSUPPORTED = (  # what is written for other programs, and what it would do there
    (re.compile(r"\bAND\b"), "prompts joined by AND are not supported; write one prompt, with commas"),
    (
        re.compile(r"\[[^\[\]]*(?::\s*\d*\.?\d+\s*|\|[^\[\]]*)\]"),
        "a prompt that changes from step to step is not supported; leave the brackets and the colons out",
    ),
    (
        re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>"),
        "files to load are not supported in a prompt; leave the angle brackets out",
    ),
)


@dataclass(frozen=True)
class Span:
    """A piece of a prompt, and how much its words are to count: 1 is as written."""

    text: str
    weight: float


@dataclass(frozen=True, eq=False)
class Chunks:
    """A prompt as the text encoder reads it, window by window.

    ``tokens`` is (n, length) int64, each row with start, end and padding. ``weights`` is (n, length), 1 for start, end
    and padding. ``padding`` is (n, length) bool, True behind the end token: encoders that differ in nothing else are
    padded with different tokens. ``whole`` is False where the prompt goes on after the last window that is read.
    """

    tokens: Tensor
    weights: Tensor
    padding: Tensor
    whole: bool = True

    @property
    def empty(self) -> bool:
        """Whether the prompt has no word."""
        return len(self.tokens) == 1 and bool(self.padding[0, 2:].all())


def parse(prompt: str) -> list[Span]:
    """A prompt as pieces of equal weight, in their order, none empty; a prompt without words has none.

    >>> parse("a :) smiley [(")                    # nothing closes, nothing opens: text
    [Span(text='a :) smiley [(', weight=1.0)]
    >>> parse(r"a \\(very\\) (nice:2) cat")
    [Span(text='a (very) ', weight=1.0), Span(text='nice', weight=2.0), Span(text=' cat', weight=1.0)]
    """
    pieces = _TOKEN.findall(prompt)
    factors, closing = _pairs(pieces)
    weights, spans = [1.0], list[Span]()
    for i, piece in enumerate(pieces):
        if i in factors:
            weights.append(max(-HEAVIEST, min(HEAVIEST, weights[-1] * factors[i])))
        elif i in closing:
            weights.pop()
        else:
            text = piece[1:] if len(piece) == 2 and piece[0] == "\\" and piece[1] in "()[]\\" else piece
            if i + 1 in closing and pieces[i + 1] == ")":
                text = _NUMBER.sub("", text)
            spans.append(Span(text, weights[-1]))
    return _merged(spans)


def escape(text: str) -> str:
    """The prompt that says a text as it stands, brackets and all; BREAK in lower case, which tokens are anyway.

    >>> parse(escape("f(x) = [x]"))
    [Span(text='f(x) = [x]', weight=1.0)]
    """
    return _BREAK.sub("break", re.sub(r"([()\[\]\\])", r"\\\1", text))


def remarks(prompts: Iterable[str], negative: str = "", guidance: float | None = None) -> list[str]:
    """What of some prompts may not do what it looks like, a sentence each and none twice.

    >>> remarks(["a cat AND a dog"])
    ["'AND' is read as words: prompts joined by AND are not supported; write one prompt, with commas"]
    """
    said = []
    for prompt in dict.fromkeys([*prompts, negative]):
        bare = re.sub(r"\\.", "", prompt)  # a bracket after a backslash is text
        if _BREAK.search(bare):
            said.append("BREAK starts a new window of the text encoder; write break for the word")
        for pattern, sentence in _UNSUPPORTED:
            if found := pattern.search(bare):
                said.append(f"{found[0][:60]!r} is read as words: {sentence}")
    if negative and guidance == 1:
        said.append(f"the negative prompt {negative[:40]!r} has no effect with guidance 1; choose a guidance above 1")
    return list(dict.fromkeys(said))


def chunks(tokenizer: Tokenizer, prompt: str, most: int = MOST_CHUNKS) -> Chunks:
    """A prompt cut into windows of the tokenizer's length, at most ``most`` of them; one of padding if it is empty.

    A word stands in one window whole, unless it is longer than a window. BREAK starts a new window where the last one
    has begun.

    >>> chunks(Tokenizer(length=5), "a red apple, a (blue:1.2) fish").tokens.shape
    torch.Size([3, 5])
    """
    rows: list[list[tuple[int, float]]] = [[]]
    for token, weight, room in _tokens(tokenizer, prompt):
        if rows[-1] and room > tokenizer.length - 2 - len(rows[-1]):
            rows.append([])
        if len(rows) > most:
            break
        rows[-1].append((token, weight))
    kept = rows[:most]
    tokens = torch.tensor([tokenizer.padded([token for token, _ in row]) for row in kept])  # (n, length)
    weights = torch.ones(tokens.shape)  # (n, length)
    for i, row in enumerate(kept):
        weights[i, 1 : 1 + len(row)] = torch.tensor([weight for _, weight in row])
    used = torch.tensor([[len(row) + 2] for row in kept])  # (n, 1) with start and end
    return Chunks(tokens, weights, padding=torch.arange(tokenizer.length) >= used, whole=len(rows) <= most)


def _tokens(tokenizer: Tokenizer, prompt: str) -> Iterator[tuple[int, float, int]]:
    """Each token with its weight and the room that it needs: that of the word which it begins, or its own.

    The first token after BREAK needs a whole window.
    """
    window, broken = tokenizer.length - 2, False  # without start and end
    for span in parse(prompt):
        for i, part in enumerate(_BREAK.split(span.text)):
            broken = broken or i > 0
            for word in tokenizer.words(part):
                for j, token in enumerate(word):
                    room = window if broken else len(word) if j == 0 and len(word) <= window else 1
                    yield token, span.weight, room
                    broken = False


def _pairs(pieces: list[str]) -> tuple[dict[int, float], set[int]]:
    """The brackets that have a partner: the factor of each opening one by its place, and the places of the others."""
    factors: dict[int, float] = {}
    closing: set[int] = set()
    opened: list[int] = []
    for i, piece in enumerate(pieces):
        if piece in ("(", "["):
            opened.append(i)
        elif piece in _PARTNER and opened and pieces[opened[-1]] == _PARTNER[piece]:
            number = _NUMBER.search(pieces[i - 1]) if piece == ")" else None
            factors[opened.pop()] = float(number[1]) if number else EMPHASIS if piece == ")" else 1 / EMPHASIS
            closing.add(i)
    return factors, closing


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Neighbours of one weight joined, empty pieces left out."""
    full = (span for span in spans if span.text)
    return [Span("".join(s.text for s in group), weight) for weight, group in groupby(full, lambda s: s.weight)]
