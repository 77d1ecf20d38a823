"""What one sort of model is made of: a family is one value of this class, in a file of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from ldm_edu.codec import Codec, LatentCodec, PixelCodec
from ldm_edu.conditioners.conditioner import Conditioner
from ldm_edu.config import Preset
from ldm_edu.layouts.pair import Json, Layout
from ldm_edu.tokenizer import Tokenizer
from ldm_edu.weights.mapped import WeightFile

T = TypeVar("T")
Networks = Mapping[str, nn.Module]  # by the names of their parts


class Folder(Protocol):
    """A folder in diffusers' format, as a family looks into it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def pipeline(self) -> str:
        """The class that ``model_index.json`` names; "" without such a file."""
        ...

    def read(self, config: str, read: Callable[[Json, str], T]) -> T:
        """What ``read`` makes of a config, given its values and its path; ``config``: "unet/config.json"."""
        ...


@dataclass(frozen=True)
class Part:
    """One network of a family, and where it is found."""

    name: str  # our name: of the file in our own folders, and of the network in a model
    title: str  # "U-Net"
    layout: Layout
    config: Callable[[Any], Any]  # the network's config in a preset; None: this preset has no such network
    folder: str = ""  # in a folder of diffusers; "": that format has no place for the network
    stem: str = "diffusion_pytorch_model"  # of the weights' files there
    prefix: str | None = None  # of its tensors' names in the one file of the original; None: no place
    other_prefixes: tuple[str, ...] = ()  # of the same names in the files of other tools
    option: str = ""  # by which another file's network is taken, as ``vae`` in --vae FILE; "": there is none
    float16: bool = True  # False: numbers beyond float16's range occur, so the network runs in float32 instead


@dataclass(frozen=True)
class Family:
    """A model family: its presets, its networks, how a prompt is read, and how its files are recognised.

    `recognise` looks at the names and shapes of one file's tensors, `read_folder` at a folder's configs; both return
    None for a model of another family. `write_folder` gives the configs of a folder by their paths. Where shapes do not
    tell all, ``notes`` says what `recognise` went by, and ``marks`` are tensors by which other tools tell the same.
    """

    name: str
    title: str  # "Stable Diffusion 1.x"
    preset: type[Preset]
    presets: tuple[Preset, ...]
    parts: tuple[Part, ...]
    network: str  # the part that predicts the noise
    conditioner: Callable[[Any, Networks], Conditioner]
    recognise: Callable[[WeightFile], Preset | None] = lambda file: None
    read_folder: Callable[[Folder], Preset | None] = lambda folder: None
    write_folder: Callable[[Any], dict[str, Json]] | None = None  # None: diffusers has no such folder
    tokenizers: Callable[[Any], dict[str, Tokenizer]] = lambda preset: {}  # by their folders
    ignored: tuple[str, ...] = ()  # patterns of tensors in the one file that no network needs
    notes: Callable[[WeightFile], list[str]] = lambda file: []  # sentences, for whoever opens the file
    marks: Callable[[Any], dict[str, Tensor]] = lambda preset: {}  # written into the one file, ignored by every network
    codec: Callable[[Networks], Codec] = lambda networks: (
        LatentCodec(networks["autoencoder"]) if "autoencoder" in networks else PixelCodec()  # type: ignore[arg-type]
    )

    def parts_of(self, preset: Preset) -> list[Part]:
        """The networks that a preset asks for, in the order in which they are built."""
        return [part for part in self.parts if part.config(preset) is not None]
