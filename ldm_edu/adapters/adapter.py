"""What changes a model that exists, from outside: the one protocol that a LoRA, a ControlNet or your own fulfils."""

from typing import TYPE_CHECKING, Protocol

from ldm_edu.weights.mapped import WeightFile

if TYPE_CHECKING:
    from ldm_edu.model import LatentDiffusion


class Attached(Protocol):
    """An adapter at work on a model."""

    def detach(self) -> None:
        """Give the model back as it was, bit for bit."""
        ...


class Adapter(Protocol):
    """One kind of adapter: how its files are recognised, and what one of them does to a model."""

    @property
    def title(self) -> str:
        """What people call this kind: "a LoRA"."""
        ...

    def recognise(self, file: WeightFile) -> bool:
        """Whether a file holds an adapter of this kind, by the names and shapes of its tensors."""
        ...

    def describe(self, file: WeightFile) -> list[str]:
        """What a reader wants to know of a file, a line each: its rank, the model that it was made for."""
        ...

    def attach(self, model: "LatentDiffusion", file: WeightFile, scale: float) -> Attached:
        """Let an adapter change a model, ``scale`` times as strongly as it was trained to; 0 changes nothing.

        Raises
        ------
        CheckpointError
            if a tensor is not understood, or the file was made for another model; the model is unchanged then.
        """
        ...
