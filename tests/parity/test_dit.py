"""DiT against two references: the authors' arithmetic, written out plainly here, and diffusers' class corrected.

Diffusers' class computes other numbers than the authors' code. It counts the frequencies of a time in steps of
1 / (half - 1) and its second norm adds 1e-5 to a variance; with both constants set back it agrees.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from parity.reference import difference, randomised
from torch import Tensor
from torch.nn import functional as F

from ldm_edu.condition import Conditioning
from ldm_edu.conditioners.classes import OneHotConditioner
from ldm_edu.config import DiTConfig
from ldm_edu.layouts.dit import dit_pairs, read_dit, write_dit
from ldm_edu.layouts.pair import convert, convert_back
from ldm_edu.models.dit import DiT
from ldm_edu.weights.errors import CheckpointError

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
Shapes = dict[str, tuple[int, ...]]

SMALL = DiTConfig(size=12, patch=2, width=48, depth=3, heads=4, classes=10)
CONFIGS = {
    "small": SMALL,
    "no learned variance": dataclasses.replace(SMALL, learned_variance=False),
    "patches of four, three channels": dataclasses.replace(SMALL, patch=4, channels=3),
    "a pixel a patch, one head": dataclasses.replace(SMALL, patch=1, size=5, heads=1, depth=1),
}
LABELS = [3, None]  # None: the null class, the last row of the table

S, B, L, XL = (12, 384, 6), (12, 768, 12), (24, 1024, 16), (28, 1152, 16)  # table 1: depth, width, heads
PUBLISHED = [  # with patch and size of the latents; trained parameters, and with the positions as in the authors' file
    (S, 2, 32, 32_865_056, 32_963_360),
    (S, 4, 32, 32_920_448, 32_945_024),
    (S, 8, 32, 33_142_016, 33_148_160),
    (B, 2, 32, 130_315_808, 130_512_416),
    (B, 4, 32, 130_426_496, 130_475_648),
    (B, 8, 32, 130_869_248, 130_881_536),
    (L, 2, 32, 457_840_672, 458_102_816),
    (L, 4, 32, 457_988_224, 458_053_760),
    (L, 8, 32, 458_578_432, 458_594_816),
    (XL, 2, 32, 674_834_720, 675_129_632),
    (XL, 4, 32, 675_000_704, 675_074_432),
    (XL, 8, 32, 675_664_640, 675_683_072),
    (XL, 2, 64, 674_834_720, 676_014_368),
]


def published(model: tuple[int, int, int], patch: int, size: int) -> DiTConfig:
    depth, width, heads = model
    return DiTConfig(size=size, patch=patch, depth=depth, width=width, heads=heads)


def inputs(config: DiTConfig) -> tuple[Tensor, Tensor, Conditioning]:
    x = torch.randn(2, config.channels, config.size, config.size)
    return x, torch.tensor([3.0, 987.0]), OneHotConditioner(config.classes)(LABELS)


# --- the authors' arithmetic ------------------------------------------------------------------------------------------


def original_shapes(config: DiTConfig) -> Shapes:
    """The tensors of the authors' file that are trained."""
    w, p = config.width, config.patch
    layers = {"t_embedder.mlp.0": (w, 256), "t_embedder.mlp.2": (w, w)}
    for i in range(config.depth):
        layers |= {
            f"blocks.{i}.attn.qkv": (3 * w, w),
            f"blocks.{i}.attn.proj": (w, w),
            f"blocks.{i}.mlp.fc1": (4 * w, w),
            f"blocks.{i}.mlp.fc2": (w, 4 * w),
            f"blocks.{i}.adaLN_modulation.1": (6 * w, w),
        }
    layers |= {"final_layer.adaLN_modulation.1": (2 * w, w), "final_layer.linear": (p * p * config.out_channels, w)}
    shapes: Shapes = {"y_embedder.embedding_table.weight": (config.classes + 1, w)}
    shapes |= {"x_embedder.proj.weight": (w, config.channels, p, p), "x_embedder.proj.bias": (w,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def original_weights(config: DiTConfig) -> dict[str, Tensor]:
    shapes = original_shapes(config).items()
    return {name: torch.randn(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3) for name, shape in shapes}


def original_output(
    weights: Mapping[str, Tensor], config: DiTConfig, x: Tensor, t: Tensor, labels: list[int]
) -> Tensor:
    """The forward pass with plain sums over tokens and pixels."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normalised(value: Tensor) -> Tensor:
        centred = value - value.mean(dim=-1, keepdim=True)
        return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def modulated(value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return normalised(value) * (1 + scale[:, None]) + shift[:, None]

    width, p, side = config.width, config.patch, config.size // config.patch
    angles = t[:, None] * torch.tensor([10_000 ** (-i / 128) for i in range(128)])
    time = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    c = linear("t_embedder.mlp.2", F.silu(time)) + weights["y_embedder.embedding_table.weight"][labels]

    tokens = []
    kernel, bias = weights["x_embedder.proj.weight"].flatten(1), weights["x_embedder.proj.bias"]
    rates = [10_000 ** (-i / (width / 4)) for i in range(width // 4)]
    for row in range(side):
        for column in range(side):
            patch = x[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p].flatten(1)
            features = [f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in rates]
            tokens.append(patch @ kernel.T + bias + torch.tensor(features))
    h = torch.stack(tokens, dim=1)

    for i in range(config.depth):
        parts = linear(f"blocks.{i}.adaLN_modulation.1", F.silu(c)).chunk(6, dim=1)
        q, k, v = linear(f"blocks.{i}.attn.qkv", modulated(h, parts[0], parts[1])).split(width, dim=2)
        heads = []
        for some in torch.arange(width).chunk(config.heads):
            scores = q[:, :, some] @ k[:, :, some].transpose(1, 2) / math.sqrt(len(some))
            heads.append(scores.softmax(dim=2) @ v[:, :, some])
        h = h + parts[2][:, None] * linear(f"blocks.{i}.attn.proj", torch.cat(heads, dim=2))
        hidden = linear(f"blocks.{i}.mlp.fc1", modulated(h, parts[3], parts[4]))
        gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        h = h + parts[5][:, None] * linear(f"blocks.{i}.mlp.fc2", gelu)

    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, dim=1)
    h = linear("final_layer.linear", modulated(h, shift, scale))
    out = torch.zeros(len(x), config.out_channels, config.size, config.size)
    for n in range(side * side):
        row, column = divmod(n, side)
        patch = h[:, n].reshape(len(x), p, p, config.out_channels).permute(0, 3, 1, 2)
        out[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p] = patch
    return out


@pytest.mark.parametrize("name", CONFIGS)
def test_the_authors_weights_in_our_network(name: str) -> None:
    config = CONFIGS[name]
    weights = original_weights(config)
    ours = DiT(config).eval()
    ours.load_state_dict(convert(weights, dit_pairs(config, "original")))
    x, t, cond = inputs(config)
    wanted = original_output(weights, config, x, t, [3, config.classes])
    with torch.no_grad():
        assert difference(ours(x, t, cond), wanted) <= TOLERANCE
        (prepared,) = ours.prepare(OneHotConditioner(config.classes)([3]), t[:1])
        assert difference(ours.step(x[:1], prepared), wanted[:1, : config.channels]) <= TOLERANCE


def test_the_comparison_can_fail() -> None:
    """A single wrong weight is seen: of the keys, of a gate, of the labels."""
    weights = original_weights(SMALL)
    x, t, cond = inputs(SMALL)
    wanted = original_output(weights, SMALL, x, t, [3, SMALL.classes])
    for name in ("layers.1.attention.to_k.weight", "layers.0.modulation.linear.bias", "labels", "final.linear.bias"):
        ours = DiT(SMALL).eval()
        ours.load_state_dict(convert(weights, dit_pairs(SMALL, "original")))
        with torch.no_grad():
            place = SMALL.classes * SMALL.width if name == "labels" else 0  # in the row of the null class
            ours.get_parameter(name).view(-1)[place] += 0.1
            assert difference(ours(x, t, cond), wanted) > TOLERANCE, name


# --- diffusers --------------------------------------------------------------------------------------------------------


def reference(config: DiTConfig) -> Any:
    """Diffusers' class with the two constants of the authors."""
    theirs = diffusers.DiTTransformer2DModel.from_config(write_dit(config)).eval()
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6  # the second norm of the block: this class numbers those of other transformers too
    return theirs


@pytest.mark.parametrize("name", CONFIGS)
def test_our_weights_in_diffusers(name: str) -> None:
    config = CONFIGS[name]
    ours, theirs = randomised(DiT(config)), reference(config)
    theirs.load_state_dict(convert_back(ours.state_dict(), dit_pairs(config, "diffusers")))
    x, t, cond = inputs(config)
    with torch.no_grad():
        wanted = theirs(x, t, torch.tensor([3, config.classes])).sample
        assert difference(ours(x, t, cond), wanted) <= TOLERANCE
    back = convert(theirs.state_dict(), dit_pairs(config, "diffusers"))
    assert all(torch.equal(tensor, back[name]) for name, tensor in ours.state_dict().items())


def test_diffusers_as_it_is_computes_something_else() -> None:
    """Why the comparison above sets two constants back; if this fails, diffusers has corrected its class."""
    ours, theirs = randomised(DiT(SMALL)), diffusers.DiTTransformer2DModel.from_config(write_dit(SMALL)).eval()
    theirs.load_state_dict(convert_back(ours.state_dict(), dit_pairs(SMALL, "diffusers")))
    x, t, cond = inputs(SMALL)
    with torch.no_grad():
        assert difference(ours(x, t, cond), theirs(x, t, torch.tensor([3, SMALL.classes])).sample) > 1e-3


def test_the_positions_of_any_grid_are_those_of_diffusers() -> None:
    """Bit for bit where the network was trained; elsewhere diffusers rounds the places to float32 first."""
    ours, theirs = DiT(SMALL), reference(SMALL)
    assert torch.equal(ours._positions(6, 6), theirs.pos_embed.pos_embed[0])
    latent = torch.zeros(1, SMALL.channels, 8, 20)
    with torch.no_grad():
        embedded = theirs.pos_embed(latent)[0] - theirs.pos_embed.proj.bias
    assert difference(ours._positions(4, 10), embedded) <= TOLERANCE


# --- names, counts, config.json ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, patch, size, trained, stored", PUBLISHED)
def test_counts_and_names_at_full_size(
    model: tuple[int, int, int], patch: int, size: int, trained: int, stored: int
) -> None:
    config = published(model, patch, size)
    with torch.device("meta"):
        ours = DiT(config).state_dict()
    count = sum(tensor.numel() for tensor in ours.values())
    assert (count, count + config.grid**2 * config.width) == (trained, stored)

    pairs = dit_pairs(config, "original")
    theirs = convert_back(ours, pairs)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == original_shapes(config)
    back = convert(theirs, pairs)
    assert {name: tensor.shape for name, tensor in back.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


@pytest.mark.parametrize("model, patch", [(S, 8), (XL, 2)])
def test_the_names_of_diffusers_at_full_size(model: tuple[int, int, int], patch: int) -> None:
    config = published(model, patch, 32)
    with torch.device("meta"):
        ours = DiT(config).state_dict()
        theirs = diffusers.DiTTransformer2DModel.from_config(write_dit(config)).state_dict()
    written = convert_back(ours, dit_pairs(config, "diffusers"))
    assert {name: t.shape for name, t in written.items()} == {name: t.shape for name, t in theirs.items()}
    read = convert(theirs, dit_pairs(config, "diffusers"))
    assert {name: t.shape for name, t in read.items()} == {name: t.shape for name, t in ours.items()}
    if (model, patch) == (XL, 2):
        assert len(theirs) == 538 and sum(t.numel() for t in theirs.values()) == 749_826_464
        assert len(original_shapes(config)) + 1 == 292  # and the positions


def test_copies_agree_or_are_refused() -> None:
    pairs = dit_pairs(SMALL, "diffusers")
    theirs = convert_back(randomised(DiT(SMALL)).state_dict(), pairs)
    name = "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"
    changed = {**theirs, name: theirs[name] + 1}
    with pytest.raises(CheckpointError, match="differs from another copy of labels"):
        convert(changed, pairs)
    left_out = {key: tensor for key, tensor in theirs.items() if key != name}
    assert torch.equal(convert(left_out, dit_pairs(SMALL, "diffusers", left_out))["labels"], theirs[name])
    first = {key: tensor for key, tensor in theirs.items() if key != name.replace("blocks.2", "blocks.0")}
    with pytest.raises(CheckpointError, match=r"missing: transformer_blocks\.0"):
        convert(first, dit_pairs(SMALL, "diffusers", first))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_json_both_ways(name: str) -> None:
    theirs = diffusers.DiTTransformer2DModel.from_config(write_dit(CONFIGS[name]))
    assert read_dit(dict(theirs.config), "transformer/config.json") == CONFIGS[name]


def test_a_config_of_another_transformer_is_refused() -> None:
    for change in ({"norm_type": "ada_norm_single"}, {"activation_fn": "geglu"}, {"out_channels": 5}):
        with pytest.raises(CheckpointError, match=rf"config.json asks for {next(iter(change))} = "):
            read_dit(write_dit(SMALL) | change, "transformer/config.json")
