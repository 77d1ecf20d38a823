"""A checkpoint that was opened: which model it is, which of its files' tensors make which network, and what is amiss.

Nothing is read but names, types and shapes, until `fill` makes a network of one part.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ldm_edu.weights.errors import CheckpointError, listed
from ldm_edu.checkpoint.io import check_fit, refuse_nan
from ldm_edu.checkpoint.keymaps import Layout, Pair, autoencoder_pairs, text_pairs, to_ours, unet_pairs
from ldm_edu.weights.mapped import Stored, WeightFile
from ldm_edu.config import Preset

MAX_LAYERS = 10_000
Weights = Literal["ema", "last"]  # which copy of the U-Net: the average over training, or the last step's
Family = Literal["ldm-edu", "diffusers", "compvis"]


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, by its name there."""

    file: WeightFile
    name: str

    @property
    def stored(self) -> Stored:
        """Its type, its shape and its place."""
        return self.file.tensors[self.name]


@dataclass(frozen=True)
class Part:
    """The tensors of one network: ``entries`` under their layout's names, ``pairs`` which of them is which of ours."""

    what: str  # for messages: "the unet of sd.safetensors"
    entries: Mapping[str, Entry]
    pairs: list[Pair]

    @property
    def missing(self) -> list[str]:
        """Names that the network needs and the files lack."""
        return sorted({pair.theirs for pair in self.pairs} - self.entries.keys())

    @property
    def unexpected(self) -> list[str]:
        """Names in the files that the network does not know."""
        return sorted(self.entries.keys() - {pair.theirs for pair in self.pairs})

    @property
    def parameters(self) -> int:
        """How many numbers the files hold of it."""
        return sum(entry.stored.count for entry in self.entries.values())

    def check(self) -> None:
        """Every tensor has its partner, on both sides.

        Raises
        ------
        CheckpointError
            if one is missing, or is not of this network.
        """
        for problem, names in {"missing": self.missing, "not of this model": self.unexpected}.items():
            if names:
                raise CheckpointError(
                    f"{self.what}: {len(names)} of {len(self.pairs)} tensors {problem}: {listed(names)}. They were "
                    "saved with another preset, or for another part: check its config, or choose another checkpoint."
                )


@dataclass(frozen=True)
class Checkpoint:
    """What `open_checkpoint` found at a path."""

    path: Path
    layout: Family
    preset: Preset
    parts: Mapping[str, Part]
    spare: list[str] = field(default_factory=list)  # known by name, and not needed to draw
    strangers: list[str] = field(default_factory=list)  # of no part, and not known

    def check(self) -> None:
        """All parts are whole, and nothing is left over.

        Raises
        ------
        CheckpointError
            naming what is missing or unexpected.
        """
        for part in self.parts.values():
            part.check()
        if self.strangers:
            raise CheckpointError(
                f"{self.path} holds {len(self.strangers)} tensors that are of no part of {self.preset.name}: "
                f"{listed(self.strangers)}. It is another model, or carries more than one; take a file of version 1.x."
            )


def fill(module: nn.Module, part: Part, *, dtype: torch.dtype | None = torch.float32) -> None:
    """Make the tensors of a part the weights of a network that was built on the ``meta`` device.

    Those that need no change are used where they lie in the file; the weights of convolutions are laid out channels
    last, as they are quickest.

    Parameters
    ----------
    dtype
        of the floating numbers; None: as they are stored.

    Raises
    ------
    CheckpointError
        if a tensor is missing, unknown, of another shape or type, or not finite.
    """
    part.check()
    check_shapes(module, part)
    tensors = {}
    for pair in part.pairs:
        entry = part.entries[pair.theirs]
        tensor = entry.file.read(entry.name, dtype=dtype, channels_last=not pair.conv)
        tensors[pair.ours] = to_ours(tensor, pair)
        refuse_nan({pair.ours: tensor}, part.what)
    module.load_state_dict(tensors, strict=True, assign=True)


def check_shapes(module: nn.Module, part: Part) -> None:
    """Whether the tensors of a part have the shapes and the kinds of type that a network's have.

    Raises
    ------
    CheckpointError
        naming the first that has not.
    """
    check_fit(module, {pair.ours: _as_ours(part, pair) for pair in part.pairs}, part.what)


def _as_ours(part: Part, pair: Pair) -> Stored:
    stored = part.entries[pair.theirs].stored
    if not pair.conv:
        return stored
    if len(stored.shape) != 4 or stored.shape[2:] != (1, 1):
        raise CheckpointError(
            f"{part.what}: {pair.theirs} has shape {stored.shape}, where a 1x1 convolution is expected; choose the "
            "other layout of this model."
        )
    return Stored(stored.shape[:2], stored.dtype, stored.offset)


def pairs_of(part: str, preset: Preset, layout: Layout | Literal["ldm-edu"], prefix: str = "") -> list[Pair]:
    """Which of the tensors of a layout is which of ours; in our own layout every name is its own partner.

    ``prefix`` stands before the text encoder's names, see `text_pairs`.
    """
    _refuse_giants(preset)
    theirs: Layout = "diffusers" if layout == "ldm-edu" else layout
    pairs: Iterable[Pair]
    if part == "unet":
        pairs = unet_pairs(preset.unet, theirs)
    elif part == "autoencoder" and preset.autoencoder is not None:
        pairs = autoencoder_pairs(preset.autoencoder, theirs)
    elif part == "text" and preset.text is not None:
        pairs = text_pairs(preset.text, prefix)
    elif part == "classes":
        pairs = [Pair("table.weight", "table.weight")]
    else:
        raise CheckpointError(f"{preset.name} has no part {part!r}; check its config")
    return [Pair(pair.ours, pair.ours) for pair in pairs] if layout == "ldm-edu" else list(pairs)


def parts_of(preset: Preset) -> list[str]:
    """The networks that a preset asks for, by the names of their files."""
    return [part for part in ("unet", "autoencoder", "text", "classes") if getattr(preset, part) is not None]


def _refuse_giants(preset: Preset) -> None:
    """A damaged or hostile config may ask for more layers than there is time to name."""
    unet, text, autoencoder = preset.unet, preset.text, preset.autoencoder
    layers = len(unet.mults) * (unet.blocks + 1) * (2 + max((*unet.depth, unet.mid_depth), default=0))
    layers += len(autoencoder.mults) * (autoencoder.blocks + 1) if autoencoder else 0
    layers += text.layers if text else 0
    if layers > MAX_LAYERS:
        raise CheckpointError(f"{preset.name} asks for {layers:,} layers, which describes no model: check its config.")
