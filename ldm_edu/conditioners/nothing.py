"""A model that takes no prompt."""

from collections.abc import Sequence

from ldm_edu.condition import Conditioning


class Unconditional:
    """The conditioner of an unconditional model: the blank prompt is the only one."""

    def read(self, prompts: Sequence[object]) -> list[object]:
        """The prompts themselves."""
        return list(prompts)

    def __call__(self, prompts: Sequence[object], size: tuple[int, int] | None = None) -> Conditioning:
        """A condition without parts.

        Raises
        ------
        ValueError
            if a prompt is not blank.
        """
        if set(prompts) - {None, ""}:
            raise ValueError(f"this model is unconditional: the only prompt is '', not {list(prompts)}")
        return Conditioning()

    def blank(self, n: int = 1, size: tuple[int, int] | None = None) -> Conditioning:
        """A condition without parts, for any number of pictures."""
        return Conditioning()
