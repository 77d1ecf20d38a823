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
# # 05 · Text
#
# **The question.** How do words steer a picture?
#
# The U-Net of lesson 04 has no letters in it, and a prompt has no pixels in it. This lesson builds the road between
# them: a *tokenizer* that turns text into numbers, a *text transformer* that lets the numbers know each other, the
# *contrastive loss* that teaches it what pictures look like, and *cross-attention*, through which every place of the
# picture reads the words. Then you watch it read.
#
# **After this lesson you can**
#
# - cut a prompt into tokens by hand, and say why "mushroom" is one for Stable Diffusion and two for our model;
# - write CLIP's text tower and its loss, and train a small CLIP that finds pictures by their words;
# - write cross-attention and the spatial transformer around it, and say what the queries, keys and values are;
# - draw the heat map of each word over a picture, and say what such a map does not show;
# - say what the 77 by 768 numbers are that Stable Diffusion 1.5 makes of every prompt.
#
# **You need** lesson 04 for the U-Net and the sampler. Attention is built here from nothing.
#
# **Time**: one to two minutes of computing on two processor cores, an hour of reading and playing.

# %% [markdown]
# ## Words to numbers: byte pairs
#
# A network reads numbers, so text must be cut into pieces out of a fixed list. Whole words would need an endless list;
# single letters would make every prompt long. *Byte-pair encoding* takes the middle: begin with the letters of a word,
# then join the pair of neighbours that stands first in a list of *merges*, again and again. The list was made once,
# from a large amount of text, by always joining the most frequent pair. So frequent words end as one piece.
#
# Stable Diffusion reads with CLIP's list, and so do we. Here are its first lines. `</w>` marks the end of a word.

# %%
import gzip
from itertools import pairwise

from ldm_edu.paths import data_dir

