"""What every model is made of, as frozen dataclasses.

This module imports no torch: a preset can be read, compared and printed before anything heavy is loaded. A preset is
the only difference between a toy on a laptop and Stable Diffusion 1.5 on a GPU; the classes are the same. The presets
themselves are in `ldm_edu.families`, one file a family.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

MAX_COUNT = 10**6  # of anything that a config counts
Prediction = Literal["eps", "x0", "v", "flow", "edm", "edm_v"]
Beside = Literal["nothing", "mask", "picture", "low_res", "depth"]
SamplerName = Literal[
    "ddpm",
    "ddim",
    "euler",
    "euler_ancestral",
    "heun",
    "dpm2",
    "dpm2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "lms",
    "plms",
    "ipndm",
    "deis",
    "unipc",
    "lcm",
]
Spacing = Literal[
    "leading",
    "trailing",
    "linspace",
    "sgm_uniform",
    "karras",
    "exponential",
    "beta",
    "align_your_steps",
    "align_your_steps_xl",
]


@dataclass(frozen=True)
class UNetConfig:
    """The noise predictor: a U-Net of residual blocks and spatial transformers (Rombach et al. 2022, section 3.3).

    Level ``i`` of ``mults`` has ``channels * mults[i]`` channels, ``blocks`` residual blocks on the way down and
    ``blocks + 1`` on the way up, and is half as wide as level ``i - 1``. ``depth[i]`` is the number of transformer
    layers after each residual block of that level (0: none). Exactly one of ``heads`` and ``head_dim`` is given.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 320
    mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    depth: tuple[int, ...] = (1, 1, 1, 0)
    mid_depth: int = 1
    context_dim: int | None = 768  # width of the text states; None: no cross-attention
    heads: int | None = 8
    head_dim: int | None = None
    linear_proj: bool = False  # the transformer's in and out projections: linear (SD 2) or 1x1 convolution (SD 1)
    vector_dim: int | None = None  # width of a per-picture vector added to the time embedding; None: none
    groups: int = 32  # of the norms; a group of one channel would erase that channel's mean, and with it flat colour
    beside: Beside = "nothing"  # what the network reads besides the sample, in its last input channels

    def __post_init__(self) -> None:
        if not self.mults:
            raise ValueError("mults must name at least one level, as in mults=(1, 2, 4, 4), not ()")
        sample = self.channels_of_sample
        if sample < 1 or self.out_channels not in (sample, 2 * sample):  # twice: with a learned variance
            raise ValueError(
                f"in_channels={self.in_channels} and out_channels={self.out_channels} do not fit "
                f"beside={self.beside!r}: a sample of C channels needs {_INPUTS[self.beside]} "
                "input channels and C output channels"
            )
        if (self.heads is None) == (self.head_dim is None):
            raise ValueError(
                f"give exactly one of heads and head_dim, not heads={self.heads} and head_dim={self.head_dim}"
            )
        if (self.heads or self.head_dim or 0) < 1:
            raise ValueError(f"heads={self.heads} and head_dim={self.head_dim}: attention needs at least one of either")
        widths = [self.channels * m for m in self.mults]
        if self.mults[0] != 1:
            raise ValueError(
                f"mults={self.mults} must begin with 1, because the first level has as many channels as the network's "
                f"own first convolution; for levels of {widths} channels, divide mults and multiply channels"
            )
        if len(self.depth) != len(self.mults):
            raise ValueError(f"depth={self.depth} and mults={self.mults} must name the same number of levels")
        _divides("groups", self.groups, widths)
        attending = [width for width, depth in zip(widths, self.depth, strict=True) if depth]
        attending += [widths[-1]] if self.mid_depth else []
        name = "heads" if self.heads else "head_dim"
        _divides(name, self.heads or self.head_dim or 1, attending)

    @property
    def factor(self) -> int:
        """Sides of the input must be a multiple of this: the lowest level is this many times smaller."""
        return int(2 ** (len(self.mults) - 1))

    @property
    def channels_of_sample(self) -> int:
        """Channels of the noisy sample: the input channels without those that ``beside`` adds."""
        match self.beside:
            case "nothing":
                return self.in_channels
            case "picture":  # the clean latents of a picture to edit (Brooks et al. 2023)
                return self.in_channels // 2
            case "mask":  # a mask, and the latents of the picture without what the mask hides
                return (self.in_channels - 1) // 2
            case "low_res":  # a small picture in RGB
                return self.in_channels - 3
            case "depth":  # a map of depths
                return self.in_channels - 1


