"""CLIP: a text transformer and a picture transformer that agree on what goes together (Radford et al. 2021).

Stable Diffusion reads its prompts with the text tower alone: the states of all tokens, after the last LayerNorm, are
the context that the U-Net attends to. The picture tower and the two projections make the whole of CLIP, which scores
how well a picture fits a text.

>>> import torch
>>> from ldm_edu.families import TOY
>>> encoder = TextEncoder(TOY.text)
>>> states = encoder(torch.tensor([[1022, 5, 1023, 1023]]))     # start, one token, end, padding
>>> tuple(states.last.shape), tuple(states.pooled.shape)
((1, 4, 32), (1, 32))
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ldm_edu.config import TextConfig, VisionConfig
from ldm_edu.nn.attention import Attention

MAX_LOGIT_SCALE = math.log(100.0)  # section 2.5: the temperature may not scale the logits by more than 100


@dataclass(frozen=True)
class TextStates:
    """All that a text transformer gives: a model family takes what it was trained with.

    ``hidden`` holds the residual stream before the first layer and after each of the N layers, none of it normalised:
    ``hidden[-2]`` is the penultimate state, the input of the last layer.
    """

    hidden: tuple[Tensor, ...]  # N + 1 of (B, L, D)
    last: Tensor  # (B, L, D) the last of them after the final LayerNorm
    pooled: Tensor  # (B, D) the row of ``last`` at the first end token, which has seen the whole text
    projected: Tensor | None  # (B, E) ``pooled`` in the space shared with pictures; None: no projection


class MLP(nn.Module):
    """Two linear maps, wider in between. CLIP was trained with quick GELU, x * sigmoid(1.702 x), OpenCLIP with GELU."""

    def __init__(self, config: TextConfig | VisionConfig) -> None:
        super().__init__()
        inner = config.mlp_width or 4 * config.width
        self.quick = config.activation == "quick_gelu"
        self.up = nn.Linear(config.width, inner)
        self.down = nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = self.up(x)  # (B, L, inner)
        x = x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x)
        return self.down(x)  # (B, L, D)


class Layer(nn.Module):
    """A pre-norm transformer layer: normalise, attend, add; normalise, think, add.

    ``depth`` is the number of layers of the whole: the maps that write into the residual stream start smaller by
    sqrt(2 depth), so that its variance does not grow with depth (Radford et al. 2019, section 2.3).
    """

    def __init__(self, config: TextConfig | VisionConfig, depth: int, *, causal: bool) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        if width % heads:
            raise ValueError(f"heads={heads} does not divide width={width}; choose a width that is a multiple of heads")
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, width // heads, bias=True, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(config)
        for reads in (self.attention.to_q, self.attention.to_k, self.attention.to_v):
            nn.init.normal_(reads.weight, std=width**-0.5)
            nn.init.zeros_(reads.bias)
        nn.init.normal_(self.mlp.up.weight, std=(2 * width) ** -0.5)
        nn.init.zeros_(self.mlp.up.bias)
        for writes in (self.attention.to_out, self.mlp.down):
            nn.init.normal_(writes.weight, std=(2 * depth * width) ** -0.5)
            nn.init.zeros_(writes.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """CLIP's text tower (section 2.4): tokens in, one state a token out.

    The attention is causal, so a token's state depends on the tokens before it and itself; the end token is the
    vocabulary's last.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab, config.width)
        self.position = nn.Parameter(torch.empty(config.length, config.width))
        self.layers = nn.ModuleList(Layer(config, config.layers, causal=True) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.proj = nn.Linear(config.width, config.projection, bias=False) if config.projection else None
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)

    def forward(self, tokens: Tensor) -> TextStates:
        """Encode tokens (B, L), integers, L at most ``config.length``; every row holds an end token.

        Raises
        ------
        ValueError
            if there are more tokens than positions.
        """
        length = tokens.shape[1]
        if length > self.config.length:
            raise ValueError(f"{length} tokens are more than the {self.config.length} positions of this text encoder")
        hidden = [self.token(tokens) + self.position[:length]]  # (B, L, D)
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))  # (B, L, D)
        last = self.norm(hidden[-1])  # (B, L, D)
        end = (tokens == self.config.vocab - 1).int().argmax(dim=1)  # (B,) the first one: the rest is padding
        pooled = last[torch.arange(len(last), device=last.device), end]  # (B, D)
        projected = None if self.proj is None else self.proj(pooled)  # (B, E)
        return TextStates(tuple(hidden), last, pooled, projected)


class VisionEncoder(nn.Module):
    """CLIP's picture tower: a Vision Transformer (Dosovitskiy et al. 2021, equations 1 to 4) with one more LayerNorm.

    A picture becomes a sequence of patches with a learned class token in front, whose last state stands for the whole.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        if config.size % config.patch:
            raise ValueError(f"patch={config.patch} does not divide size={config.size}; choose a divisor")
        self.config = config
        patches = (config.size // config.patch) ** 2
        self.patch = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch, bias=False)
        self.cls = nn.Parameter(torch.empty(config.width))
        self.position = nn.Parameter(torch.empty(1 + patches, config.width))
        self.norm_in = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(Layer(config, config.layers, causal=False) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(config.width)
        nn.init.normal_(self.cls, std=config.width**-0.5)
        nn.init.normal_(self.position, std=config.width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), normalised as in training, H = W = ``config.size``, to one state each (B, D).

        Raises
        ------
        ValueError
            if the pictures have another size.
        """
        size = self.config.size
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"pictures of shape {tuple(images.shape)}: this encoder takes (B, 3, {size}, {size})")
        x = rearrange(self.patch(images), "b d h w -> b (h w) d")
        x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], dim=1) + self.position  # (B, 1 + h w, D)
        x = self.norm_in(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x[:, 0])


class CLIP(nn.Module):
    """Both towers with a linear map each into one space, where a text and its picture point the same way (figure 3)."""

    def __init__(self, text: TextConfig, vision: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        self.text = TextEncoder(text)
        self.vision = VisionEncoder(vision)
        self.text_proj = nn.Linear(text.width, embed_dim, bias=False)
        self.vision_proj = nn.Linear(vision.width, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # the log of 1 / temperature
        nn.init.normal_(self.text_proj.weight, std=text.width**-0.5)
        nn.init.normal_(self.vision_proj.weight, std=vision.width**-0.5)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to unit vectors (B, E)."""
        return F.normalize(self.text_proj(self.text(tokens).pooled), dim=-1)

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), normalised as in training, to unit vectors (B, E)."""
        return F.normalize(self.vision_proj(self.vision(images)), dim=-1)

    def forward(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Logits (texts, pictures): cosine over temperature. A softmax along either side says which goes with which."""
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        return scale * self.encode_text(tokens) @ self.encode_image(images).T
