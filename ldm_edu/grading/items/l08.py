"""Lesson 08, Stable Diffusion: the items, their right answers and the mistakes that are recognised."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from ldm_edu.grading.draw import different, normal, number, whole
from ldm_edu.grading.item import Case, Item, Mistake

# 08.our_name

PARTS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}


def our_name(name: str) -> str:
    _, block, _, rest = name.split(".", 3)  # "input_blocks", "4", "0", "in_layers.2.weight"
    part, kind = rest.rsplit(".", 1)
    level, stage = divmod(int(block) - 1, 3)
    return f"down.{level}.stages.{stage}.res.{PARTS[part]}.{kind}"


def our_name_by_a_table(name: str) -> str:
    places = {}
    block = 1  # 0 is the first convolution
    for level in range(4):
        for stage in range(2):
            places[f"input_blocks.{block}.0"] = f"down.{level}.stages.{stage}.res"
            block += 1
        block += 1  # the downsampler
    for theirs, ours in (*places.items(), *PARTS.items()):
        name = (name + ".").replace(theirs + ".", ours + ".")[:-1]
    return name


def our_name_by_replacing(name: str) -> str:
    words = name.split(".")
    number = int(words[1]) - 1
    part = PARTS[".".join(words[3:-1])]
    return ".".join(["down", str(number // 3), "stages", str(number % 3), "res", part, words[-1]])


def _named(place: Callable[[int], tuple[int, int]], parts: dict[str, str] | None = None) -> Callable[[str], str]:
    def answer(name: str) -> str:
        _, block, _, rest = name.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        level, stage = place(int(block))
        return f"down.{level}.stages.{stage}.res.{(parts or PARTS)[part]}.{kind}"

    return answer


def _names(rng: Generator) -> list[Case]:
    numbers = [n for n in range(1, 12) if n % 3]  # the others are downsamplers
    layers = [list(PARTS)[i] for i in different(rng, len(PARTS), 0, len(PARTS) - 1)]
    drawn = [
        f"input_blocks.{numbers[place]}.0.{layer}.{('weight', 'bias')[whole(rng, 0, 1)]}"
        for place, layer in zip(different(rng, len(layers), 0, len(numbers) - 1), layers, strict=True)
    ]
    few = [
        "input_blocks.1.0.in_layers.0.weight",
        "input_blocks.2.0.in_layers.2.bias",
        "input_blocks.8.0.out_layers.3.bias",
    ]
    return [Case(f"`{name}`", (name,)) for name in (*few, *drawn)]


OUR_NAME = Item(
    "08.our_name",
    title="Which of their tensors is which of ours",
    why="A checkpoint is a list of names. To read it is to know, beyond doubt, where each tensor goes.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=12,
    answer=our_name,
    draw=_names,
    others={"a table of all places": our_name_by_a_table, "word by word": our_name_by_replacing},
    hints=(
        "Write their row down: 0 is the first convolution; then, for each level, two blocks and a downsampler.",
        "Without the first convolution the numbers go in threes: `divmod(number - 1, 3)` is level and place.",
        "Split the name at its dots: the second word is the number, the last is `weight` or `bias`.",
    ),
    mistakes=(
        Mistake(
            "You count from the first block, but their number 0 is the convolution before it.",
            _named(lambda n: divmod(n, 3)),
        ),
        Mistake(
            "You count two blocks a level; in their row the downsampler has a number of its own.",
            _named(lambda n: divmod(n - 1, 2)),
        ),
        Mistake(
            "The two convolutions are exchanged: the input layers come first.",
            _named(lambda n: divmod(n - 1, 3), PARTS | {"in_layers.2": "conv2", "out_layers.3": "conv1"}),
        ),
        Mistake(
            "The end of the name is lost: a weight and its bias would have one name.",
            lambda name: our_name(name).rsplit(".", 1)[0],
        ),
        Mistake(
            "Every name ends in `.weight`: half of the tensors are biases.",
            lambda name: our_name(name).rsplit(".", 1)[0] + ".weight",
        ),
    ),
)

# 08.transformer_parameters


def transformer_parameters(channels: int, context: int) -> int:
    c = channels
    norms = 4 * 2 * c  # a group norm, three layer norms: a weight and a bias each
    projections = 2 * (c * c + c)
    self_attention = 3 * c * c + (c * c + c)
    cross_attention = c * c + 2 * context * c + (c * c + c)
    feed_forward = (c * 8 * c + 8 * c) + (4 * c * c + c)
    return norms + projections + self_attention + cross_attention + feed_forward


def counted_by_torch(channels: int, context: int) -> int:
    nn, c = torch.nn, channels
    with torch.device("meta"):
        layers = [nn.GroupNorm(1, c), *(nn.LayerNorm(c) for _ in range(3)), *(nn.Linear(c, c) for _ in range(4))]
        layers += [nn.Linear(n, c, bias=False) for n in (c, c, c, c, context, context)]
        layers += [nn.Linear(c, 8 * c), nn.Linear(4 * c, c)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def counted_in_one_line(channels: int, context: int) -> float:
    return 20.0 * channels**2 + 2 * context * channels + 21 * channels


TRANSFORMER_PARAMETERS = Item(
    "08.transformer_parameters",
    title="What a transformer block weighs",
    why="Weights that do not fit have a bias too many, or a layer of another width. Counting finds it.",
    kind="implement",
    points=4,
    difficulty=3,
    minutes=20,
    answer=transformer_parameters,
    draw=lambda rng: [
        Case(f"{channels} channels and a context of {context}", (channels, context))
        for channels, context in (
            (320, 768),
            *((8 * n, 16 * m) for n, m in [(whole(rng, 4, 40), whole(rng, 10, 64)) for _ in range(3)]),
        )
    ],
    others={"torch's own layers": counted_by_torch, "collected": counted_in_one_line},
    hints=(
        "A linear layer from n to m has n m weights, and m more if it has a bias; a norm has 2 c.",
        "Queries come from the picture (c to c); keys and values of cross-attention from the text (context to c).",
        "GEGLU makes 4 c values and 4 c gates: its first layer goes from c to 8 c, its second from 4 c to c.",
    ),
    mistakes=(
        Mistake(
            "The feed-forward layer is a gated one: its first layer makes values and gates, twice as much as yours.",
            lambda c, context: transformer_parameters(c, context) - (4 * c * c + 4 * c),
        ),
        Mistake(
            "The keys and values of cross-attention come from the text: they are `context` wide on one side.",
            lambda c, context: transformer_parameters(c, c),
        ),
        Mistake(
            "Queries, keys and values have no bias in Stable Diffusion; only the output has.",
            lambda c, context: transformer_parameters(c, context) + 6 * c,
        ),
        Mistake(
            "You left the norms out: they have a weight and a bias each.", lambda c, n: counted_by_torch(c, n) - 8 * c
        ),
        Mistake(
            "The two projections around the block, in and out, are missing.",
            lambda c, context: transformer_parameters(c, context) - 2 * (c * c + c),
        ),
    ),
)

# 08.first_step


def first_step(steps: int, strength: float) -> int:
    return steps - max(1, math.floor(strength * steps + 1e-6))


def first_step_by_counting(steps: int, strength: float) -> int:
    left = sum(1 for n in range(1, steps + 1) if n / steps <= strength + 1e-9)
    return min(steps - left, steps - 1)


PERCENT = [(steps, percent) for steps in range(10, 101) for percent in range(5, 96)]
BELOW = [(n, p / 100) for n, p in PERCENT if n * p % 100 == 0 and int(p / 100 * n) != n * p // 100]
PARTS_LEFT = [(n, p / 100) for n, p in PERCENT if n * p % 100 > 50]


def _runs(rng: Generator) -> list[tuple[int, float]]:
    """Steps and strengths: two products that floating point puts below a whole number, three with a part of a step."""
    below = [BELOW[i] for i in different(rng, 2, 0, len(BELOW) - 1)]
    return below + [PARTS_LEFT[i] for i in different(rng, 3, 0, len(PARTS_LEFT) - 1)]


FIRST_STEP = Item(
    "08.first_step",
    title="How much of the picture to keep",
    why="Image to image is the same sampler, started late; where it starts is all there is to it.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=8,
    answer=first_step,
    draw=lambda rng: [
        Case(f"{steps} steps, strength {strength:g}", (steps, strength))
        for steps, strength in ((20, 1.0), (20, 0.6), (50, 0.58), (30, 0.55), (20, 0.01), *_runs(rng))
    ],
    others={
        "by counting": first_step_by_counting,
        "rounded first": lambda steps, strength: steps - max(1, int(round(strength * steps, 6))),
    },
    hints=(
        "At strength 1 the run is whole: it begins with step 0. At 0.6, six tenths of the steps are left to go.",
        "How many steps are left is `strength * steps`, rounded down; they are the last ones.",
        "0.58 * 50 is 28.999999999999996 in floating point. And a run of no step at all is not a run.",
    ),
    mistakes=(
        Mistake(
            "That is how many steps are left; what is asked for is the first of them.",
            lambda n, s: n - first_step(n, s),
        ),
        Mistake(
            "Floating point: 0.58 * 50 is a little less than 29, and rounding down loses a step.",
            lambda n, s: n - max(1, int(s * n)),
        ),
        Mistake(
            "At a small strength no step is left and nothing happens; at least one should be.",
            lambda n, s: n - math.floor(s * n + 1e-6),
        ),
        Mistake("Off by one: at strength 1 the run begins with step 0.", lambda n, s: first_step(n, s) + 1),
        Mistake("Rounded up: 0.55 of 30 steps are 16 whole ones.", lambda n, s: n - max(1, math.ceil(s * n - 1e-6))),
    ),
)

# 08.windows


def windows(tokens: list[int], start: int, end: int) -> Tensor:
    rows = [tokens[i : i + 75] for i in range(0, max(1, len(tokens)), 75)]
    return torch.tensor([[start, *row, *[end] * (76 - len(row))] for row in rows])


def windows_by_padding(tokens: list[int], start: int, end: int) -> Tensor:
    n = max(1, math.ceil(len(tokens) / 75))
    padded = torch.tensor(tokens + [end] * (75 * n - len(tokens)))
    return F.pad(F.pad(rearrange(padded, "(n l) -> n l", l=75), (1, 0), value=start), (0, 1), value=end)


def windows_filled(tokens: list[int], start: int, end: int) -> Tensor:
    n = -(-len(tokens) // 75) or 1
    filled = torch.full((n, 77), end, dtype=torch.float64)
    filled[:, 0] = start
    for place, token in enumerate(tokens):
        filled[place // 75, 1 + place % 75] = token
    return filled


def _one_frame(tokens: list[int], start: int, end: int) -> Tensor:
    whole = [start, *tokens, end]
    return torch.tensor(whole + [end] * (-len(whole) % 77)).view(-1, 77)


def _prompts(rng: Generator) -> list[Case]:
    clip = [Case(f"{n} tokens", (list(range(1000, 1000 + n)), 49406, 49407)) for n in (3, 0, 75, 76)]
    others = []
    for n in (whole(rng, 77, 149), 150, whole(rng, 151, 300)):
        start, end, *tokens = different(rng, 2 + n, 1, 999)
        others.append(Case(f"{n} tokens, start {start} and end {end}", (tokens, start, end)))
    return clip + others


WINDOWS = Item(
    "08.windows",
    title="Prompts longer than 77 tokens",
    why="CLIP reads 77 tokens and no more. People write longer prompts, and expect that the end counts too.",
    kind="implement",
    points=3,
    difficulty=2,
    minutes=12,
    answer=windows,
    draw=_prompts,
    others={"padded, then folded": windows_by_padding, "filled one by one": windows_filled},
    hints=(
        "Of 77 places, two are taken: each window has a start and an end of its own.",
        "`tokens[i : i + 75]` for i = 0, 75, 150 ...; an empty prompt has one window all the same.",
        "A row is the start, the tokens of that window, and the end repeated until there are 77.",
    ),
    mistakes=(
        Mistake(
            "All after the first 75 tokens is lost, which is just what should not happen.",
            lambda tokens, start, end: windows(tokens[:75], start, end),
        ),
        Mistake(
            "You padded with 0, which is the token of `!`; CLIP's padding is its end token.",
            lambda tokens, start, end: torch.tensor(
                [
                    [start, *(row := tokens[i : i + 75]), end, *[0] * (75 - len(row))]
                    for i in range(0, max(1, len(tokens)), 75)
                ]
            ),
        ),
        Mistake(
            "You cut one long text with one start and one end. To CLIP each window is a text: it needs both.",
            _one_frame,
        ),
        Mistake(
            "A window too many where the tokens fill the last one (and after 75 tokens nothing is left).",
            lambda tokens, start, end: torch.tensor(
                [[start, *(row := tokens[i : i + 75]), *[end] * (76 - len(row))] for i in range(0, len(tokens) + 1, 75)]
            ),
        ),
    ),
)

# 08.step_time


def step_time(flops: float, moved: float, peak: float, bandwidth: float) -> float:
    return max(flops / peak, moved / bandwidth)


def _machines(rng: Generator) -> list[Case]:
    """Two that are known, and for each of them two drawn: bound by arithmetic, and bound by memory."""
    few = [(1606.6, 1.72, 798.0, 3.0), (25.0, 1.72, 798.0, 3.0), (360.0, 1.72, 0.2, 0.02)]
    for share in (0.2, 0.4, 2.5, 5.0):  # the time of arithmetic over that of memory
        moved, peak, bandwidth = number(rng, 0.5, 9.0), number(rng, 1.0, 900.0), number(rng, 0.1, 4.0)
        few.append((float(f"{share * peak * moved / bandwidth:.4g}"), moved, peak, bandwidth))
    return [
        Case(
            f"{flops} GFLOP, {moved} GB, at {peak} TFLOP/s and {bandwidth} TB/s",
            (flops * 1e9, moved * 1e9, peak * 1e12, bandwidth * 1e12),
        )
        for flops, moved, peak, bandwidth in few
    ]


STEP_TIME = Item(
    "08.step_time",
    title="As fast as it can be",
    why="It tells a slow program from a big network, before an hour is spent on making it faster.",
    kind="implement",
    points=2,
    difficulty=1,
    minutes=6,
    answer=step_time,
    draw=_machines,
    others={
        "tensors": lambda f, m, p, b: torch.tensor([f / p, m / b], dtype=torch.float64).amax(),
        "by intensity": lambda f, m, p, b: f / min(p, b * f / m),
    },
    hints=(
        "Two things have to be done: the multiplications, and the moving of bytes. Each has a shortest time.",
        "They are done at the same time: while one layer is computed, bytes of the next are on their way.",
        "So the longer of the two times is the bound (Williams et al. 2009, the roofline model).",
    ),
    mistakes=(
        Mistake("They overlap: the two times are not added.", lambda f, m, p, b: f / p + m / b),
        Mistake("The step is not over when the quicker of the two is.", lambda f, m, p, b: min(f / p, m / b)),
        Mistake(
            "Only the multiplications count in yours: a small batch waits for its weights.", lambda f, m, p, b: f / p
        ),
        Mistake("Only the bytes count in yours: a large batch is bound by arithmetic.", lambda f, m, p, b: m / b),
        Mistake("Upside down: that is steps a second.", lambda f, m, p, b: 1 / max(f / p, m / b)),
    ),
)

# 08.mean_gradient: working code with one planted mistake


def mean_gradient(gradients: Tensor) -> Tensor:
    total = torch.zeros(gradients.shape[1:], dtype=torch.float32)
    for gradient in gradients:
        total = total + gradient
    return total / len(gradients)


def _in(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def answer(gradients: Tensor) -> Tensor:
        total = torch.zeros(gradients.shape[1:], dtype=dtype)
        for gradient in gradients:
            total = total + gradient.to(dtype)
        return total / len(gradients)

    return answer


def _halved(gradients: Tensor) -> Tensor:
    mean = gradients[0].float()
    for gradient in gradients[1:]:
        mean = (mean + gradient) / 2
    return mean


MEAN_GRADIENT = Item(
    "08.mean_gradient",
    title="Find the mistake: the batch that stopped growing",
    why="bfloat16 keeps 8 bits of a number: fine for multiplying, not for adding a little to a lot, many times.",
    kind="debug",
    points=3,
    difficulty=2,
    minutes=12,
    answer=mean_gradient,
    draw=lambda rng: [
        Case(f"{n} gradients {shape} in bfloat16", ((middle + middle / 3 * normal(rng, n, *shape)).bfloat16(),))
        for n, shape, middle in (
            (1000, (16,), 150.0),
            (4, (2, 3), 1.0),
            *((whole(rng, 700, 1300), tuple(different(rng, k, 2, 5)), number(rng, 120.0, 300.0)) for k in (1, 2, 3)),
        )
    ],
    rtol=0.01,
    others={
        "torch's mean in float32": lambda g: g.float().mean(dim=0),
        "einsum in float64": lambda g: torch.einsum("n...->...", g.double()) / g.shape[0],
    },
    hints=(
        "Print the total after 10, 100 and 1000 gradients. When does it stop growing?",
        "Between 32768 and 65536 neighbouring bfloat16 numbers lie 256 apart: adding 100 changes nothing.",
        "The gradients may be in bfloat16; the total should be in float32.",
    ),
    mistakes=(
        Mistake(
            "The mistake is still there: the total is in bfloat16, and small additions to it are rounded away.",
            _in(torch.bfloat16),
        ),
        Mistake(
            "In float16 the total overflows: its largest number is 65504. Take float32.",
            _in(torch.float16),
        ),
        Mistake("That is the sum; what is asked for is the mean.", lambda g: g.float().sum(dim=0)),
        Mistake("Halving at every step counts the last gradients most: sum first, divide once.", _halved),
    ),
)

# 08.attention_share and 08.gpu_hours: predict, run, explain

UNET = 859_520_964  # parameters of SD 1.5's
_WIDTHS = (320,) * 5 + (640,) * 5 + (1280,) * 6


def _share(widths: tuple[int, ...]) -> float:
    return sum(transformer_parameters(c, 768) for c in widths) / UNET


ATTENTION_SHARE = Item(
    "08.attention_share",
    title="How much of the U-Net is attention?",
    why="What to train, to prune or to adapt is chosen by where the parameters are. Most people guess wrong.",
    kind="investigate",
    points=3,
    difficulty=2,
    minutes=12,
    answer=_share(_WIDTHS),
    rtol=0.01,
    others={"rounded": round(_share(_WIDTHS), 3), "a tensor": torch.tensor(_share(_WIDTHS))},
    hints=(
        "One transformer block of c channels has 20 c^2 + (2 * 768 + 21) c parameters.",
        "Or build the network without memory: `with torch.device('meta'):`, and look for the modules' names.",
        "5 blocks of 320 channels, 5 of 640, 6 of 1280; divide by all 859,520,964.",
    ),
    mistakes=(
        Mistake("That is the rest of the network: what is not attention.", 1 - _share(_WIDTHS)),
        Mistake("The block in the middle is missing.", _share(_WIDTHS[:-1])),
        Mistake("That is the way down alone: the way up has three blocks a level.", _share((320, 640, 1280) * 2)),
        Mistake("Give it as a fraction of 1, not in percent.", 100 * _share(_WIDTHS)),
    ),
)

GPU_HOURS = Item(
    "08.gpu_hours",
    title="The price of the published training",
    why="Between what a paper did and what you can do there is a number. It is better known before than after.",
    kind="investigate",
    points=2,
    difficulty=1,
    minutes=6,
    answer=600_000 * 2048 / 137 / 3600,
    rtol=0.01,
    others={"rounded": 2490, "by days": 600_000 * 2048 / (137 * 86_400) * 24},
    hints=(
        "How many pictures are seen in all? Some of them many times.",
        "600,000 steps of 2048 pictures; one GPU sees 137 of them in a second.",
        "Divide, and by 3600: it does not depend on how many GPUs share the work.",
    ),
    mistakes=(
        Mistake(
            "That is how long 256 of them are busy; what is paid for are the hours of each.",
            600_000 * 2048 / 137 / 3600 / 256,
        ),
        Mistake("Those are seconds.", 600_000 * 2048 / 137),
        Mistake("You counted a picture a step; a step has 2048.", 600_000 / 137 / 3600),
        Mistake("Those are days of one GPU.", 600_000 * 2048 / 137 / 86_400),
        Mistake(
            "The batch is shared by the GPUs: 2048 is all of it, not what each has.", 256 * 600_000 * 2048 / 137 / 3600
        ),
    ),
)

ITEMS = (
    OUR_NAME,
    TRANSFORMER_PARAMETERS,
    FIRST_STEP,
    WINDOWS,
    STEP_TIME,
    MEAN_GRADIENT,
    ATTENTION_SHARE,
    GPU_HOURS,
)