_INPUTS = {"nothing": "C", "picture": "2 C", "mask": "2 C + 1", "low_res": "C + 3", "depth": "C + 1"}


@dataclass(frozen=True)
class DiTConfig:
    """The noise predictor as a transformer over patches: DiT (Peebles and Xie 2023, section 3.2 and table 1).

    ``size`` only stretches the positions: a larger picture spans the same range of positions as one of ``size``.
    ``classes`` counts the classes without the null class, which has a row of its own after them.
    """

    size: int = 32  # side of the latents that the network was trained on: 32 for pictures of 256 pixels
    channels: int = 4  # of the sample
    patch: int = 2  # a token is a patch of this many latent pixels by as many
    width: int = 1152
    depth: int = 28  # number of blocks
    heads: int = 16
    classes: int = 1000
    learned_variance: bool = True  # the network gives as many channels again, for the variance of each step

    def __post_init__(self) -> None:
        counts = ("size", "channels", "patch", "width", "depth", "heads", "classes")
        if zero := [name for name in counts if getattr(self, name) < 1]:
            raise ValueError(
                f"{zero[0]}={getattr(self, zero[0])}: a DiT needs at least one; choose a whole number from 1"
            )
        if self.size % self.patch:
            raise ValueError(f"patch={self.patch} does not divide size={self.size}; choose a divisor")
        if self.width % self.heads:
            raise ValueError(
                f"heads={self.heads} does not divide width={self.width}; choose a width that is a multiple"
            )
        if self.width % 4:
            raise ValueError(
                f"width={self.width} must be a multiple of 4: sines and cosines of row and column take a quarter each"
            )

    @property
    def grid(self) -> int:
        """Tokens along a side of the picture that the network was trained on."""
        return self.size // self.patch

    @property
    def out_channels(self) -> int:
        """Channels of the output: the sample's, and as many again for a learned variance."""
        return self.channels * (2 if self.learned_variance else 1)


@dataclass(frozen=True)
class AutoencoderConfig:
    """The picture compressor, KL-regularised (Rombach et al. 2022, section 3.1 and appendix G).

    ``scale`` and ``shift`` turn its latents into ones of about unit variance: ``latents = (z - shift) * scale``. Where
    mean and standard deviation of each latent channel are known (Playground v2.5), these go first:
    ``latents = (z - latents_mean) / latents_std * scale``.
    """

    in_channels: int = 3
    latent_channels: int = 4
    channels: int = 128
    mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    groups: int = 32
    scale: float = 0.18215
    shift: float = 0.0
    latents_mean: tuple[float, ...] | None = None  # of each latent channel; None: the same for all, ``shift``
    latents_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _divides("groups", self.groups, [self.channels * m for m in self.mults])
        if not self.scale or not math.isfinite(self.scale):
            raise ValueError(f"scale={self.scale}: latents are multiplied by it; choose a finite number other than 0")
        if not math.isfinite(self.shift):
            raise ValueError(f"shift={self.shift} must be a finite number; 0 leaves the latents where they are")
        if not self.mults:
            raise ValueError("mults is empty: an autoencoder has at least one level; choose (1,) or more")
        if (self.latents_mean is None) != (self.latents_std is None):
            raise ValueError("latents_mean and latents_std belong together: give both, or neither")
        for name, values in {"latents_mean": self.latents_mean, "latents_std": self.latents_std}.items():
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(values)} values; give one for each of {self.latent_channels} channels"
                )

    @property
    def factor(self) -> int:
        """How many picture pixels one latent pixel is wide."""
        return int(2 ** (len(self.mults) - 1))


@dataclass(frozen=True)
class TextConfig:
    """CLIP's causal text transformer (Radford et al. 2021, section 2.4), and OpenCLIP's (Cherti et al. 2023)."""

    vocab: int = 49408  # 512 bytes + merges + 2; a smaller one keeps the first merges only
    length: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    mlp_width: int | None = None  # between the two maps of an MLP; None: four times the width
    projection: int | None = None  # width of the space shared with pictures; None: the text states alone
    pad: int | None = None  # the token behind the end token; None: the end token again, as CLIP has it


@dataclass(frozen=True)
class VisionConfig:
    """CLIP's picture tower, a Vision Transformer (Dosovitskiy et al. 2021)."""

    size: int = 224
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    mlp_width: int | None = None  # between the two maps of an MLP; None: four times the width


