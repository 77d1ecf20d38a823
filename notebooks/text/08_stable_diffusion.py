# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Stable Diffusion
#
# **The question.** What is still missing between the small model of these lessons and Stable Diffusion 1.5?
#
# Nothing, in the code. The classes are the same and only the numbers in a preset differ. What is missing is size: in
# memory, in arithmetic, and in training. So in this lesson you weigh the real thing: count its parameters by hand, open
# a file in its published layout, run a step of it at full size on this very machine, compare the time with what the
# hardware allows, and work out what its training cost.
#
# **After this lesson you can**
#
# - count the 859,520,964 parameters of the U-Net with pencil and paper, and say where they are;
# - read a published checkpoint: which tensor is which layer, and what must be left out;
# - tell how long a picture takes on any machine from two numbers, and which of the two binds you;
# - start from a picture instead of from noise;
# - price a training run from a measured throughput.
#
# **You need** lessons 01 to 07. All parts are known; here they grow.
#
# **Time**: two to three minutes of computing on two processor cores and 3 GB of memory, an hour of reading. Where there
# is a GPU the same cells use it. **The outputs that are saved here come from a processor**: no GPU was to be had, and a
# cell that would show more on one says so.

# %% [markdown]
# ## The same classes
#
# A preset is a frozen dataclass. Here are two of them, side by side.

# %%
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in this lesson asks the network

from ldm_edu.families import PRESETS
from ldm_edu.viz import Table

emoji, sd = PRESETS["emoji"], PRESETS["sd15"]


def described(preset):
    unet, vae, text = preset.unet, preset.autoencoder, preset.text
    side = preset.size // vae.factor
    return {
        "picture": f"{preset.size} x {preset.size} x 3",
        "latents": f"{side} x {side} x {vae.latent_channels}",
        "channels by level, U-Net": ", ".join(str(unet.channels * m) for m in unet.mults),
        "residual blocks a level": str(unet.blocks),
        "transformer layers by level": ", ".join(map(str, unet.depth)),
        "attention heads": str(unet.heads),
        "context": f"{text.length} tokens x {text.width}",
        "channels by level, autoencoder": ", ".join(str(vae.channels * m) for m in vae.mults),
        "layers of the text encoder": str(text.layers),
        "the network predicts": preset.prediction,
    }


Table(("", "emoji", "Stable Diffusion 1.5"), tuple((k, v, described(sd)[k]) for k, v in described(emoji).items()))

# %% [markdown]
# The schedule is the one of lesson 01, linear in $\sqrt\beta$ from 0.00085 to 0.012. The latents are multiplied by
# 0.18215, the number that lesson 03 explained. Both can be checked in a line.

# %%
import torch

from ldm_edu.schedule import make_schedule

schedule = make_schedule(sd.schedule)
first, last = schedule.level(0), schedule.level(999)
print(f"alpha_bar: {float(first.alpha) ** 2:.5f} at t = 0, {float(last.alpha) ** 2:.7f} at t = 999")
print(f"sigma / alpha: {float(first.ratio):.6f} to {float(last.ratio):.5f}; latents times {sd.autoencoder.scale}")
assert abs(float(last.ratio) - 14.61464) < 1e-4 and sd.autoencoder.scale == 0.18215

# %% [markdown]
# ## 859,520,964, by hand
#
# A layer's parameters follow from its shape: a convolution with a $k \times k$ kernel from $a$ to $b$ channels has
# $k^2 a b + b$, a linear map $a b + b$, a norm $2a$. Put these together as the U-Net is put together. Each function
# below is one row of the architecture; what it returns is a count by kind of layer.

# %%
from collections import Counter


def conv(a, b, k=3):
    return k * k * a * b + b


def res_block(a, b, time):
    """Two norms, two convolutions, the way in for the time, and a way past where the width changes."""
    past = conv(a, b, 1) if a != b else 0
    return Counter(convolution=conv(a, b) + conv(b, b) + past, norm=2 * a + 2 * b, time=time * b + b)


def transformer(c, context):
    """Norm and two 1 x 1 convolutions around one layer: self-attention, cross-attention, GEGLU."""
    attend = c * c + c * c + c * c + c * c + c  # queries, keys, values without a bias; the output with one
    ask = c * c + 2 * context * c + c * c + c  # keys and values come from the text
    gated = (c * 8 * c + 8 * c) + (4 * c * c + c)  # to 4 c values and 4 c gates, and back
    return Counter(norm=4 * 2 * c, convolution=2 * conv(c, c, 1), self_attention=attend, cross_attention=ask, mlp=gated)


def my_count(config):
    """Parameters by (level, kind of layer); the middle is a level of its own."""
    c0, context = config.channels, config.context_dim
    time, widths, found = 4 * c0, [c0 * m for m in config.mults], {}

    def stage(level, a, b, depth):
        found[level] = found.get(level, Counter()) + res_block(a, b, time)
        for _ in range(depth):
            found[level] += transformer(b, context)

    ends = Counter(convolution=conv(config.in_channels, c0) + conv(c0, config.out_channels), norm=2 * c0)
    ends["time"] = (c0 * time + time) + (time * time + time)
    skips, a = [c0], c0  # the widths that the way up will find beside it
    for i, b in enumerate(widths):
        for _ in range(config.blocks):
            stage(i, a, b, config.depth[i])
            skips, a = [*skips, b], b
        if i < len(widths) - 1:
            found[i]["convolution"] += conv(b, b)  # down to half the side
            skips.append(b)
    stage("middle", a, a, config.mid_depth)
    stage("middle", a, a, 0)
    for i, b in reversed(list(enumerate(widths))):
        for _ in range(config.blocks + 1):
            stage(i, a + skips.pop(), b, config.depth[i])
            a = b
        if i:
            found[i]["convolution"] += conv(b, b)  # up to twice the side
    return found | {"ends": ends}