packed = (data_dir() / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
lines = gzip.decompress(packed).decode().split("\n")[1 : 1 + 48_894]  # the first line is a title
merges = [tuple(line.split()) for line in lines]
ranks = {pair: place for place, pair in enumerate(merges)}
print(merges[:6], len(merges))

# %% [markdown]
# The loop, for one word:


# %%
def join_pairs(word, ranks, watch=False):
    """The pieces of one word: join the pair of lowest rank until no pair is in the list."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        i = pairs.index(best)
        pieces[i : i + 2] = ["".join(best)]
        if watch:
            print(f"{ranks[best]:6d}  {' + '.join(best):22}  {pieces}")
    return pieces


_ = join_pairs("mushroom", ranks, watch=True)

# %% [markdown]
# Now the pieces need numbers. The first 256 are the possible *bytes*, each written as some printable character; the
# next 256 the same at the end of a word; then one number for each merge, and two for *start* and *end*. Since any text
# is made of bytes, none is outside this vocabulary.
#
# Our small model keeps only the first 7,678 merges: 8,192 tokens, and rare words in more pieces. Read the ranks above:
# the last join of *mushroom* is not among them, so there it stays two tokens, *mush* and *room*.

# %%
import unicodedata

import regex

printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
rest = [byte for byte in range(256) if byte not in printable]
letter = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")  # letters, one digit, or other signs


def tokenize(text, vocab=49_408):
    """Text to tokens, without start and end."""
    kept = merges[: vocab - 514]
    ranks = {pair: place for place, pair in enumerate(kept)}
    symbols = [*letter.values(), *(c + "</w>" for c in letter.values()), *("".join(pair) for pair in kept)]
    number = {symbol: i for i, symbol in enumerate(symbols)}
    words = WORD.findall(unicodedata.normalize("NFC", text).lower())
    spelled = ["".join(letter[byte] for byte in word.encode()) for word in words]
    return [number[piece] for word in spelled for piece in join_pairs(word, ranks)]


print(tokenize("Red apple, 3d style"), tokenize("twemoji"), tokenize("twemoji", vocab=8192))

# %% [markdown]
# The same as the package's tokenizer? On captions, and on strings made to be difficult.

# %%
from ldm_edu import tokenizer
from ldm_edu.datasets.emoji import emoji_tensors

captions = emoji_tensors("pairs").captions
tricky = [
    "",
    "  ",
    "don't we'll",
    "4k --ar 16:9",
    "Straße, naïve CAFÉ",
    "日本の寿司",
    "🍎🚀",
    "e=mc²",
    "a\tb\nc",
    "?!?! ...",
]
for vocab in (8192, 49_408):
    ours = tokenizer.Tokenizer(vocab=vocab)
    for text in [*captions[::10], *tricky]:
        assert tokenize(text, vocab) == ours.encode(text), text
print(f"{len(captions[::10])} captions and {len(tricky)} tricky strings: the same tokens, in both vocabularies")

# %% [markdown]
# And the same as the reference that everybody uses, `CLIPTokenizer` of the library `transformers`? It is built here
# from the same list of merges, so nothing is downloaded. Without that library the cell says so, and you lose nothing.

# %%
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in this lesson asks the network

if find_spec("transformers"):
    from transformers import CLIPTokenizer

    signs = sorted(letter.values())
    symbols = [*signs, *(c + "</w>" for c in signs), *("".join(pair) for pair in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({s: i for i, s in enumerate(symbols)}), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
        reference = CLIPTokenizer.from_pretrained(folder)
    for text in [*captions[::10], *tricky]:
        assert reference(text)["input_ids"][1:-1] == tokenize(text), text
    print("transformers' CLIPTokenizer: the same tokens")
else:
    print("transformers is not installed: the comparison is left out")

# %% [markdown]
# ## Numbers that know each other: the text transformer
#
# A token's number says nothing about its neighbours. The *text transformer* looks up a row of numbers for each token,
# adds one for its place, and passes the rows through layers of two halves:
#
# - *attention* lets each row collect from the others. A row asks a **query** $q$; each row offers a **key** $k$ and a
#   **value** $v$, all three linear maps of the rows. Where query and key fit, the value is taken:
#
# $$\text{attention}(q, k, v) = \text{softmax}\left(\frac{q k^\top}{\sqrt{d}}\right) v$$
#
#   The softmax makes the weights of one query positive and of sum 1. Several *heads* do this side by side, each with
#   $d$ numbers a row.
# - the *MLP* works on each row by itself: two linear maps with a bend between, $x \cdot \text{sigmoid}(1.702\, x)$
#   here.
#
# The text tower is *causal*: a token sees itself and what is before it. (Vaswani et al. 2017; Radford et al. 2021.)

# %%
import math

import torch
from einops import rearrange


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def layer_norm(x, w, name):  # every row to mean 0 and variance 1, then a learned scale and shift
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def split_heads(x, heads):
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def causal_attention(x, w, name, heads):
    q, k, v = (split_heads(linear(x, w, f"{name}.{part}"), heads) for part in ("to_q", "to_k", "to_v"))
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, heads, L, L)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)  # (L, L), above the diagonal
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return linear(rearrange(weights @ v, "b h l d -> b l (h d)"), w, f"{name}.to_out")


def text_layer(x, w, name, heads):
    x = x + causal_attention(layer_norm(x, w, f"{name}.norm1"), w, f"{name}.attention", heads)
    h = linear(layer_norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.up")
    return x + linear(h * torch.sigmoid(1.702 * h), w, f"{name}.mlp.down")


def text_transformer(tokens, w, layers, heads):
    x = w["token.weight"][tokens] + w["position"][: tokens.shape[1]]  # (B, L, D)
    for i in range(layers):
        x = text_layer(x, w, f"layers.{i}", heads)
    return layer_norm(x, w, "norm")


# %% [markdown]
# Load the shipped model of lesson 00 and put its weights into your functions. The package's encoder must say the same.

# %%
from ldm_edu import LatentDiffusion
from ldm_edu.models import clip

model = LatentDiffusion.from_pretrained("emoji")
config = model.preset.text
weights = model.text.state_dict()
tokens = model.tokenizer(["red apple, 3d style", "red panda, flat style"])  # (2, 32)
with torch.no_grad():
    states = text_transformer(tokens, weights, config.layers, config.heads)
    encoder = clip.TextEncoder(config)
    encoder.load_state_dict(weights)
    torch.testing.assert_close(states, encoder(tokens).last, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(states[0, :2], states[1, :2])  # start and red
assert not torch.allclose(states[0, -1], states[1, -1], atol=0.1)  # the last padding
print(f"{len(tokens)} prompts -> {tuple(states.shape)}: a row of {config.width} numbers a token, padding included")

# %% [markdown]
# The two checks before the print are causality at work. The two prompts begin alike: *start* and *red* have the same
# states in both, since they see nothing of what follows. The padding at the end has seen everything, and differs. Keep
# that in mind: in this tower **late tokens know the whole prompt**.
#
# ## A tower for pictures
#
# CLIP's other half reads pictures with the same kind of layers, without the mask. A picture is cut into square
# *patches*; each patch, a row of pixel values, goes through one linear map. A row for the *class token* is put in
# front, and its last state stands for the picture. The cutting and the linear map together are a convolution whose
# stride is as large as its kernel:

# %%
from ldm_edu.datasets.backgrounds import background, composite

held_out = emoji_tensors("pairs", core=True)  # pairs of thing and style that no training of ours has seen
pictures = composite(held_out.rgba, background("white", len(held_out.rgba)))  # (N, 3, 64, 64)

vision = clip.VisionEncoder(model.preset.vision)
size = model.preset.vision.patch
patches = rearrange(pictures[:2], "b c (h p) (w q) -> b (h w) (c p q)", p=size, q=size)
by_hand = patches @ rearrange(vision.patch.weight, "d c p q -> (c p q) d")
torch.testing.assert_close(by_hand, rearrange(vision.patch(pictures[:2]), "b d h w -> b (h w) d"), rtol=1e-4, atol=1e-4)
print(f"a picture is {patches.shape[1]} patches of {patches.shape[2]} numbers")

# %% [markdown]
# ## What goes together: the contrastive loss
#
# Nobody can say which numbers should stand for "apple". CLIP asks for less. Each tower
# gives one state for the whole: the picture's class token, and the text's first *end* token, which has read all of it
# (the *pooled* state). A linear map brings both to the same number of components, and both are scaled to length 1. In a
# batch of $N$ pictures and their $N$ captions, each picture should be nearer to its own caption than
# to the other $N - 1$, and each caption nearer to its own picture. As a table of $N \times N$ dot products: the
# diagonal should win in every row and in every column. "Win" is measured by cross-entropy, the minus logarithm of the
# softmax:
#
# $$L = \frac{1}{2N} \sum_i \left( -\log \frac{e^{s\, u_i \cdot v_i}}{\sum_j e^{s\, u_i \cdot v_j}}
# -\log \frac{e^{s\, u_i \cdot v_i}}{\sum_j e^{s\, u_j \cdot v_i}} \right)$$
#
# with pictures $u$, texts $v$ and a learned factor $s$ that says how much a small difference counts.

# %%
from ldm_edu.training import losses


def contrastive(images, texts, scale):
    table = scale * images @ texts.T  # (N, N), a row a picture
    own = table.diagonal()
    by_row = own - table.logsumexp(dim=1)
    by_column = own - table.logsumexp(dim=0)
    return -0.5 * (by_row.mean() + by_column.mean())


rng = torch.Generator().manual_seed(0)
u, v = (torch.nn.functional.normalize(torch.randn(6, 8, generator=rng), dim=1) for _ in range(2))
torch.testing.assert_close(contrastive(u, v, 5.0), losses.contrastive_loss(u, v, torch.tensor(5.0)))
print(
    f"strangers: {contrastive(u, v, 5.0):.2f}; a guess at random: {math.log(6):.2f}; twins: {contrastive(u, u, 50.0):.2f}"
)

# %% [markdown]
# ## Train one
#
# A small CLIP on animals, plants and food, at 32 by 32 pixels: two layers a tower, 120 steps of 128 pairs. It takes
# less than a minute. The test is *retrieval*: given the caption of a held-out picture, is that picture the nearest one?
# The training set has the thing in other styles and the style on other things, never the two together.

# %%
from ldm_edu.config import TextConfig, VisionConfig


def small(split):
    """Pictures (N, 3, 32, 32), tokens (N, 16) and captions."""
    data = emoji_tensors(split, starter=True)
    images = composite(data.rgba, background("white", len(data.rgba)))
    return torch.nn.functional.avg_pool2d(images, 2), tokenizer.Tokenizer(4096, 16)(data.captions), data.captions


@torch.no_grad()
def ranks_of(network, images, tokens):
    """For each caption, how many pictures are nearer to it than its own: 0 is best. (N,)"""
    near = network.encode_text(tokens) @ network.encode_image(images).T  # (texts, pictures)
    return (near > near.diagonal()[:, None]).sum(dim=1)


def report(name, ranks):
    top1, top5, count = float((ranks < 1).float().mean()), float((ranks < 5).float().mean()), len(ranks)
    print(
        f"{name:38} top-1 {top1:4.0%} (chance {1 / count:.1%})   top-5 {top5:4.0%} (chance {5 / count:.1%})   N = {count}"
    )
    return top1, top5


images, tokens, _ = small("train")
test_images, test_tokens, test_captions = small("pairs")
torch.manual_seed(0)
of_text = TextConfig(vocab=4096, length=16, width=96, layers=2, heads=3)
of_pictures = VisionConfig(size=32, patch=8, width=96, layers=2, heads=3)
mine = clip.CLIP(of_text, of_pictures, embed_dim=96)
_ = report("before training", ranks_of(mine, test_images, test_tokens))

# %%
STEPS = 120
optimizer = torch.optim.AdamW(mine.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1)
history = []
for step in range(STEPS):
    for group in optimizer.param_groups:  # up for 20 steps, down over the last 60
        group["lr"] = 1e-3 * min((step + 1) / 20, (STEPS - step) / 60, 1)
    rows = torch.randperm(len(images))[:128]
    scale = mine.logit_scale.clamp(max=math.log(100)).exp()
    loss = contrastive(mine.encode_image(images[rows]), mine.encode_text(tokens[rows]), scale)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())

print(f"loss: {history[0]:.2f} at first, {sum(history[-10:]) / 10:.2f} at the end (a guess: {math.log(128):.2f})")
top1, _ = report(f"after {STEPS} steps, held-out pairs", ranks_of(mine, test_images, test_tokens))
assert top1 > 5 / len(test_tokens), "a trained CLIP finds pictures far better than chance"

# %% [markdown]
# From the words alone it finds pictures that it has never seen, many times as often as by chance. Here is the table
# that the loss looks at, for eight of them:

# %%
from matplotlib.figure import Figure

from ldm_edu.viz.style import SIGNED, drawing, look

some = list(range(0, 48, 6))[:8]
with torch.no_grad():
    table = mine.encode_text(test_tokens[some]) @ mine.encode_image(test_images[some]).T
with look():
    figure = Figure(figsize=(7.4, 4.3), layout="compressed")
    axes = figure.add_subplot()
    drawn = axes.imshow(table, cmap=SIGNED, vmin=-1, vmax=1)
    names = [test_captions[i] for i in some]
    axes.set(yticks=range(8), yticklabels=names, xticks=range(8), xticklabels=range(1, 9))
    axes.set(xlabel="picture (in the order of the captions)", ylabel="caption")
    axes.grid(False)
    figure.colorbar(drawn, label="dot product, -1 to 1")
    similar = drawing(figure, f"Table of dot products of 8 captions and 8 pictures, held out. Captions: {names}.")
similar

# %% [markdown]
# **What to see.** The diagonal, caption and its own picture, is the warmest in most rows. Off it, blue and pale:
# strangers were pushed apart.
#
# ## The shipped CLIP, measured
#
# The text tower of the shipped model was trained longer and on more, 2,220 pictures of all groups, and with one change:
# half of its captions say only a part, "red apple" or "3d style". Such a text is true of several pictures of a batch,
# and these share the probability that was the diagonal's (Yang et al. 2022). Why, you see below. Its picture tower lies
# beside it. First the held-out pairs, then harder: things of which it has seen no picture in any style.

# %%
from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.io import load_tensors
from ldm_edu.weights.fit import load_into

folder = find_checkpoint("emoji")
shipped = clip.CLIP(model.preset.text, model.preset.vision, model.preset.embed_dim)
tensors = load_tensors(folder, "clip")
for part in ("text", "vision"):
    tensors |= {f"{part}.{name}": value for name, value in load_tensors(folder, part).items()}
load_into(shipped, tensors, "the shipped CLIP")

pairs_top1, pairs_top5 = report("held-out pairs", ranks_of(shipped, pictures, model.tokenizer(held_out.captions)))
new = emoji_tensors("concepts", core=True)
new_pictures = composite(new.rgba, background("white", len(new.rgba)))
new_tokens = model.tokenizer(new.captions)
new_top1, _ = report("things never seen", ranks_of(shipped, new_pictures, new_tokens))
with torch.no_grad():
    nearest = (shipped.encode_text(new_tokens) @ shipped.encode_image(new_pictures).T).argmax(dim=1)
in_style = float((new.styles[nearest] == new.styles).float().mean())
print(f"of the things never seen, nearest picture in the right style: {in_style:.0%} (chance about {1 / 6:.0%})")
assert pairs_top1 > 20 / len(pictures) and pairs_top5 > pairs_top1 > new_top1

# %% [markdown]
# **What to see.** (Not comparable with your own figure above: here all the held-out pictures compete, of every group.)
# This is a claim of Radford et al. (2021), measured in small: contrastive training on captions alone
# gives a model that recognises pictures it was never trained on. The first line agrees. The second shows where the
# claim gets its strength: *their* CLIP knew new things since 400 million captions leave few words new. Ours never read
# the names of these things in training, so it goes by what it did read: the style, as the third line shows.
#
# ## What two words mean together
#
# "red apple, noto style" can be learned by heart, as a name of one picture. Or it can be built, from what "red apple"
# means anywhere and what "noto style" means anywhere. Only the second helps with a pair that was never seen, and a
# U-Net that reads these vectors can be no better at it than they are. So measure it. Take the vectors $e_{ts}$ of all
# things $t$ in all styles $s$, and split them as one splits a table: the mean, what the thing adds in every style, what
# the style adds to every thing, and the rest, that belongs to the pair alone:
#
# $$e_{ts} = \bar e + a_t + b_s + r_{ts}$$

# %%
from ldm_edu.datasets.emoji import STYLES, emoji_labels

things = sorted(set(emoji_tensors("train", starter=True).concepts.tolist()))
labels = emoji_labels()
every = [f"{labels[thing]}, {style} style" for thing in things for style in STYLES]


@torch.no_grad()
def split_variance(network, tokens):
    """How much of the variance of the text vectors is the thing's, the style's, and the pair's alone."""
    e = rearrange(network.encode_text(tokens), "(t s) d -> t s d", s=len(STYLES))
    e = e - e.mean(dim=(0, 1))
    thing, style = e.mean(dim=1, keepdim=True), e.mean(dim=0, keepdim=True)
    parts = [thing.expand_as(e), style.expand_as(e), e - thing - style]
    return [float(part.square().sum() / e.square().sum()) for part in parts]


print("share of the variance:               thing   style   the pair alone   style : pair")
split = {}
for name, network, words in (
    ("yours, whole captions only", mine, tokenizer.Tokenizer(4096, 16)(every)),
    ("the shipped one, parts of captions too", shipped, model.tokenizer(every)),
):
    thing, style, pair = split[name] = split_variance(network, words)
    print(f"{name:38} {thing:4.0%}    {style:4.0%}        {pair:4.0%}            {style / pair:.1f}")

# %% [markdown]
# **What to see.** In yours the style adds less than what belongs to single pairs: most of what it says about a style it
# says about one picture. In the shipped one the style's share is five times the pairs'. To the U-Net a prompt that was
# never trained is then nearly the sum of two things that it has met. No loss asked for a sum: it comes of texts that
# are true of many pictures at once. (The fair comparison is in the model's card: trained on whole captions only, the
# same network had 15 % and 12 %. The price was retrieval, 56 % at the first guess before and 44 % now.)
#
# Words to pictures: the five nearest of all held-out pairs, for every 23rd caption, so that nobody picked the best.

# %%
from ldm_edu.viz import matrix

asked = held_out.captions[::23]
with torch.no_grad():
    near = shipped.encode_text(model.tokenizer(asked)) @ shipped.encode_image(pictures).T
best = near.topk(5, dim=1).indices  # (asked, 5)
matrix(pictures[best.flatten()], rows=asked, columns=["nearest", "2nd", "3rd", "4th", "5th"])

# %% [markdown]
# **What to see.** Five are too few to judge by; the lines above count all. Look at what is wrong: often the style is
# right, or a colour, or an outline. That is what the towers agreed on. A thing drawn in one of six styles, in a set of
# a hundred, leaves few hints.
#
# ## 77 by 768: the real text tower
#
# Stable Diffusion 1.5 reads with the text tower of CLIP ViT-L/14, trained by OpenAI on 400 million pairs and *frozen*:
# the U-Net learned to read its states, it never learned to write others. It is the class that you have just rebuilt,
# with other numbers. The picture tower is left out, and so is the pooled vector: the U-Net wants a state for each
# token.

# %%
from ldm_edu import SD15
from ldm_edu.counts import parameter_counts

real = SD15.text
counts = parameter_counts(SD15)["text encoder"]
print(real)
print(f"parameters: {sum(counts.values()):,}, of these {counts['tokens']:,} are the table of tokens")
assert sum(counts.values()) == 123_060_480

# %%
from ldm_edu.layouts.clip import text_pairs
from ldm_edu.layouts.pair import convert

NAME = "openai/clip-vit-large-patch14"


def published_tower(name=NAME):
    """The published text tower if this computer has it; None otherwise. Nothing is downloaded."""
    if not find_spec("transformers"):
        return None
    from transformers import CLIPTextModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return CLIPTextModel.from_pretrained(name, local_files_only=True).eval()
    except OSError:
        return None


tower = published_tower()
if tower is None:
    print(f"{NAME} is not in this computer's cache, so its states are not computed here.")
    print("Instead: the same architecture, counted above without its weights.")
    print(f"For every prompt it gives {real.length} x {real.width} = {real.length * real.width:,} numbers.")
else:
    ids = tokenizer.Tokenizer()(["red apple, 3d style"])  # (1, 77)
    theirs = {name.removeprefix("text_model."): value for name, value in tower.state_dict().items()}
    with torch.no_grad():
        read = text_transformer(ids, convert(theirs, text_pairs(real, names=theirs)), real.layers, real.heads)
        torch.testing.assert_close(read, tower(ids).last_hidden_state, rtol=1e-3, atol=1e-3)
    assert sum(p.numel() for p in tower.parameters()) == sum(counts.values())
    assert read.shape == (1, real.length, real.width)
    print(f"Your text_transformer with the weights of {NAME} read a prompt into {tuple(read.shape)}.")

# %% [markdown]
# **77 rows**: start, at most 75 tokens of the prompt, end; a shorter prompt is filled up with the end token. A longer
# one does not fit: `model.condition` reads it in several windows and lays their rows one after another, which attention
# does not mind. **768 numbers** a row: the width of the tower. These 77 by 768 are called the *context*, and they are
# all that the U-Net ever learns of a prompt. Ours has 32 rows of 192 numbers.
#
# ## Pictures that read: cross-attention
#
# In the text tower a row asked other rows of the same text. In *cross-attention* the rows that ask are **places of the
# picture**, and those that answer are **tokens**: queries from the feature map, keys and values from the context
# (Rombach et al. 2022, section 3.3). The result has a row a place, a mixture of the tokens' values.
#
# $$Q = \varphi(x)\, W_Q, \quad K = \tau(y)\, W_K, \quad V = \tau(y)\, W_V$$
#
# $\varphi(x)$ is the feature map, flattened to rows; $\tau(y)$ the context.


# %%
def part(w, name):
    """The weights of one part, by their names inside it."""
    return {key.removeprefix(name + "."): value for key, value in w.items() if key.startswith(name + ".")}


def attend(x, source, w, heads):
    """Rows of x read rows of source: the weights (B, heads, N, L), and what was read (B, N, width)."""
    q = split_heads(linear(x, w, "to_q"), heads)  # (B, heads, N, d): what each place asks for
    k = split_heads(linear(source, w, "to_k"), heads)  # (B, heads, L, d): what each token answers to
    v = split_heads(linear(source, w, "to_v"), heads)  # (B, heads, L, d): what it says
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return weights, linear(rearrange(weights @ v, "b h n d -> b n (h d)"), w, "to_out")


stage = next(stage for stage in model.unet.stages() if stage.transformer is not None)
block = stage.transformer.layers[0]
cross = block.cross_attention
context = model.condition(["red apple, 3d style"]).context  # (1, 32, 192)
x = torch.randn(1, 64, cross.to_q.in_features, generator=rng)  # 8 x 8 places

# %%
from ldm_edu import attention_maps

with torch.no_grad():
    looks, read = attend(x, context, cross.state_dict(), cross.heads)
    torch.testing.assert_close(read, cross(x, cross.keys_values(context)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(looks, attention_maps.attention_weights(cross, x, cross.keys_values(context)))
torch.testing.assert_close(looks.sum(dim=-1), torch.ones(looks.shape[:-1]))
print(f"{tuple(looks.shape)}: pictures, heads, places, tokens; each place shares out exactly 1 among the tokens")

# %% [markdown]
# Around it stands a *transformer layer*: first self-attention, in which places ask places (a left ear learns of a right
# ear); then cross-attention; then an MLP whose one half gates the other (GEGLU, Shazeer 2020). Each is added to what
# was there. And around that the *spatial transformer*: it takes a feature map $(C, H, W)$ apart into rows, and puts it
# together again. At the end the map itself is added, so the block only says what should change.


# %%
def transformer_layer(x, context, w, heads):
    rows = layer_norm(x, w, "norm1")
    x = x + attend(rows, rows, part(w, "self_attention"), heads)[1]
    x = x + attend(layer_norm(x, w, "norm2"), context, part(w, "cross_attention"), heads)[1]
    value, gate = linear(layer_norm(x, w, "norm3"), w, "feed_forward.proj").chunk(2, dim=-1)
    return x + linear(value * torch.nn.functional.gelu(gate), w, "feed_forward.out")


def spatial_transformer(x, context, w, heads, groups):
    height, width = x.shape[-2:]
    h = torch.nn.functional.group_norm(x, groups, w["norm.weight"], w["norm.bias"], eps=1e-6)
    h = torch.nn.functional.conv2d(h, w["proj_in.weight"], w["proj_in.bias"])
    h = rearrange(h, "b c h w -> b (h w) c")  # a row a place
    h = transformer_layer(h, context, part(w, "layers.0"), heads)
    h = rearrange(h, "b (h w) c -> b c h w", h=height, w=width)
    return x + torch.nn.functional.conv2d(h, w["proj_out.weight"], w["proj_out.bias"])


whole = stage.transformer
feature_map = torch.randn(1, cross.to_q.in_features, 8, 8, generator=rng)
with torch.no_grad():
    ours = spatial_transformer(feature_map, context, whole.state_dict(), cross.heads, model.preset.unet.groups)
    theirs = whole(feature_map, [cross.keys_values(context)])
torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
print("your spatial transformer and the package's: the same map")

# %% [markdown]
# The package passes keys and values in, instead of the context. They depend on the prompt alone and not on the sample,
# so one computation serves all steps of a run.
#
# Where do these blocks stand in the U-Net? Count in ours and, without its weights, in Stable Diffusion's.

# %%
from ldm_edu.models.unet import UNet
from ldm_edu.viz import Table


def readers(unet, side):
    """How many cross-attentions a U-Net has at each size of its feature maps."""
    found = {}
    sides = [side // 2**i for i in range(len(unet.down))]
    places = [*zip(sides, unet.down), *zip(reversed(sides), unet.up)]
    for here, stages in [*((s, level.stages) for s, level in places), (sides[-1], unet.mid)]:
        found[here] = found.get(here, 0) + sum(len(stage.transformer.layers) for stage in stages if stage.transformer)
    return [f"{n} at {s} x {s}" for s, n in sorted(found.items(), reverse=True) if n]


with torch.device("meta"):  # shapes without numbers
    big = UNet(SD15.unet)
rows = [("this model", ", ".join(readers(model.unet, 16))), ("Stable Diffusion 1.5", ", ".join(readers(big, 64)))]
Table(("model", "cross-attentions"), tuple(rows))

# %% [markdown]
# ## Watch it read
#
# The weights $\text{softmax}(QK^\top/\sqrt{d})$ have a value for each place and each token: for one token, a picture.
# Hertz et al. (2022) and Tang et al. (2022) looked at them in Stable Diffusion. The U-Net itself never holds them,
# since the fused attention of PyTorch does not; `watch_attention` hangs *hooks* on the layers, functions that are
# called with the layer's inputs, and computes the weights a second time. It is your `attend` above.
#
# A run with guidance asks the U-Net for each picture twice; the first half of the batch is the one with the prompts.

# %%
prompts = ["red apple, 3d style", "red apple, 3d style, on a blue background"]
with attention_maps.watch_attention(model.unet) as maps:
    steps = list(model.generate(prompts, seeds=[7, 7]))
drawn = model.decode(steps[-1].x)

finest = max(each.weights.shape[-1] for each in maps.seen)
layers = sorted({each.layer for each in maps.seen if each.weights.shape[-1] == finest})
heat = maps.average(layers=layers)  # (2 prompts + 2 blanks, 32, 8, 8), the mean over steps, heads and these layers
torch.testing.assert_close(heat.sum(dim=1), torch.ones(4, finest, finest))
print(f"{maps.calls} steps, {len(maps.seen)} maps; shown are layers {layers}, which have {finest} x {finest} places")


# %%
def by_word(heat, prompt):
    """Join the maps of end and padding, (..., L, h, w) to (..., words, h, w), and name them all."""
    ids = model.tokenizer.encode(prompt)
    last = len(ids) + 1  # the place of the end token
    joined = torch.cat([heat[..., :last, :, :], heat[..., last:, :, :].sum(dim=-3, keepdim=True)], dim=-3)
    return joined, ["start", *(model.tokenizer.decode([i]) for i in ids), "end + padding"]


from ldm_edu.viz.attention import heat_strip

shown, words = by_word(heat[:1], prompts[0])
heat_strip(drawn[:1], shown, words)

# %% [markdown]
# **What to see.** The number below a map is the word's share of all attention; its colours run from 0 to its own
# highest value, so compare colours within a map and numbers between maps. *red* and *apple* are light on the apple. So
# is the comma, which means neither: the tower is causal, and the comma's state is the first that holds "red apple"
# whole. And *start*, which says nothing, takes a larger share than *red* and *apple* together: the weights must sum to
# 1, and a place that needs no word must look somewhere. The largest share of one token is that of *style*: it is the
# last word, so its state holds the whole prompt. The last map adds up 25 rows, the end token and 24 paddings, of the
# 32; an even share would be 78 %, so a row of padding is read little. Read the rest with care.

# %%
shown, words = by_word(heat[1:2], prompts[1])
heat_strip(drawn[1:2], shown, words)

# %% [markdown]
# **What to see.** With a coloured background the words divide the picture between them. *background* lights what
# surrounds the apple and leaves the apple dark, and so, faintly, does *blue*; *apple* does the reverse. The second
# comma sits on the apple as well: its state holds "red apple, 3d style" and not yet the background. *on* and *a* divide
# nothing. A map says where a token is read, not what its value says there.
#
# ## Is it so in general?
#
# Two pictures prove little. So draw sixteen, every 51st caption of the training set, find the object as what is not
# white paper, and compare the attention on the object with that on the paper.

# %%
many = emoji_tensors("train", starter=True).captions[::51]
with attention_maps.watch_attention(model.unet) as seen:
    *_, last = model.generate(many, seeds=[7] * len(many))
coloured = (model.decode(last.x).amin(dim=1, keepdim=True) < 0.8).float()  # (B, 1, 64, 64) white is 1 in all channels
mask = torch.nn.functional.avg_pool2d(coloured, 64 // finest)[:, 0]  # (B, 8, 8), share of each place
attended = seen.average(layers=layers)[: len(many)]


def ratio(weight, mask):
    """Mean attention on the object over that on the paper."""
    return float((weight * mask).sum() / mask.sum() / ((weight * (1 - mask)).sum() / (1 - mask).sum()))


found = {"start": [], "the thing": [], "comma": [], "the style's words": [], "end + padding": []}
shares = {kind: [] for kind in found}
for i, caption in enumerate(many):
    comma = 1 + len(model.tokenizer.encode(caption.split(",")[0]))  # places: 0 is start
    end = 1 + len(model.tokenizer.encode(caption))
    spans = [slice(0, 1), slice(1, comma), slice(comma, comma + 1), slice(comma + 1, end), slice(end, None)]
    for kind, span in zip(found, spans):
        found[kind].append(ratio(attended[i, span].sum(dim=0), mask[i]))
        shares[kind].append(float(attended[i, span].sum(dim=0).mean()))

# %%
from statistics import mean, median

rows = [
    (
        kind,
        f"{mean(shares[kind]):.0%}",
        f"{median(found[kind]):.2f}",
        f"{sum(r > 1 for r in found[kind])} of {len(many)}",
    )
    for kind in found
]
Table(("token", "share of all attention", "object : paper (median)", "more on the object in"), tuple(rows))

# %% [markdown]
# **What to see.** A ratio above 1 means more attention on the object than on the paper. The words for the thing lean to
# the object in every one of the sixteen pictures, with about twice the attention there; and the comma behind them,
# whose state is the first to hold the thing's whole name, leans further still. *Start* and the end with its padding
# lean to the paper, where places have nothing to ask. The words of the style go either way: a style concerns the whole
# picture. So the apple's map is no lucky case. For Stable Diffusion, with sixteen readers at up to 64 x 64 places and a
# far richer text tower, Tang et al. (2022) found the maps of nouns good enough to cut objects out.
#
# ## Over time
#
# The same maps, step by step, over the estimate of the clean picture at that step. Six of the tokens; a
# word's colours now run from 0 to its highest value over all rows:

# %%
estimates = model.decode(torch.cat([step.x0[1:2] for step in steps]))  # (20, 3, 64, 64)
timeline = torch.cat([maps.average([call], layers)[1:2] for call in range(maps.calls)])  # (20, 32, 8, 8)
timeline, words = by_word(timeline, prompts[1])
picked = [words.index(word) for word in ("start", "apple", "3", "on", "background", "end + padding")]
when = [0, 4, 10, 19]
heat_strip(
    estimates[when],
    timeline[when][:, picked],
    [words[i] for i in picked],
    [f"step {i + 1}" for i in when],
)

# %% [markdown]
# **What to see.** At the first step the sample is nearly all noise, and yet *apple* and *background* have divided the
# picture between them already: the network decides then where the thing will be, and the estimate on the left shows it.
# Later the maps hardly move. This is why Hertz et al. can keep a picture's layout while they exchange a word: they keep
# its maps. At the end another thing happens: *start* takes much more, *apple* some, and the end with its padding gives it
# up. What is left to do is to smooth and sharpen.
#
# ## Which tokens does it need?
#
# A map shows where the network looks, not what the look is good for. So take something away. Below, each picture is
# drawn three times: with the whole context; with only the words' rows, the end and padding replaced by those of the
# blank prompt; and with only the end and padding, all the words' rows replaced.

# %%
from ldm_edu import cfg, dpmpp_2m, initial_noise, levels
from ldm_edu.condition import Conditioning

tests = ["red apple, 3d style", "sunflower, twemoji style", "dog face, noto style", "mushroom, flat style"]
full, blank = model.condition(tests).context, model.condition([""])
words_only, padding_only = full.clone(), full.clone()
for i, text in enumerate(tests):
    end = 1 + len(model.tokenizer.encode(text))
    words_only[i, end:] = blank.context[0, end:]
    padding_only[i, :end] = blank.context[0, :end]
contexts = torch.cat([full, words_only, padding_only])
stops = levels(model.schedule, 20)
guided = cfg(model.denoiser(Conditioning(contexts), stops), model.denoiser(blank, stops), scale=5.0)
for step in dpmpp_2m(guided, initial_noise([7] * len(contexts), model.latent_shape()), stops):
    pass
columns = [text.replace(", ", ",\n") for text in tests]
matrix(model.decode(step.x), rows=["all", "words only", "end and padding only"], columns=columns)

# %% [markdown]
# **What to see.** The last row never sees the state of any word, and still the colours are those of the thing, and of
# the dog face even the form. The tower is causal, so the end token and all the padding know the whole prompt, and the
# U-Net was trained with them there. The middle row draws it from the words alone, and comes closer, but not all the
# way. What you ask for reaches the picture in several ways at once. That is why a pretty heat map of a word is no proof
# that this word did it.

# %% [markdown]
# ## Play
#
# Click on the slider and use the arrow keys. (On a page where nothing runs you see five steps.)

# %%
from ldm_edu.viz.attention import explore_words

again = "mushroom, 3d style"
with attention_maps.watch_attention(model.unet) as maps:
    steps = list(model.generate([again], seeds=[3]))
heat, words = by_word(torch.cat([maps.average([i], layers)[:1] for i in range(maps.calls)]), again)
explore_words(model.decode(torch.cat([step.x0 for step in steps])), heat, words, title=again)

# %% [markdown]
# **Try it.** Change `again`. Find the step at which *start* begins to take over. Then use other layers, say
# `layers = None` for the mean of all: the 4 by 4 maps are mixed in. Does the start token take more there, or less?

# %% [markdown]
# ## Recap
#
# - Byte-pair encoding joins letters to pieces by a fixed list of merges. Frequent words are one token, rare ones
#   several.
# - The text transformer is causal: a token's state knows what is before it, and the padding knows everything.
# - The contrastive loss asks that each caption be nearest to its own picture, and each picture to its own caption.
# - In cross-attention places ask and tokens answer: softmax$(QK^\top/\sqrt{d})\,V$, with $K$ and $V$ from the context.
#   Stable Diffusion 1.5's context is 77 by 768.
# - Heat maps show where a token is read, and settle in the first steps. Much of the attention goes to
#   *start* and to what follows the words, and the prompt reaches the picture through the latter as well.

# %% [markdown]
# ## Check yourself

# %% tags=["hide-input"]
from ldm_edu.viz import quiz
from ldm_edu.viz.quiz import Choice, Question

quiz(
    Question(
        "In cross-attention, what do the queries come from?",
        [
            Choice(
                "From the tokens of the prompt", "No. The tokens give keys and values: they answer, they do not ask."
            ),
            Choice(
                "From the places of the feature map",
                "Each place asks, and gets a mixture of the tokens' values in return.",
                right=True,
            ),
            Choice(
                "From the time step", "No. The time reaches the U-Net by another way, a shift in each residual block."
            ),
        ],
    ),
    Question(
        "Two prompts begin with the same three words. How do the states of these words differ?",
        [
            Choice(
                "Not at all",
                "The tower is causal: a token sees only what is before it, and that is the same.",
                right=True,
            ),
            Choice(
                "Only if the prompts differ in length", "No. All are padded to one length, and padding comes after."
            ),
            Choice("A little, by the words that follow", "No. The mask forbids a token to see what follows it."),
        ],
    ),
    Question(
        "Why does the start token get so much attention although it is the same in every prompt?",
        [
            Choice("It holds a summary of the prompt", "No. It is first, and sees nothing but itself."),
            Choice("It is the longest token", "No. Every token has one key and one value of the same width."),
            Choice(
                "The weights of a place must sum to 1, so it serves those that need no word",
                "Its value says nothing about the prompt; a place that looks there is left alone.",
                right=True,
            ),
        ],
    ),
    Question(
        "A CLIP that guesses, a batch of 128 pairs. How large is the contrastive loss?",
        [
            Choice("0", "No. That would need every caption to be sure of its own picture."),
            Choice(
                "The logarithm of 128",
                "Guessing gives each of 128 the probability 1/128; minus its log is 4.85.",
                right=True,
            ),
            Choice("128", "No. The loss is a mean of logarithms, not a count."),
        ],
    ),
)

# %% [markdown]
# ## Go on
#
# The papers, in the order of this lesson:
#
# - Sennrich, Haddow and Birch 2016, *Neural Machine Translation of Rare Words with Subword Units* ([arXiv
#   1508.07909](https://arxiv.org/abs/1508.07909)), section 3.2: byte pairs.
# - Vaswani et al. 2017, *Attention Is All You Need* ([arXiv 1706.03762](https://arxiv.org/abs/1706.03762)), section 3.2
#   and equation 1.
# - Dosovitskiy et al. 2021, *An Image is Worth 16x16 Words* ([arXiv 2010.11929](https://arxiv.org/abs/2010.11929)),
#   section 3.1: patches.
# - Radford et al. 2021, *Learning Transferable Visual Models From Natural Language Supervision* ([arXiv
#   2103.00020](https://arxiv.org/abs/2103.00020)), sections 2.3 to 2.5 and figure 3: CLIP.
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models* ([arXiv
#   2112.10752](https://arxiv.org/abs/2112.10752)), section 3.3.
# - Shazeer 2020, *GLU Variants Improve Transformer* ([arXiv 2002.05202](https://arxiv.org/abs/2002.05202)), equation 6.
# - Hertz et al. 2022, *Prompt-to-Prompt Image Editing with Cross Attention Control* ([arXiv
#   2208.01626](https://arxiv.org/abs/2208.01626)), section 3.
# - Tang et al. 2022, *What the DAAM: Interpreting Stable Diffusion Using Cross Attention* ([arXiv
#   2210.04885](https://arxiv.org/abs/2210.04885)), section 3.
# - Yang et al. 2022, *Unified Contrastive Learning in Image-Text-Label Space* ([arXiv
#   2204.03610](https://arxiv.org/abs/2204.03610)), equations 3 and 4: texts that are true of many pictures.
#
# Exercises: [exercises/05_text.ipynb](../exercises/05_text.ipynb); each item answers at once.
#
# Every run here was guided: the blank prompt stood beside yours. What guidance does, and what it costs, is [lesson
# 06](06_guidance.ipynb).