@dataclass(frozen=True)
class CLIPConfig:
    """Both towers of CLIP, and the width of the space in which a text and its picture point the same way."""

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    embed_dim: int = 768


@dataclass(frozen=True)
class ClassifierConfig:
    """The small classifier that measures pictures: a residual block a level, two questions asked."""

    concepts: int
    styles: int
    channels: int = 32
    mults: tuple[int, ...] = (1, 2, 4, 8)
    groups: int = 8


@dataclass(frozen=True)
class ScheduleConfig:
    """The forward process. ``kind`` is the reference library's name for it."""

    kind: Literal["linear", "scaled_linear", "cosine", "flow", "edm"] = "scaled_linear"
    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    shift: float = 1.0  # rectified flow only: Esser et al. 2024, equation 23
    rescale_betas_zero_snr: bool = False  # linear, scaled_linear, cosine: end in pure noise (Lin et al. 2023)
    sigma_min: float = 0.002  # edm only, as are the next two: Karras et al. 2022, equation 5
    sigma_max: float = 80.0
    rho: float = 7.0


@dataclass(frozen=True)
class ClassesConfig:
    """A table of learned vectors, one a class."""

    classes: int
    width: int


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn with a model where nothing else is asked for."""

    steps: int = 20
    guidance: float = 5.0
    sampler: SamplerName = "dpmpp_2m"
    spacing: Spacing = "trailing"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole system: what all families have. A family's own preset adds the configs of its networks."""

    family: str  # the name of a family in `ldm_edu.families`
    name: str
    size: int  # side of the pictures that the model was made for, in pixels
    schedule: ScheduleConfig = ScheduleConfig()
    prediction: Prediction = "eps"
    defaults: Sampling = Sampling()

    @property
    def beside(self) -> Beside:
        """What the network reads besides the noisy sample."""
        return "nothing"


@dataclass(frozen=True, kw_only=True)
class UNetPreset(Preset):
    """A U-Net and what belongs to it.

    A part that is None is absent: no ``autoencoder`` diffuses pixels, no ``text`` has no prompts.
    """

    family: str = "course"
    unet: UNetConfig
    autoencoder: AutoencoderConfig | None
    text: TextConfig | None
    vision: VisionConfig | None = None  # CLIP's other tower, where CLIP is trained here
    embed_dim: int | None = None  # width of CLIP's joint space
    classes: int | None = None  # class-conditional: a table of this many vectors of width unet.vector_dim

    @property
    def beside(self) -> Beside:
        """What the U-Net reads besides the noisy sample."""
        return self.unet.beside


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON-ready values; `from_dict` reads it back."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Rebuild a config of class ``kind`` from `to_dict`'s values.

    Raises
    ------
    ValueError
        if a field is unknown, missing, or of another type, naming it.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(name if name.isprintable() else repr(name) for name in set(values) - set(fields))
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {', '.join(unknown)}; was this written by a newer ldm-edu?")
    missing = [n for n, f in fields.items() if n not in values and f.default is dataclasses.MISSING]
    if missing:
        raise ValueError(f"{kind.__name__} lacks the field {', '.join(missing)}")
    return kind(**{name: _read(name, hints[name], value) for name, value in values.items()})


def _read(name: str, hint: Any, value: Any) -> Any:
    if value is None and (hint is None or type(None) in typing.get_args(hint)):
        return None
    for option in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return from_dict(typing.cast(type, option), value)
        if _is(option, value):
            return tuple(value) if isinstance(value, list) else value
    raise ValueError(f"{name} is {str(value)[:40]!r}, which is no {str(hint).removeprefix('typing.')}")


def _is(hint: Any, value: Any) -> bool:
    """Whether a value read from a file is of a field's type; a count has a size that a model can have."""
    match typing.get_origin(hint):
        case typing.Literal:
            return value in typing.get_args(hint)
        case origin if origin is tuple:
            return isinstance(value, (list, tuple)) and all(_is(typing.get_args(hint)[0], item) for item in value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str) and value.isprintable()  # a terminal would obey what is in it
    return not isinstance(hint, type) or isinstance(value, hint)


def _divides(name: str, divisor: int, widths: list[int]) -> None:
    bad = [w for w in widths if w % divisor]
    if bad:
        raise ValueError(f"{name}={divisor} does not divide the level widths {bad}; choose widths that are multiples")
