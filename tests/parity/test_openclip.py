"""OpenCLIP's text towers against the reference classes', and against the original's arithmetic under fused names."""

import re
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from parity.reference import difference, randomised, reference_clip, reference_text, reference_vision
from torch import Tensor, nn

from ldm_edu.config import CLIPConfig, TextConfig, VisionConfig
from ldm_edu.families import SD15
from ldm_edu.layouts import clip, openclip
from ldm_edu.layouts.pair import Format, convert, convert_back
from ldm_edu.models.clip import CLIP, TextEncoder
from ldm_edu.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
SMALL = TextConfig(600, length=20, width=32, layers=3, heads=4, activation="gelu", mlp_width=40, projection=24, pad=0)
PROMPTS = ["a red apple", "", "漢字 " * 30, "wow ! blue <|endoftext|> fish"]
TOKENS = Tokenizer(600, 20, pad=0)(PROMPTS)


class Block(nn.Module):
    """A layer as OpenCLIP has it: PyTorch's own attention, whose three maps are one tensor."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, inner = config.width, config.mlp_width or 4 * config.width
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, inner), gelu=nn.GELU(), c_proj=nn.Linear(inner, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        h, future = self.ln_1(x), torch.full((x.shape[1],) * 2, -torch.inf).triu(1)
        x = x + self.attn(h, h, h, attn_mask=future, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class OpenCLIPText(nn.Module):
    """The text half of OpenCLIP's model, names included."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.length, config.width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, config.projection or 0))

    def forward(self, tokens: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        hidden = [self.token_embedding(tokens) + self.positional_embedding]
        for block in self.transformer.resblocks:
            hidden.append(block(hidden[-1]))
        last, end = self.ln_final(hidden[-1]), tokens.argmax(dim=1)
        return hidden, last, last[torch.arange(len(tokens)), end] @ self.text_projection


def pair_up(ours: nn.Module, theirs: nn.Module, pairs: list[Any], *, from_theirs: bool) -> None:
    if from_theirs:
        ours.load_state_dict(convert(randomised(theirs).state_dict(), pairs))
    else:
        theirs.load_state_dict(convert_back(randomised(ours).state_dict(), pairs))


@pytest.mark.parametrize("from_theirs", [True, False], ids=["their weights", "our weights"])
def test_transformers(from_theirs: bool) -> None:
    ours = TextEncoder(SMALL).eval()
    theirs = transformers.CLIPTextModelWithProjection(reference_text(SMALL)).eval()
    pair_up(ours, theirs, openclip.pairs(SMALL), from_theirs=from_theirs)
    with torch.no_grad():
        states, wanted = ours(TOKENS), theirs(TOKENS, output_hidden_states=True)
    assert len(states.hidden) == len(wanted.hidden_states) == 4
    assert difference(states.hidden[-2], wanted.hidden_states[-2]) <= TOLERANCE
    assert difference(states.last, wanted.last_hidden_state) <= TOLERANCE
    assert states.projected is not None and difference(states.projected, wanted.text_embeds) <= TOLERANCE


@pytest.mark.parametrize("from_theirs", [True, False], ids=["their weights", "our weights"])
def test_the_original(from_theirs: bool) -> None:
    ours, theirs = TextEncoder(SMALL).eval(), OpenCLIPText(SMALL).eval()
    pair_up(ours, theirs, openclip.pairs(SMALL, "original"), from_theirs=from_theirs)
    with torch.no_grad():
        states, (hidden, last, projected) = ours(TOKENS), theirs(TOKENS)
    assert difference(states.hidden[-2], hidden[-2]) <= TOLERANCE
    assert difference(states.last, last) <= TOLERANCE
    assert states.projected is not None and difference(states.projected, projected) <= TOLERANCE


def test_one_layer_fewer_gives_the_penultimate_state_after_the_norm() -> None:
    """How diffusers publishes Stable Diffusion 2, and the same weights in the one file."""
    whole, ours = randomised(OpenCLIPText(SMALL)), TextEncoder(replace(SMALL, layers=2, projection=None)).eval()
    unread = ("transformer.resblocks.2.", "text_projection")
    read = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(unread)}
    ours.load_state_dict(convert(read, openclip.pairs(ours.config, "original", read)))
    with torch.no_grad():
        hidden, _, _ = whole(TOKENS)
        assert difference(ours(TOKENS).last, whole.ln_final(hidden[-2])) <= TOLERANCE


def test_the_comparison_can_fail() -> None:
    """A projection that is not turned, and rows of two maps exchanged, fit every shape and are seen."""
    square = replace(SMALL, projection=32)
    theirs, ours = randomised(OpenCLIPText(square)), TextEncoder(square).eval()
    good = openclip.pairs(square, "original")
    rows = {"to_q": slice(32, 64), "to_k": slice(0, 32)}
    wrong = {
        "projection": [replace(pair, transposed=False) for pair in good],
        "rows": [replace(pair, rows=rows.get(pair.ours.split(".")[-2:][0], pair.rows)) for pair in good],
    }
    for name, pairs in wrong.items():
        ours.load_state_dict(convert(theirs.state_dict(), pairs))
        with torch.no_grad():
            states, (_, last, projected) = ours(TOKENS), theirs(TOKENS)
        assert states.projected is not None and difference(states.projected, projected) > 0.1, name
        assert (difference(states.last, last) > 0.1) == (name == "rows")


