"""Lesson 05, text: the items, their right answers and the mistakes that are recognised."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, whole
from ldm_edu.grading.item import Case, Item, Mistake

# 05.merge

Pair = tuple[str, str]


def merge(parts: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    place = 0
    while place < len(parts):
        if tuple(parts[place : place + 2]) == pair:
            merged.append(pair[0] + pair[1])
            place += 2
        else:
            merged.append(parts[place])
            place += 1
    return merged


def merge_with_a_stack(parts: list[str], pair: Pair) -> list[str]:
    done: list[tuple[str, bool]] = []  # a part, and whether it was made by this merge
    for part in parts:
        if done and (done[-1][0], part) == pair and not done[-1][1]:
            done[-1] = (done[-1][0] + part, True)
        else:
            done.append((part, False))
    return [part for part, _ in done]


def merge_recursively(parts: list[str], pair: Pair) -> list[str]:
    if len(parts) < 2:
        return list(parts)
    if (parts[0], parts[1]) == pair:
        return [parts[0] + parts[1], *merge_recursively(parts[2:], pair)]
    return [parts[0], *merge_recursively(parts[1:], pair)]


def merge_first_only(parts: list[str], pair: Pair) -> list[str]:
    for place in range(len(parts) - 1):
        if (parts[place], parts[place + 1]) == pair:
            return [*parts[:place], pair[0] + pair[1], *parts[place + 2 :]]
    return list(parts)


def merge_from_the_right(parts: list[str], pair: Pair) -> list[str]:
    turned = merge(parts[::-1], (pair[1], pair[0]))
    return [pair[0] + pair[1] if part == pair[1] + pair[0] else part for part in turned][::-1]


def merge_overlapping(parts: list[str], pair: Pair) -> list[str]:
    merged = []
    for place, part in enumerate(parts):
        if tuple(parts[place : place + 2]) == pair:
            merged.append(pair[0] + pair[1])
        elif tuple(parts[place - 1 : place + 1] if place else ()) != pair:
            merged.append(part)
    return merged


def merge_and_keep(parts: list[str], pair: Pair) -> list[str]:
    merged = []
    for place, part in enumerate(parts):
        merged.append(pair[0] + pair[1] if tuple(parts[place : place + 2]) == pair else part)
    return merged


def _words(rng: Generator) -> list[Case]:
    def part(letters: str) -> str:
        return letters[whole(rng, 0, len(letters) - 1)]

    small = [
        (list("banana"), ("a", "n")),
        (list("aaaaa"), ("a", "a")),
        (list("low"), ("e", "r")),
        (["h", "an", "d"], ("an", "d")),
        (["a"], ("a", "a")),
        ([], ("a", "b")),
    ]
    letters = [chr(ord("a") + i) for i in different(rng, 3, 0, 25)]
    few = [f"{one}{one.upper()}" for one in letters]  # a letter, and the capital that is another one
    drawn = [([part(two) for _ in range(whole(rng, 9, 15))], (part(two), part(two))) for two in few]
    return [Case(f"{' '.join(map(repr, parts))} and the pair {pair}", (parts, pair)) for parts, pair in small + drawn]


MERGE = Item(
    "05.merge",
    title="One merge of byte-pair encoding",
    why="Whether 'colour' is one token or three decides what the text encoder can know of it.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=12,
    answer=merge,
    draw=_words,
    others={"a stack": merge_with_a_stack, "recursion": merge_recursively},
    hints=(
        "Go from left to right. Where the next two parts are the pair, put one joined part and go on behind both.",
        "A `while` loop with a place that moves by 2 after a merge, and by 1 otherwise.",
        "All occurrences are merged, from the left: 'a a a a a' becomes 'aa' 'aa' 'a'.",
    ),
    mistakes=(
        Mistake("Only the first occurrence is merged.", merge_first_only),
        Mistake("You merge from the right; where pairs overlap, the left one goes first.", merge_from_the_right),
        Mistake(
            "A part is used twice: after a merge, go on behind both of its parts.",
            merge_overlapping,
        ),
        Mistake("The second part of a merged pair stays: it must go.", merge_and_keep),
        Mistake(
            "A capital is another letter: 'A' and 'a' are two parts.",
            lambda parts, pair: merge([p.lower() for p in parts], (pair[0].lower(), pair[1].lower())),
        ),
    ),
)

# 05.causal_attention


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None = None, diagonal: int = 1) -> Tensor:
    scores = torch.einsum("bhnd,bhld->bhnl", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal)
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(dim=-1) @ v


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ rearrange(k, "b h l d -> b h d l") * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v


def causal_by_a_loop(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for n in range(q.shape[2]):
        weights = (q[:, :, n : n + 1].double() @ k[:, :, : n + 1].double().mT / math.sqrt(q.shape[-1])).softmax(-1)
        rows.append(weights @ v[:, :, : n + 1].double())
    return torch.cat(rows, dim=2)


def _masked_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhnd,bhld->bhnl", q, k) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1).tril() @ v


def _over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhnd,bhld->bhnl", q, k) * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-2) @ v


def _sizes(rng: Generator) -> list[tuple[int, int, int, int]]:
    """Batch, heads, tokens, width: all different, with more tokens than numbers in a head and with fewer."""
    drawn = [different(rng, 4, 2, 6) for _ in range(3)]
    return [(b, h, n + 8, d) if place == 0 else (b, h, n, d + 5) for place, (b, h, n, d) in enumerate(drawn)]


CAUSAL_ATTENTION = Item(
    "05.causal_attention",
    title="Nobody reads ahead",
    why="With a wrong mask it trains and even seems to work, and published weights give other states.",
    kind="implement",
    points=5,
    difficulty=3,
    minutes=18,
    answer=causal_attention,
    draw=lambda rng: [
        Case(
            f"{b} texts, {h} heads, {n} tokens of width {d}",
            tuple(normal(rng, b, h, n, d, gradient=True) for _ in range(3)),
        )
        for b, h, n, d in ((2, 2, 5, 8), (1, 1, 4, 4), *_sizes(rng))
    ],
    others={
        "PyTorch's own": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "token by token, float64": causal_by_a_loop,
    },
    hints=(
        "Softmax(q k^T / sqrt(d)) v, where token n may look at tokens 0 to n only.",
        "Before the softmax, put -inf where a token would look ahead: its weight becomes 0.",
        "`torch.ones(L, L).triu(1)` marks what lies above the diagonal; the diagonal itself stays.",
    ),
    mistakes=(
        Mistake(
            "Every token sees the whole text: the mask is missing.", lambda q, k, v: _attend(q, k, v, causal=False)
        ),
        Mistake(
            "The scores are not divided by sqrt(d): with wide heads the softmax would see only its largest entry.",
            lambda q, k, v: _attend(q, k, v, causal=True, scale=1.0),
        ),
        Mistake(
            "You mask after the softmax: the weights of a token no longer sum to 1.",
            _masked_late,
        ),
        Mistake(
            "The softmax runs over the wrong axis: the weights of one query, over all keys, sum to 1.",
            _over_queries,
        ),
        Mistake(
            "You divide by d; it is the square root of d.",
            lambda q, k, v: _attend(q, k, v, causal=True, scale=1 / q.shape[-1]),
        ),
        Mistake(
            "The diagonal is masked too: a token sees itself, and the first one would see nothing at all.",
            lambda q, k, v: _attend(q, k, v, causal=True, diagonal=0),
        ),
    ),
)

# 05.cross_attention


def cross_attention(x: Tensor, context: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor, heads: int) -> Tensor:
    q = rearrange(x @ to_q, "b n (h d) -> b h n d", h=heads)
    k, v = (rearrange(context @ w, "b l (h d) -> b h l d", h=heads) for w in (to_k, to_v))
    weights = torch.softmax(q @ rearrange(k, "b h l d -> b h d l") * q.shape[-1] ** -0.5, dim=-1)
    return rearrange(weights @ v, "b h n d -> b n (h d)")


def cross_attention_by_torch(
    x: Tensor, context: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor, heads: int
) -> Tensor:
    def split(y: Tensor) -> Tensor:
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    return (
        F.scaled_dot_product_attention(split(x @ to_q), split(context @ to_k), split(context @ to_v))
        .transpose(1, 2)
        .flatten(2)
    )


def cross_attention_head_by_head(
    x: Tensor, context: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor, heads: int
) -> Tensor:
    out = []
    for q, k, v in zip(to_q.chunk(heads, 1), to_k.chunk(heads, 1), to_v.chunk(heads, 1), strict=True):
        scores = torch.einsum("bnd,bld->bnl", x @ q, context @ k) / math.sqrt(q.shape[1])
        out.append(scores.softmax(-1) @ (context @ v))
    return torch.cat(out, dim=-1)


def _cross(
    x: Tensor, context: Tensor, weights: tuple[Tensor, Tensor, Tensor], heads: int, pattern: str, scale: float | None
) -> Tensor:
    q, k, v = (rearrange(y @ w, pattern, h=heads) for y, w in zip((x, context, context), weights, strict=True))
    out = _attend(q, k, v, causal=False, scale=scale)
    left, right = pattern.split(" -> ")
    return rearrange(out, f"{right} -> {left}")


def _pixels_and_words(rng: Generator) -> list[Case]:
    drawn = [(*different(rng, 5, 2, 9), whole(rng, 5, 7), heads) for heads in different(rng, 3, 2, 5)]
    return [
        Case(
            f"{b} pictures of {n} pixels of width {wide}, {words} tokens of width {c}, {heads} heads of {d}",
            (
                normal(rng, b, n, wide, gradient=True),
                normal(rng, b, words, c, gradient=True),
                *(normal(rng, width, heads * d).mul(0.4).requires_grad_() for width in (wide, c, c)),
                heads,
            ),
        )
        for b, n, wide, words, c, d, heads in [(2, 9, 6, 4, 5, 4, 2), (1, 4, 8, 3, 8, 8, 1), *drawn]
    ]


CROSS_ATTENTION = Item(
    "05.cross_attention",
    title="Pixels ask, words answer",
    why="It is the only way by which a prompt reaches the picture.",
    kind="implement",
    points=5,
    difficulty=3,
    minutes=20,
    answer=cross_attention,
    draw=_pixels_and_words,
    others={"PyTorch's own": cross_attention_by_torch, "head by head": cross_attention_head_by_head},
    hints=(
        "Queries come from the pixels `x`, keys and values from the `context`.",
        'Split the heads: `rearrange(x @ to_q, "b n (h d) -> b h n d", h=heads)`, and put them back at the end.',
        "In between: softmax over the tokens of q k^T / sqrt(d), with d the width of one head.",
    ),
    mistakes=(
        Mistake(
            "The heads are split the wrong way round: a head's numbers lie side by side, (h d), not (d h).",
            lambda x, c, q, k, v, heads: _cross(x, c, (q, k, v), heads, "b n (d h) -> b h n d", None),
        ),
        Mistake(
            "The scores are not divided by sqrt(d).",
            lambda x, c, q, k, v, heads: _cross(x, c, (q, k, v), heads, "b n (h d) -> b h n d", 1.0),
        ),
        Mistake(
            "You divide by the root of the whole width; each head has its own, smaller one.",
            lambda x, c, q, k, v, heads: _cross(x, c, (q, k, v), heads, "b n (h d) -> b h n d", q.shape[1] ** -0.5),
        ),
        Mistake(
            "One head: the widths are not split.",
            lambda x, c, q, k, v, heads: _cross(x, c, (q, k, v), 1, "b n (h d) -> b h n d", None),
        ),
        Mistake(
            "Keys and values are exchanged.",
            lambda x, c, q, k, v, heads: _cross(x, c, (q, v, k), heads, "b n (h d) -> b h n d", None),
        ),
    ),
)

# 05.contrastive


def contrastive(image: Tensor, text: Tensor, scale: float) -> Tensor:
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def contrastive_by_logs(image: Tensor, text: Tensor, scale: float) -> Tensor:
    logits = scale * torch.einsum("nd,md->nm", image.double(), text.double())
    return -0.5 * (logits.log_softmax(0).diagonal().mean() + logits.log_softmax(1).diagonal().mean())


def _pairs(rng: Generator) -> list[Case]:
    def units(n: int, width: int) -> Tensor:
        return F.normalize(normal(rng, n, width), dim=-1).requires_grad_()

    drawn = [(tuple(different(rng, 2, 3, 9)), number(rng, 2.0, 20.0)) for _ in range(3)]
    return [
        Case(f"{n} pairs of unit vectors of width {width}, scale {scale}", (units(n, width), units(n, width), scale))
        for (n, width), scale in [((6, 4), 10.0), ((4, 4), 5.0), *drawn]
    ]


CONTRASTIVE = Item(
    "05.contrastive",
    title="What goes together",
    why="This loss alone taught CLIP what words look like, without a single label.",
    kind="implement",
    points=4,
    difficulty=2,
    minutes=12,
    answer=contrastive,
    draw=_pairs,
    others={
        "log-softmax, float64": contrastive_by_logs,
        "logsumexp": lambda i, t, s: (
            ((s * i @ t.T).logsumexp(0) + (s * i @ t.T).logsumexp(1)).mean() / 2 - (s * i * t).sum(1).mean()
        ),
    },
    hints=(
        "The dot products of every picture with every text, times the scale: logits (N, N).",
        "Picture i belongs to text i: a cross-entropy whose right answers are 0, 1, ..., N - 1.",
        "Once over the rows (which text?), once over the columns (which picture?), and the mean of the two.",
    ),
    mistakes=(
        Mistake(
            "Only one direction: pictures look for their texts, texts must look for their pictures too.",
            lambda i, t, s: F.cross_entropy(s * i @ t.T, torch.arange(len(i))),
        ),
        Mistake(
            "The sum of both directions; it is their mean.",
            lambda i, t, s: 2 * contrastive(i, t, s),
        ),
        Mistake(
            "The scale is forgotten: cosines alone make all answers nearly equal.",
            lambda i, t, s: contrastive(i, t, 1.0),
        ),
        Mistake(
            "You divide by the scale; it is one over a temperature already.",
            lambda i, t, s: contrastive(i, t, 1 / s),
        ),
        Mistake(
            "The loss is cut off from the two networks: without a gradient nothing is learned.",
            torch.no_grad()(contrastive),
        ),
    ),
)

# 05.end_state: working code with one planted mistake


def end_state(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    place = (tokens == end).int().argmax(dim=1)
    return states[torch.arange(len(states)), place]


def end_state_by_a_loop(states: Tensor, tokens: Tensor, end: int) -> Tensor:
    return torch.stack([s[row.tolist().index(end)] for s, row in zip(states, tokens, strict=True)])


def _texts(rng: Generator) -> list[Case]:
    clip = torch.tensor([[8, 1, 2, 9, 9, 9], [8, 9, 9, 9, 9, 9], [8, 3, 4, 5, 6, 9]])
    cases = [Case("three texts, padded with the end token 9", (normal(rng, 3, 6, 4, gradient=True), clip, 9))]
    for _ in range(3):
        b, length, width = different(rng, 3, 3, 8)
        start, end, *words = different(rng, 2 + length, 0, 30)
        lengths = [0, length - 2, *(whole(rng, 1, length - 2) for _ in range(b - 2))]
        tokens = torch.tensor([[start, *words[:n], *[end] * (length - 1 - n)] for n in lengths])
        states = normal(rng, b, length, width, gradient=True)
        cases.append(Case(f"{b} texts of {length} tokens, padded with the end token {end}", (states, tokens, end)))
    return cases


END_STATE = Item(
    "05.end_state",
    title="Find the mistake: all texts alike",
    why="It is the vector that retrieval, CLIP scores and SDXL's pooled text are made of.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=10,
    answer=end_state,
    draw=_texts,
    others={
        "a loop": end_state_by_a_loop,
        "gather": lambda s, t, end: s.gather(
            1, (t == end).double().cumsum(1).eq(1).int().argmax(1).view(-1, 1, 1).expand(-1, 1, s.shape[2])
        )[:, 0],
    },
    hints=(
        "CLIP's texts are padded with the end token itself. Which of them has just read the whole text?",
        "The first one. What `argmax` gives for a row of booleans is the place of its first True.",
        "Every text ends somewhere else: you need one place for each.",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: that is the start token, which has read nothing, for attention is causal.",
            lambda s, t, end: s[:, 0],
        ),
        Mistake(
            "That is the last place, padding for all but the longest text. It has read the text too, but CLIP takes "
            "the state of the first end token, and published weights are trained for that one.",
            lambda s, t, end: s[:, -1],
        ),
        Mistake("A mean over the text; CLIP takes one state, the end token's.", lambda s, t, end: s.mean(dim=1)),
        Mistake(
            "One too early: that is the last word's state, not the end token's.",
            lambda s, t, end: s[torch.arange(len(s)), (t == end).int().argmax(dim=1) - 1],
        ),
        Mistake(
            "You look for the largest token; it is the end token in CLIP's vocabulary only. Look for `end`.",
            lambda s, t, end: s[torch.arange(len(s)), t.argmax(dim=1)],
        ),
    ),
)

# 05.context_numbers and 05.guessing: predict, run, explain

CONTEXT_NUMBERS = Item(
    "05.context_numbers",
    title="How many numbers is a prompt?",
    why="All that a picture knows of its prompt is in them, and two prompts differ in nothing else.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=4,
    answer=77 * 768,
    others={"a float": 59136.0, "a tensor": torch.tensor(59136)},
    hints=(
        "Stable Diffusion 1.5 pads every prompt to 77 tokens.",
        "Each token has a state of width 768, and the U-Net is given all of them.",
        "That makes 77 * 768 numbers.",
    ),
    mistakes=(
        Mistake("That is the state of one token; the U-Net attends to all of them.", 768),
        Mistake("That is the number of tokens; each has a state of many numbers.", 77),
        Mistake("Start and end token count as well: a prompt has up to 75 words' tokens, and 77 states.", 75 * 768),
    ),
)

GUESSING = Item(
    "05.guessing",
    title="The loss of a CLIP that knows nothing",
    why="A loss curve that stays at this number has learned nothing yet; it is worth knowing by heart.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=8,
    answer=math.log(128),
    rtol=0.01,
    others={"rounded": 4.85, "a tensor": torch.tensor(128.0).log()},
    hints=(
        "In a batch of 128 pairs it gives every text the same probability.",
        "The cross-entropy is minus the logarithm of the probability of the right one.",
        "-log(1 / 128), with the natural logarithm.",
    ),
    mistakes=(
        Mistake("That is in bits; PyTorch's cross-entropy uses the natural logarithm.", 7.0),
        Mistake("That is the probability of the right one; the loss is minus its logarithm.", 1 / 128),
        Mistake("Both directions are averaged, not added.", 2 * math.log(128)),
        Mistake("Only a model that is always sure and right has a loss of 0.", 0.0),
    ),
)

ITEMS = (MERGE, CAUSAL_ATTENTION, CROSS_ATTENTION, CONTRASTIVE, END_STATE, CONTEXT_NUMBERS, GUESSING)