counted = my_count(sd.unet)
total = sum(sum(kinds.values()) for kinds in counted.values())
print(f"{total:,}")
assert total == 859_520_964

# %% [markdown]
# And the package's class, built on PyTorch's `meta` device, where tensors have shapes and no numbers, so that it costs
# no memory. The count must be the same for every preset that has text, not only for this one.

# %%
from ldm_edu.counts import parameter_counts
from ldm_edu.models.unet import UNet

for preset in (sd, emoji, PRESETS["shapes"], PRESETS["toy"]):
    with torch.device("meta"):
        unet = UNet(preset.unet)
    package = sum(p.numel() for p in unet.parameters())
    assert package == sum(sum(kinds.values()) for kinds in my_count(preset.unet).values()), preset.name
    print(f"{preset.name:8}{package:>13,}")

# %%
counts = parameter_counts(sd)
rows = [("U-Net", f"{sum(counts['U-Net'].values()):,}")]
rows += [(f"autoencoder: {part}", f"{n:,}") for part, n in counts["autoencoder"].items()]
rows += [("text encoder", f"{sum(counts['text encoder'].values()):,}")]
assert sum(counts["autoencoder"].values()) == 83_653_863 and sum(counts["text encoder"].values()) == 123_060_480
Table(("part", "parameters"), tuple(rows))

# %% [markdown]
# Where are they? Sort the count by level and by kind of layer. (The picture follows below, beside the work.)

# %%
from matplotlib.figure import Figure

from ldm_edu.viz.style import INK, NETWORK, NOISE, SIGNAL, SOFT, TEXT, drawing, look

KINDS = {
    "convolution": (SIGNAL, ""),
    "self_attention": (NOISE, "//"),
    "cross_attention": (TEXT, "\\\\"),
    "mlp": (NETWORK, ".."),
    "time": (SOFT, "xx"),
}


def where_figure(tables, units, alt):
    """Stacked bars: one panel a table, one bar a level, one colour and hatch a kind of layer."""
    with look():
        figure = Figure(figsize=(7.6, 3.2), layout="constrained")
        for axes, (title, table) in zip(figure.subplots(1, len(tables), sharey=True), tables.items()):
            left = dict.fromkeys(table, 0.0)
            for kind, (colour, hatch) in KINDS.items():
                values = [table[level].get(kind, 0) for level in table]
                axes.barh(
                    list(table), values, left=list(left.values()), color=colour, hatch=hatch,
                    edgecolor="white", linewidth=0, label=kind.replace("_", "-"),
                )  # fmt: skip
                left = {level: left[level] + value for level, value in zip(table, values)}
            axes.set(title=title, xlabel=units[title])
        figure.axes[0].set_ylabel("level, side of its maps")
        figure.axes[0].invert_yaxis()  # the axes share it
        figure.axes[-1].legend(fontsize=8)
        return drawing(figure, alt=alt)


def sides(level):
    return "middle, 8" if level == "middle" else f"{level}, {64 // 2**level}"


levels_of = [0, 1, 2, 3, "middle"]
in_millions = {sides(level): {k: n / 1e6 for k, n in counted[level].items()} for level in levels_of}

# %% [markdown]
# ## What a step costs
#
# Parameters are what a model *weighs*. What it *does* is something else: a kernel at the top level is used at 64 x 64
# places, one at the bottom at 8 x 8. Count the multiplications and additions of one pass at 512 pixels (PyTorch's
# counter, on the meta device again: nothing is computed).

# %%
from torch.utils.flop_counter import FlopCounterMode

from ldm_edu.condition import Conditioning


def flops_of(preset, side, batch=1):
    """Operations of one pass of the U-Net by module, for latents of this side; a multiply-add counts as two."""
    with torch.device("meta"):
        unet = UNet(preset.unet)
        x = torch.empty(batch, preset.unet.in_channels, side, side)
        t, context = torch.empty(batch), torch.empty(batch, preset.text.length, preset.unet.context_dim)
    with FlopCounterMode(display=False) as counter:
        unet(x, t, Conditioning(context=context))
    return {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}


at_512 = flops_of(sd, 64)
print(f"one pass at 512 pixels: {at_512['Global'] / 1e9:.1f} GFLOP; with guidance twice that")
assert round(at_512["Global"] / 1e9, 1) == 803.3

# %%


def kind_of(module):
    if "attention" in module and ".layers." in module:
        return "cross_attention" if "cross" in module else "self_attention"
    if "feed_forward" in module:
        return "mlp"
    return "time" if "time" in module else "convolution"


def level_of(module):
    place = module.removeprefix("UNet.").split(".")
    if place[0] == "mid":
        return "middle"
    return int(place[1]) if place[0] == "down" else 3 - int(place[1]) if place[0] == "up" else None


work = {level: Counter() for level in levels_of}
inner = set(at_512) - {"Global"}
for module in inner:
    is_leaf = not any(other.startswith(module + ".") for other in inner)
    if is_leaf and level_of(module) is not None:
        work[level_of(module)][kind_of(module)] += at_512[module] / 1e9
