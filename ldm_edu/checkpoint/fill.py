"""A checkpoint that was opened: which model it is, which of its files' tensors make which network, and what is amiss.

Nothing is read but names, types and shapes, until `fill` makes a network of one part.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from einops import EinopsError
from torch import Tensor, nn

from ldm_edu.config import Preset
from ldm_edu.families.family import Part
from ldm_edu.layouts.pair import Format, Pair, all_ours, to_ours
from ldm_edu.weights.errors import CheckpointError, listed, printable
from ldm_edu.weights.fit import check_fit, refuse_nan
from ldm_edu.weights.mapped import Stored, WeightFile, open_weights

BUFFERS = ("position_ids",)  # tensors that some versions of a library saved, and no network needs
Weights = Literal["ema", "last"]  # which copy of the network: the average over training, or the last step's


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, by its name there."""

    file: WeightFile
    name: str

    @property
    def stored(self) -> Stored:
        """Its type, its shape and its place."""
        return self.file.tensors[self.name]


def entries_of(files: Iterable[Path]) -> dict[str, Entry]:
    """The tensors of one network that is stored in some files, by their names there.

    Raises
    ------
    CheckpointError
        if a file is damaged, or two hold a tensor of the same name.
    """
    entries: dict[str, Entry] = {}
    for path in files:
        file = open_weights(path)
        if twice := sorted(entries.keys() & file.tensors.keys()):
            raise CheckpointError(
                f"{path} repeats {printable(twice[0])} of another file; remove this part and copy it again, whole."
            )
        entries |= {name: Entry(file, name) for name in file.tensors}
    return entries


@dataclass(frozen=True)
class StoredPart:
    """The tensors of one network: ``entries`` under their layout's names, ``pairs`` which of them is which of ours."""

    what: str  # for messages: "the unet of sd.safetensors"
    entries: Mapping[str, Entry]
    pairs: list[Pair]
    option: str = ""  # of the command line, which takes this network from another file

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
        if not self.entries:
            other = f", or give one by itself: --{self.option} FILE" if self.option else ""
            raise CheckpointError(f"{self.what} is not there; take a file of the whole model{other}.")
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
    format: Format
    preset: Preset
    parts: Mapping[str, StoredPart]
    ignored: list[str] = field(default_factory=list)  # known by name, and not needed to draw
    unknown: list[str] = field(default_factory=list)  # outside every network, and not known: not needed either
    notes: list[str] = field(default_factory=list)  # what was assumed of the model, a sentence each

    def check(self) -> None:
        """All parts are whole.

        Raises
        ------
        CheckpointError
            naming what is missing or unexpected.
        """
        for part in self.parts.values():
            part.check()


def fill(module: nn.Module, part: StoredPart, *, dtype: torch.dtype | None = torch.float32) -> None:
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

    def read(pair: Pair) -> Tensor:
        entry = part.entries[pair.theirs]
        tensor = entry.file.read(entry.name, dtype=dtype, channels_last=not pair.conv)
        refuse_nan({pair.ours: tensor}, part.what)
        return tensor

    tensors = all_ours(read, part.pairs)
    module.load_state_dict(tensors, strict=True, assign=True)


def check_shapes(module: nn.Module, part: StoredPart) -> None:
    """Whether the tensors of a part have the shapes and the kinds of type that a network's have.

    Raises
    ------
    CheckpointError
        naming the first that has not.
    """
    check_fit(module, {pair.ours: _as_ours(part, pair) for pair in part.pairs}, part.what)


def _as_ours(part: StoredPart, pair: Pair) -> Stored:
    """The shape that a stored tensor will have as ours."""
    stored = part.entries[pair.theirs].stored
    try:
        shape = to_ours(torch.empty(stored.shape, device="meta"), pair).shape
    except (CheckpointError, RuntimeError, EinopsError) as error:
        raise CheckpointError(f"{part.what}: {error}") from error
    return Stored(tuple(shape), stored.dtype, stored.offset)


def pairs_of(part: Part, preset: Preset, format: Format, names: Iterable[str] = ()) -> list[Pair]:
    """Which tensor of a format is which of ours; ``names`` are those that a file holds, as in `Layout`.

    Raises
    ------
    CheckpointError
        if the preset describes no network.
    """
    try:
        return part.layout.pairs(part.config(preset), format, names)
    except CheckpointError:
        raise
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{preset.name} describes no {part.title} ({error}); check its config.") from error