def meta(build: Any, *args: Any) -> Any:
    with torch.device("meta"):
        return build(*args)


H_WHOLE = replace(openclip.H, layers=24, projection=1024)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, format, tensors, parameters",
    [
        (H_WHOLE, "original", 293, 354_032_640),
        (openclip.H, "diffusers", 372, 340_387_840),
        (openclip.BIGG, "diffusers", 517, 694_659_840),
        (openclip.BIGG, "original", 389, 694_659_840),
        (SD15.text, "diffusers", 196, 123_060_480),
    ],
)
def test_published_towers_are_a_bijection(config: TextConfig, format: Format, tensors: int, parameters: int) -> None:
    ours, pairs = meta(TextEncoder, config), openclip.pairs(config, format)
    cls = transformers.CLIPTextModelWithProjection if config.projection else transformers.CLIPTextModel
    theirs = meta(cls, reference_text(config)) if format == "diffusers" else meta(OpenCLIPText, config)
    if format == "diffusers":
        pairs = openclip.pairs(config, format, theirs.state_dict())
    found = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    back = convert_back(ours.state_dict(), pairs)
    assert {name: tensor.shape for name, tensor in back.items()} == found
    again = convert(back, pairs)
    assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in ours.state_dict().items()}
    assert len(back) == tensors and sum(tensor.numel() for tensor in back.values()) == parameters


@pytest.mark.slow
def test_published_clip_is_a_bijection() -> None:
    config = CLIPConfig(embed_dim=768)
    ours, pairs = meta(CLIP, config.text, config.vision, 768), clip.clip_pairs(config)
    theirs = meta(transformers.CLIPModel, reference_clip(config.text, config.vision, 768)).state_dict()
    back = convert_back(ours.state_dict(), pairs)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in theirs.items()}
    assert sum(tensor.numel() for tensor in back.values()) == 427_616_513
    picture = [tensor for name, tensor in back.items() if name.startswith("vision_model.")]
    assert len(picture) + 1 == 392 and sum(t.numel() for t in picture) + 768 * 1024 == 303_966_208  # with projection


def test_openai_whole_is_a_bijection() -> None:
    config = CLIPConfig(replace(SMALL, projection=None), VisionConfig(24, patch=8, width=48, layers=2, heads=4), 16)
    pairs, ours = clip.clip_pairs(config, "original"), randomised(CLIP(config.text, config.vision, 16)).state_dict()
    theirs = convert_back(ours, pairs)
    assert theirs["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (144, 48)
    assert theirs["visual.proj"].shape == (48, 16) and theirs["text_projection"].shape == (32, 16)
    back = convert(theirs, pairs)
    assert back.keys() == ours.keys() and all(torch.equal(back[name], ours[name]) for name in ours)
    assert clip.text_pairs(config.text, "original", theirs) == list(clip.openai_text(config.text))


def test_files_of_earlier_versions_are_read() -> None:
    text, vision = replace(SMALL, projection=None), VisionConfig(24, patch=8, width=48, layers=2, heads=4)
    for now in (clip.text_pairs(text, "ldm-edu"), clip.vision_pairs(vision, "ldm-edu")):
        assert all(pair.theirs == pair.ours for pair in now)
    maps = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "out"}
    names = [pair.ours for pair in clip.text_pairs(text, "ldm-edu")]
    old = [re.sub(r"attention\.(\w+)", lambda found: f"attention.{maps[found[1]]}", name) for name in names]
    before = clip.text_pairs(text, "ldm-edu", old)
    renamed = {pair.theirs: pair.ours for pair in before if pair.theirs != pair.ours}
    assert renamed["layers.2.attention.out.bias"] == "layers.2.attention.to_out.bias" and len(renamed) == 3 * 4 * 2


@pytest.mark.parametrize("config", [SMALL, openclip.H, openclip.BIGG])
def test_configs_there_and_back(config: TextConfig) -> None:
    written = openclip.TEXT.write(config)  # type: ignore[misc]
    assert openclip.TEXT.read(written, "here") == config  # type: ignore[misc]
    theirs = reference_text(config).to_dict() | {"architectures": written["architectures"]}
    assert openclip.TEXT.read(theirs, "here") == config  # type: ignore[misc]


def test_configs_of_the_picture_tower_there_and_back() -> None:
    config = VisionConfig(224, patch=14, width=1664, layers=48, heads=16, activation="gelu", mlp_width=8192)
    assert clip.VISION.read(clip.write_vision(config), "here") == config  # type: ignore[misc]
    assert clip.VISION.read(reference_vision(config).to_dict(), "here") == config  # type: ignore[misc]