# the products of queries, keys and values happen in no layer of their own: they are what an attention has beyond these
for module in inner:
    if module.split(".")[-1] in ("self_attention", "cross_attention"):
        parts = sum(at_512[other] for other in inner if other.startswith(module + "."))
        work[level_of(module)][kind_of(module)] += (at_512[module] - parts) / 1e9
assert sum(sum(kinds.values()) for kinds in work.values()) > 0.99 * at_512["Global"] / 1e9

where_figure(
    {"weight": in_millions, "work": {sides(level): work[level] for level in levels_of}},
    {"weight": "millions of parameters", "work": "GFLOP of a pass at 512 pixels"},
    alt="Two stacked bar charts by level. Parameters: most are at the levels with 1,280 channels, whose maps have 16, 8 "
    "pixels a side. Work: most is done at the levels with 64 and 32 pixels a side; self-attention is large at the top.",
)

# %% [markdown]
# **What to see.** Left and right are nearly upside down. The weight is at the bottom, where maps are 16 and 8 pixels
# wide and have 1,280 channels; the work is at the top. Self-attention at the top level weighs next to nothing and does
# a sixth of all work, since each of 4,096 places looks at all the others. That share grows with the picture: twice the
# side is four times the places, and sixteen times the pairs of places.

# %%
work_of = {8 * side: flops_of(sd, side)["Global"] for side in (32, 64, 96, 128)}
Table(
    ("picture", "GFLOP of a pass", "times that of 512"),
    tuple((f"{s} x {s}", f"{work / 1e9:,.1f}", f"{work / work_of[512]:.2f}") for s, work in work_of.items()),
)

# %% [markdown]
# ## The file
#
# Stable Diffusion was published as one file of about 4 GB: a flat dictionary from names to tensors. The names tell how
# its authors built the network. Three prefixes mark three networks, and below `model.diffusion_model.` the blocks of
# the way down are counted in one row: `input_blocks.0` is the first convolution, then come two blocks and a
# downsampling for each level. The `.0` in a block is its residual block, the `.1` its transformer. To load the file
# into our classes you need to know, for every name, which of our tensors it is. Build that list by walking through the
# preset, as the network itself is built.

# %%
RES = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "skip": "skip_connection",
}  # fmt: skip
TRANSFORMER = {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"}
LAYER = {
    "norm1": "norm1", "norm2": "norm2", "norm3": "norm3", "self_attention.to_out": "attn1.to_out.0",
    "cross_attention.to_out": "attn2.to_out.0", "feed_forward.proj": "ff.net.0.proj", "feed_forward.out": "ff.net.2",
}  # fmt: skip
PROJECTIONS = [f"{ours}_attention.to_{part}.weight" for ours in ("self", "cross") for part in "qkv"]


def my_names(config):
    """{name in the published file: name in our U-Net}, all 686 of them."""
    names, a_level, top = {}, config.blocks + 1, len(config.mults) - 1

    def both(theirs, ours):
        names.update({f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")})

    def stage(theirs, ours, depth, skip, transformer_at=".1", res_at=".0"):
        for name, other in RES.items():
            if name != "skip" or skip:
                both(f"{theirs}{res_at}.{other}", f"{ours}.res.{name}")
        for name, other in TRANSFORMER.items() if depth else ():
            both(f"{theirs}{transformer_at}.{other}", f"{ours}.transformer.{name}")
        for k in range(depth):
            block, layer = f"{theirs}{transformer_at}.transformer_blocks.{k}", f"{ours}.transformer.layers.{k}"
            for name, other in LAYER.items():
                both(f"{block}.{other}", f"{layer}.{name}")
            for name in PROJECTIONS:
                other = name.replace("self_attention", "attn1").replace("cross_attention", "attn2")
                names[f"{block}.{other}"] = f"{layer}.{name}"

    both("time_embed.0", "time_mlp.linear1"), both("time_embed.2", "time_mlp.linear2")
    both("input_blocks.0.0", "conv_in"), both("out.0", "norm_out"), both("out.2", "conv_out")
    for i, depth in enumerate(config.depth):
        for j in range(config.blocks):
            widens = j == 0 and config.mults[i] != (config.mults[i - 1] if i else 1)
            stage(f"input_blocks.{1 + i * a_level + j}", f"down.{i}.stages.{j}", depth, widens)
        if i < top:
            both(f"input_blocks.{(i + 1) * a_level}.0.op", f"down.{i}.resample.conv")
    stage("middle_block", "mid.0", config.mid_depth, skip=False)
    stage("middle_block", "mid.1", 0, skip=False, res_at=".2")
    for i, depth in enumerate(reversed(config.depth)):  # on the way up every residual block narrows: all have a skip
        for j in range(a_level):
            stage(f"output_blocks.{i * a_level + j}", f"up.{i}.stages.{j}", depth, skip=True)
        if i < top:
            both(f"output_blocks.{i * a_level + config.blocks}.{2 if depth else 1}.conv", f"up.{i}.resample.conv")
    return names


from ldm_edu.layouts.unet import unet_pairs

mine = my_names(sd.unet)
theirs = {pair.theirs: pair.ours for pair in unet_pairs(sd.unet, "original")}
assert mine == theirs
with torch.device("meta"):
    shapes = {name: tuple(tensor.shape) for name, tensor in UNet(sd.unet).state_dict().items()}
assert set(mine.values()) == set(shapes)  # a bijection: nothing missing, nothing left over
print(len(mine), "tensors, each with exactly one partner")

# %%
shown = ["input_blocks.0.0.weight", "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]
shown += ["input_blocks.3.0.op.weight", "middle_block.1.proj_in.weight", "output_blocks.5.2.conv.weight"]
Table(
    ("in the file, below model.diffusion_model.", "in our U-Net", "shape"),
    tuple((name, mine[name], " x ".join(map(str, shapes[mine[name]]))) for name in shown),
)

# %% [markdown]
# **What to see.** The second row is a key projection of cross-attention: 768 numbers of a token in, 320 out. Follow the
# last row: block 5 on the way up is the last of the second level from the bottom (three blocks each, from 0), and as
# there is a transformer at `.1`, the upsampling comes at `.2`. At the lowest level, without transformers, it is at
# `.1`. Such details are why a list is made by a program and checked for being one to one, and never loaded "as far as
# it fits".
#
# Now read such a file for real. Its layout is the published one, tensor by tensor; the channels are fewer, so that it
# is quickly written, and its weights are random. The numbers that come out must be the same before and after.

# %%
import dataclasses
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from ldm_edu import LatentDiffusion
from ldm_edu.layouts.autoencoder import autoencoder_pairs
from ldm_edu.layouts.clip import text_pairs
from ldm_edu.layouts.pair import convert_back

narrow = dataclasses.replace(
    sd,
    name="narrow",
    unet=dataclasses.replace(sd.unet, channels=32),
    autoencoder=dataclasses.replace(sd.autoencoder, channels=32),
    text=dataclasses.replace(sd.text, layers=2),
)
before = LatentDiffusion.from_preset(narrow, seed=0)


def published(model):
    """The tensors of a model as the one published file has them."""
    pairs = {
        "model.diffusion_model.": (model.unet, unet_pairs(model.preset.unet, "original")),
        "first_stage_model.": (model.autoencoder, autoencoder_pairs(model.preset.autoencoder, "original")),
        "cond_stage_model.transformer.": (model.text, text_pairs(model.preset.text, "original")),
    }
    tensors = {}
    for prefix, (module, names) in pairs.items():
        converted = convert_back(module.state_dict(), names)
        tensors |= {prefix + name: tensor.contiguous() for name, tensor in converted.items()}
    return tensors


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "narrow.safetensors"
    save_file(published(before), path)
    print(f"{path.name}: {len(published(before))} tensors, {path.stat().st_size / 1e6:.0f} MB")
    after = LatentDiffusion.from_pretrained(path, preset=narrow)
for name, module in before.networks.items():
    again = after.networks[name].state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in module.state_dict().items())
print("every weight came back, bit for bit")

# %% [markdown]
# One kind of tensor is shaped differently: in the file the autoencoder's attention consists of 1 x 1 convolutions, here
# of linear maps, which compute the same. Files in the wild carry more: a second, averaged copy of the U-Net
# (`model_ema.*`), the schedule's tables, positions 0 to 76. They are dropped by name. And an older file, a `.ckpt`, is
# a Python pickle: opening one can run any program, so it is opened only in PyTorch's `weights_only` mode, or not at
# all.
#
# Is the whole equal to the reference? The same random weights were written by `diffusers` at full size and drawn with
# by both, in two layouts. This is the record; it takes minutes, so it is not repeated here:

# %%
import json

from ldm_edu import data_dir

record = json.loads((data_dir() / "benchmarks" / "verify-sd15.json").read_text())
same = record["sections"][0]
print(record["command"], "on", record["date"])
print(same["note"])
Table(
    ("largest difference", "found", "standard deviation of theirs"),
    tuple((f["name"], f"{f['value']:.1e}", *(f"{v:.2f}" for v in f["beside"].values())) for f in same["figures"]),
)

# %% [markdown]
# **What to see.** The pictures differ by less than one part in ten thousand of their spread: the rounding of float32,
# when sums are taken in another order.
#
# ## The real weights
#
# They are not part of this course: 4 GB, and under a licence of their own (CreativeML OpenRAIL-M). If this machine has
# them, in the cache of the Hugging Face hub, the next cell finds them, and everything below uses them. (From a shell,
# `.venv/bin/ldm-edu generate "a horse" --model stable-diffusion-v1-5/stable-diffusion-v1-5` fetches them, once.)
# Otherwise it says so, and the network below has random weights, which cost the same time and draw nothing.

# %%
from ldm_edu.checkpoint.io import CheckpointError
from ldm_edu.kernels.precision import quick_bfloat16

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if quick_bfloat16(DEVICE) else torch.float32
try:
    real = LatentDiffusion.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5", device=DEVICE, dtype=DTYPE)
    print("Stable Diffusion 1.5 is on this machine: the pictures below are its own.")
except CheckpointError:
    real = None
    print("Stable Diffusion 1.5 is not on this machine: the steps below are taken with random weights.")

# %% [markdown]
# ## A step at full size, on this machine
#
# How fast can a step be, at best? Two limits hold for any program. The processor computes so many operations a second,
# and memory delivers so many bytes a second; every weight has to come from memory at least once a pass. Whichever takes
# longer is the floor (Williams et al. 2009 call the picture of it the *roofline*). Measure both limits here: a large
# matrix product for the first, one long copy for the second.

# %%
import time

from ldm_edu import cfg, levels
from ldm_edu.denoise import NetworkDenoiser
from ldm_edu.kernels.packed import pack


def synchronise():
    if DEVICE == "cuda":  # a GPU works through a queue: wait until it is empty, or you time the queueing
        torch.cuda.synchronize()


def fastest(action, times=5):
    """Seconds of the quickest of several calls: what another program took away is not what we ask about."""
    found = []
    for _ in range(times):
        synchronise()
        start = time.perf_counter()
        action()
        synchronise()
        found.append(time.perf_counter() - start)
    return min(found)


def operations_a_second(dtype):
    n = 8192 if DEVICE == "cuda" else 3072
    a = torch.randn(n, n, device=DEVICE).to(dtype)
    return 2 * n**3 / fastest(lambda: a @ a, times=3)


def bytes_a_second():
    numbers = torch.zeros(2**29, dtype=torch.uint8, device=DEVICE)  # half a gigabyte, more than any cache holds
    copy = torch.empty_like(numbers)
    return 2 * numbers.nbytes / fastest(lambda: copy.copy_(numbers))  # read once, written once


speeds = {kind: operations_a_second(kind) for kind in (torch.float32, torch.bfloat16)}
compute, bandwidth = speeds[DTYPE], bytes_a_second()
for kind, speed in speeds.items():
    name = str(kind).removeprefix("torch.")
    print(f"{speed / 1e12:.2f} TFLOP/s in {name}{', which is taken below' if kind == DTYPE else ''}")
print(f"{bandwidth / 1e9:.0f} GB/s from memory")

# %% [markdown]
# `bfloat16` has the range of float32 in half the bytes, with 8 bits of precision instead of 24: enough for a network
# that estimates noise. It halves the weights, from 3.44 GB to 1.72, and more than doubles the arithmetic on processors
# that have instructions for it. The others imitate it, several times slower than they compute in float32, so there
# float32 is taken. (`float16` needs as little as bfloat16, but its range is small, and few CPUs compute it.)
#
# Build the network without memory, then give it memory. Random weights, unless the real ones are here.


# %%
def full_size():
    """The U-Net of Stable Diffusion 1.5 with random weights."""
    with torch.device("meta"):
        unet = UNet(sd.unet)
    unet = unet.to(DTYPE).to_empty(device=DEVICE).to(memory_format=torch.channels_last)
    rng = torch.Generator(DEVICE).manual_seed(0)
    noise = torch.randn(2**22, generator=rng, device=DEVICE, dtype=DTYPE)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if p.ndim > 1:  # the same noise over and over: 860 million random numbers would take longer than the rest
                fan_in = p[0].numel()
                p.copy_(noise.repeat(-(-p.numel() // len(noise)))[: p.numel()].view(p.shape) * fan_in**-0.5)
            else:
                p.fill_(1.0 if name.endswith("weight") else 0.0)  # norms; biases
    return unet.requires_grad_(False).eval()


unet = real.unet if real else full_size()
weight_bytes = sum(p.nbytes for p in unet.parameters())
print(f"{sum(p.numel() for p in unet.parameters()):,} parameters in {weight_bytes / 1e9:.2f} GB")

# %% [markdown]
# One step is one call of the guided denoiser: two passes as one batch, with the prompt and without. Keys and values of
# the text, and the embeddings of all time steps, are computed at the first call and kept (lessons 05 and 02), so the
# first call is not counted.
#
# It is timed twice. The library below PyTorch's convolutions lays each weight out anew, at every call, in the order
# that its inner loops like. `pack` does that once and keeps the result; on a GPU it does nothing.

# %%
run = levels(schedule, 20)
context = torch.randn(2, 77, 768, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def guided_step(size):
    """Seconds of a guided step at this size, the first call not counted."""
    branches = [NetworkDenoiser(unet, "eps", Conditioning(context=part), run) for part in context.split(1)]
    guided = cfg(*branches, scale=7.5)
    x = torch.randn(1, 4, size // 8, size // 8, device=DEVICE)
    assert guided(x, run[0]).isfinite().all()
    return fastest(lambda: guided(x, run[5]), times=2)


plain = {size: guided_step(size) for size in (256, 512)}
pack(unet)
measured = {size: guided_step(size) for size in plain}

floors = {size: (2 * work_of[size] / compute, weight_bytes / bandwidth) for size in measured}
Table(
    (
        "a guided step",
        "computing, at best",
        "fetching the weights, at best",
        "as loaded",
        "packed",
        "share of the roof",
    ),
    tuple(
        (
            f"{s} x {s}",
            *(f"{seconds:.2f} s" for seconds in (c, b, plain[s], measured[s])),
            f"{max(c, b) / measured[s]:.0%}",
        )
        for s, (c, b) in floors.items()
    ),
)

# %%
with torch.device("meta"):
    from ldm_edu.models.autoencoder import AutoencoderKL

    decoder = AutoencoderKL(sd.autoencoder)
with FlopCounterMode(display=False) as counter:
    decoder.decode(torch.empty(1, 4, 64, 64, device="meta"))
decoding = counter.get_total_flops()
print(f"the decoder at 512 pixels: {decoding / 1e9:,.0f} GFLOP, once a picture")
share = max(floors[512]) / measured[512]
estimate = 20 * measured[512] + decoding / compute / share
print(f"a picture of 512 x 512 in 20 steps: about {estimate:.0f} s on this machine")

# %% [markdown]
# The last line takes the decoder to reach the same share of the roof as the step does.
#
# **What to see.** How far the measured time is above the larger of the two floors. At small batches a program has to
# work to get near it: weights in the right order, no copies between layers, nothing computed twice. And see
# which floor binds: on a CPU it is arithmetic at both sizes; on a GPU, whose arithmetic is hundreds of times faster and
# whose memory is only some tens of times, the two floors move together, and small pictures wait for the weights.
#
# Draw the roof. Across, how many operations a byte fetched is used for; up, operations a second.


# %%
def roof_figure():
    with look():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        ridge = compute / bandwidth
        lowest, highest = ridge / 10, ridge * 100
        axes.loglog([lowest, ridge], [lowest * bandwidth / 1e12, compute / 1e12], color=INK, label="the roof, measured")
        axes.loglog([ridge, highest], [compute / 1e12] * 2, color=INK)
        for size, marker in zip(measured, "os"):
            intensity = 2 * work_of[size] / weight_bytes
            rate = 2 * work_of[size] / measured[size] / 1e12
            axes.loglog(intensity, rate, marker, ms=5, color=NETWORK, label=f"a guided step, {size} pixels")
            axes.loglog(
                [intensity] * 2, [rate, min(compute, intensity * bandwidth) / 1e12], color=NETWORK, ls=":", lw=1
            )
        axes.set(xlabel="operations for each byte of weights", ylabel="TFLOP/s")
        axes.set_ylim(compute / 1e13, 1.5 * compute / 1e12)
        axes.legend(fontsize=8.5, loc="lower right")
        return drawing(
            figure,
            alt="A roof over logarithmic axes: rising with memory's speed on the left, flat at the processor's speed on "
            "the right. The points of a guided step at 256 and 512 pixels lie under the flat part.",
        )


roof_figure()

# %% [markdown]
# **What to see.** Both points are right of the ridge, under the flat part: more memory speed would not help here. The
# short dotted lines up to the roof are what is lost to everything that is not a large matrix product.
#
# ## A picture
#
# With the real weights on a GPU, this cell draws. With them on a CPU it draws too, smaller, and you can make coffee.
# Without them there is nothing to draw with.

# %%
from ldm_edu.viz import explore

if real:
    side = 512 if DEVICE == "cuda" else 256
    prompt = "a photograph of an astronaut riding a horse"
    shown = explore(real.generate([prompt], steps=20, guidance=7.5, size=side), real.decode, title=prompt)
else:
    shown = "no weights, no picture: put Stable Diffusion 1.5 into the hub's cache and run this cell again"
shown

# %% [markdown]
# From the shell the same is `ldm-edu generate --model FILE "an astronaut riding a horse" --size 512x512`, for the
# single file, the folder, or the name on the hub.
#
# ## Start from a picture
#
# A sampler walks from noise to data and does not ask who made the noisy sample it starts with. So start in the middle:
# take a picture, encode it, add the noise of level $k$, and walk from there (Meng et al. 2022, section 3). The share of
# the way that is walked is called *strength*: at 1 next to nothing of the picture is left, at 0 nothing is done to it.
# All you need is `levels[k:]`. The emoji model can do it as well as the large one, so it plays here.

# %%
from ldm_edu import dpmpp_2m, initial_noise
from ldm_edu.schedule import add_noise

model = LatentDiffusion.from_pretrained("emoji")


def my_image_to_image(image, prompts, strength, steps=20, seed=0):
    run = levels(model.schedule, steps)[steps - int(strength * steps + 1e-6) :]
    x0 = model.encode(image)  # (1, C, h, w)
    x = add_noise(x0, initial_noise([seed], x0.shape[1:]), run[0]).repeat(len(prompts), 1, 1, 1)
    cond, blank = model.condition(prompts), model.condition([""])
    guided = cfg(model.denoiser(cond, run), model.denoiser(blank, run), 5.0)
    if len(run) > 1:
        *_, last = dpmpp_2m(guided, x, run)
        x = last.x
    return model.decode(x)


*_, last = model.generate(["red apple, 3d style"], seeds=[7], steps=20, guidance=5.0)
apple = model.decode(last.x)

from ldm_edu import Edit

ours = my_image_to_image(apple, ["tomato, flat style"], strength=0.6)
*_, last = model.generate(["tomato, flat style"], seeds=[0], steps=20, guidance=5.0, edit=Edit(apple, strength=0.6))
torch.testing.assert_close(ours, model.decode(last.x), rtol=0, atol=1e-4)

# %%
from ldm_edu.viz import gallery

asked = ["tomato, flat style", "watermelon, 3d style", "dog face, noto style"]
strengths = [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0]
frames = {f"{strength}": my_image_to_image(apple, asked, strength) for strength in strengths}
gallery(frames, asked, name="strength", title="From a red apple towards another prompt")

# %% [markdown]
# **What to see.** At 0.1 the apple is repainted where it stands. At 0.2 both things are in the picture: a melon's rind
# around an apple's red, a face on its skin. At 0.4 the prompt has won. Noise takes fine things first and coarse things
# last (lesson 01), so strength chooses how coarse the things are that may change; and guidance pulls, at every step
# that is left, towards the prompt. On large pictures, which keep their outlines under more noise, 0.4 to 0.7 is the
# usual range.
#
# **Try it.** Put a picture of your own in the apple's place: `apple = from_pil(fit(open_picture(Path("mine.png")), (64,
# 64)))`, with these three from `ldm_edu.pictures`. Find the strength at which it is no longer yours.

# %% [markdown]
# ## Train it
#
# The loop is the one of lesson 04: noise a clean latent, predict the noise, square the error. Nothing in it knows how
# large the network is. On a GPU the cell below trains all 859,520,964 parameters from scratch for some minutes. On a
# processor they would need 14 GB with their gradients and AdamW's two moments, so there the **same class with a tenth
# of the channels** (32 instead of 320) is trained for about a minute.
#
# The data are the emoji model's latents and text states. Its states are 192 numbers wide where Stable Diffusion reads
# 768; the rest is zeros.

# %%
import torch.nn.functional as F

from ldm_edu.datasets.backgrounds import composite
from ldm_edu.datasets.emoji import emoji_tensors
from ldm_edu.kernels.precision import autocast

data = emoji_tensors("train", starter=True)
with torch.no_grad():
    pictures = composite(data.rgba, torch.ones(len(data.rgba), 3))
    latents = torch.cat([model.encode(part) for part in pictures.split(64)]).to(DEVICE)  # (N, 4, 16, 16)
    states = torch.cat([model.condition(data.captions[i : i + 64]).context for i in range(0, len(latents), 64)])
    blank_state = model.condition([""]).context  # (1, 32, 192)


def widened(context):
    return F.pad(context, (0, sd.unet.context_dim - context.shape[-1])).to(DEVICE)  # (B, 32, 768)


STEPS, BATCH, config = 150, 16, dataclasses.replace(sd.unet, channels=32)
if DEVICE == "cuda":
    STEPS, BATCH, config = 2000, 64, sd.unet
torch.manual_seed(0)
trained = UNet(config).to(DEVICE).to(memory_format=torch.channels_last)
torch.nn.init.zeros_(trained.conv_out.weight)  # the first prediction is 0, the mean of the noise
rate = 1e-4 if DEVICE == "cuda" else 1e-3
optimizer = torch.optim.AdamW(trained.parameters(), rate, betas=(0.9, 0.99), fused=True)
print(f"{sum(p.numel() for p in trained.parameters()):,} parameters, {len(latents)} pictures, on a {DEVICE}")

# %%
rng, losses, start = torch.Generator().manual_seed(0), [], time.perf_counter()
for step in range(STEPS):
    rows = torch.randint(len(latents), (BATCH,), generator=rng)
    x0, context = latents[rows], widened(states[rows])
    context[torch.rand(BATCH, generator=rng) < 0.1] = widened(blank_state)[0]  # lesson 06
    t = torch.randint(1000, (BATCH,), generator=rng)
    eps = torch.randn(x0.shape, generator=rng).to(DEVICE)
    x = add_noise(x0, eps, schedule.level(t).to(DEVICE)).to(memory_format=torch.channels_last)
    with autocast(DEVICE):  # bfloat16, where the processor knows it
        loss = F.mse_loss(trained(x, t.to(DEVICE), Conditioning(context=context)).float(), eps)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (1 - step / STEPS))
    optimizer.step()
    losses.append(float(loss.detach()))
seconds = time.perf_counter() - start
print(f"{STEPS} steps of {BATCH} in {seconds:.0f} s: {STEPS * BATCH / seconds:.0f} latents of 16 x 16 a second")
assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


# %%
def loss_figure():
    with look():
        figure = Figure(figsize=(7.0, 2.9), layout="constrained")
        axes = figure.add_subplot()
        smooth = [sum(losses[max(0, i - 9) : i + 1]) / len(losses[max(0, i - 9) : i + 1]) for i in range(len(losses))]
        axes.plot(losses, color=SOFT, lw=0.8, label="each step")
        axes.plot(smooth, color=NETWORK, label="mean of ten")
        axes.set(xlabel="step", ylabel="mean squared error of the noise", ylim=(0, 1.1))
        axes.legend(fontsize=9)
        return drawing(figure, alt="The loss falls steeply from 1 in the first steps, and then slowly.")


loss_figure()

# %%
from ldm_edu.viz import sheet

trained.eval()
asked = ["red apple, 3d style", "dog face, flat style", "tulip, noto style", "watermelon, 3d style"]
with torch.no_grad():
    wanted = NetworkDenoiser(trained, "eps", Conditioning(context=widened(model.condition(asked).context)))
    blank = NetworkDenoiser(trained, "eps", Conditioning(context=widened(blank_state)))
    noise = initial_noise(range(4), (4, 16, 16)).to(DEVICE)
    *_, last = dpmpp_2m(cfg(wanted, blank, 3.0), noise, levels(schedule, 20))
    drawn = model.decode(last.x.to(model.device))
sheet(drawn, asked)

# %% [markdown]
# **What to see.** The loss starts at 1, that of a network which always answers 0, falls steeply, and after some eighty
# steps seems to be done. The pictures are confetti. Both are right: the network has learned to copy noise where noise
# is plain to see, which is most of the loss. What a picture shows is decided at the noisy end. There the loss is small
# as soon as noise is repeated; the little that is left of it is the picture, and the curve does not show it. The
# shipped emoji model, of about the same size, saw two hundred times as many pictures.

# %% [markdown]
# ## What the real training cost
#
# Count as before. A pass forward at 256 pixels takes 180 GFLOP; going backward costs twice the way forward, since both
# the inputs and the weights get gradients. So one training picture costs three passes.

# %%
per_image = {size: 3 * work_of[size] for size in (256, 512)}
CARDS = {256: 237_000, 512: 194_000 + 515_000 + 595_000}  # steps, by the model cards of versions 1-1, 1-2 and 1-5
ROUND = {256: 600_000, 512: 600_000}  # a plan in round numbers
BATCH_THERE, GPUS = 2048, 256  # by the same cards: 32 machines with 8 A100 each
A100 = 312e12  # FLOP/s in bfloat16, by its data sheet


def operations(plan):
    return sum(steps * BATCH_THERE * per_image[size] for size, steps in plan.items())


here = {size: per_image[size] / (3 * measured[size] / 2) for size in per_image}  # a guided step is two passes


def hours_here(plan):
    return sum(steps * BATCH_THERE * per_image[size] / here[size] for size, steps in plan.items()) / 3600


rows = []
for name, plan in (("as in the model cards", CARDS), ("600,000 steps at each size", ROUND)):
    work = operations(plan)
    rows += [
        (name, "one A100 at its full speed", f"{work / A100 / 3600:,.0f}", "GPU hours"),
        ("", "one A100 at a quarter of it", f"{work / A100 / 0.25 / 3600:,.0f}", "GPU hours"),
        ("", f"{GPUS} of these", f"{work / A100 / 0.25 / 3600 / GPUS / 24:.1f}", "days"),
        ("", "this machine, at the speed measured above", f"{hours_here(plan) / 24 / 365:,.0f}", "years"),
    ]
Table(("plan", "on", "takes", ""), tuple(rows))

# %% [markdown]
# **What to see.** A quarter of the peak is about what published training code reaches on A100s. The cards report
# 150,000 GPU hours, several times as much as the second row. The count has left things out: each picture was encoded
# and each caption read anew in every step, the software of 2022 was slower, and not every hour of 256 GPUs trains. A
# few months later MosaicML estimated 79,000 hours for version 2 (*Training Stable Diffusion from Scratch Costs <$160k*,
# a blog post of 2023), and then did it for a third of the price, with latents computed beforehand. You did the same in
# lesson 04: encode once, train on what is kept.
#
# How such a run is laid out over many GPUs, and what happens when one of them dies, is in `docs/training_at_scale.md`;
# `ldm-edu train unet --preset sd15 --data FOLDER` is its command, on one processor as on many GPUs.

# %% [markdown]
# ## Recap
#
# - Stable Diffusion 1.5 is this course's model at another preset: 859,520,964 + 83,653,863 + 123,060,480 parameters.
# - Weight is at the bottom of the U, work at the top; at large pictures self-attention takes over.
# - A checkpoint is a list of names. Load it one to one, or not at all, and never run it.
# - A step cannot be faster than its arithmetic over the processor's speed, nor than its weights over memory's.
# - A picture can start from a picture: the sampler only sees levels from $k$ on.
# - Three passes a training picture, times pictures, over operations a second: that is the price.
#
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "Where are most of the U-Net's parameters?",
        [
            Choice(
                "At the top level, which sees all 64 x 64 places",
                "There is most of the work. Its maps have 320 channels.",
            ),
            Choice(
                "At the levels with 1,280 channels",
                "A convolution's count grows with the square of the channels, and places do not matter.",
                right=True,
            ),
            Choice(
                "In cross-attention, which reads the text", "It is one of the smallest parts: see the first figure."
            ),
        ],
    ),
    Question(
        "A checkpoint loads with strict=False and without an error, but draws grey noise. What is likely?",
        [
            Choice("The sampler is wrong", "Then another checkpoint would fail in the same way."),
            Choice(
                "Some names did not match, and those layers kept their random weights",
                "That is what the option permits, silently. A list that must be one to one cannot do it.",
                right=True,
            ),
            Choice("bfloat16 is too coarse", "Eight bits of precision change details, not everything."),
        ],
    ),
    Question(
        "On some GPU a guided step at 256 pixels takes as long as one at 192. Which floor binds there?",
        [
            Choice(
                "Fetching the weights",
                "They are the same at both sizes. Only the arithmetic shrinks with the picture.",
                right=True,
            ),
            Choice("Arithmetic", "At 192 pixels there is about half as much of it."),
            Choice("The sampler's own arithmetic", "It is a few operations a latent value, and shrinks as well."),
        ],
    ),
    Question(
        "Image to image with strength 0.3 and 20 steps. How many times is the network asked, with DPM-Solver++ 2M?",
        [
            Choice("20 times, each changing less", "The first 14 levels are skipped: nothing happens there."),
            Choice("6 times", "levels[14:] has seven levels, so six steps.", right=True),
            Choice("14 times", "That is what is left out."),
        ],
    ),
    Question(
        "Why does a training step cost about three forward passes?",
        [
            Choice("AdamW keeps two moments", "They cost memory, and hardly any arithmetic."),
            Choice(
                "Going backward multiplies twice: once for the gradient of the inputs, once for that of the weights",
                "Each has the size of the forward product.",
                right=True,
            ),
            Choice("The prompt, the blank and the negative prompt", "In training a picture has one condition."),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models* ([arXiv
#   2112.10752](https://arxiv.org/abs/2112.10752)), section 3 and table 15: the model, and its hyperparameters.
# - Meng et al. 2022, *SDEdit* ([arXiv 2108.01073](https://arxiv.org/abs/2108.01073)), section 3: from a picture.
# - Williams, Waterman and Patterson 2009, *Roofline: An Insightful Visual Performance Model for Multicore
#   Architectures*, Communications of the ACM 52(4).
# - The model cards of Stable Diffusion 1-1 to 1-5, for data, steps, batch and hours.
#
# Exercises: [exercises/08_stable_diffusion.ipynb](../exercises/08_stable_diffusion.ipynb); each item answers at once.
#
# This is the last lesson of the course. Go back to the map in [lesson 00](00_start_here.ipynb): you have built every
# box in it, and seen that the largest of them differ from yours only in size.
