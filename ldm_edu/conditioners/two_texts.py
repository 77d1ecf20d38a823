"""Prompts as SDXL reads them: the states of two text encoders, and a vector of what the second one makes of the whole.

(Podell et al. 2023, section 2.) The vector also holds numbers about the picture. In training they said how large its
file was, where it was cropped and how large it was then, so that small and cut pictures could be trained on without
drawing like them: ask for an original size as large as the picture, and for no crop.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.condition import Conditioning
from ldm_edu.conditioners.conditioner import Size
from ldm_edu.conditioners.text import batch, encode, read_texts
from ldm_edu.models.clip import TextEncoder, TextStates
from ldm_edu.nn.embeddings import timestep_embedding
from ldm_edu.prompts import Chunks
from ldm_edu.tokenizer import Tokenizer

WIDTH = 256  # of the sinusoid that each number becomes
SCORES = 6.0, 2.5  # aesthetic scores that the refiner is asked for, and steered away from


class TwoTextConditioner:
    """Prompts as a context of all encoders' penultimate states and a vector of the last encoder's projection and sizes.

    The penultimate states are those before the last layer, not normalised, joined along their width. Long prompts and
    weights work as in `TextConditioner`; the projection is that of a prompt's first window.

    Parameters
    ----------
    readers : tokenizer and text encoder, one or several; the last encoder has a projection. SDXL has CLIP's and
        OpenCLIP's, its refiner OpenCLIP's alone.
    size : height and width of the pictures that the model was made for, in pixels.
    numbers : what the vector says after crop and original size: the size that is drawn (``target``), or an aesthetic
        score (``score``, the refiner).
    zeros : whether context and projection of an empty prompt are zeros instead of what the encoders make of it.

    Raises
    ------
    ValueError
        if the last encoder has no projection, or the encoders read different tokens.
    """

    about = ("original", "crop", "target", "score")  # what a condition may say besides the prompt

    def __init__(
        self,
        readers: Sequence[tuple[Tokenizer, TextEncoder]],
        size: Size,
        *,
        numbers: Literal["target", "score"] = "target",
        zeros: bool = True,
    ) -> None:
        if readers[-1][1].proj is None:
            raise ValueError("the last text encoder has no projection; build it from a TextConfig with one")
        if len({(tokenizer.vocab, tokenizer.length) for tokenizer, _ in readers}) > 1:
            raise ValueError("the text encoders read different tokens; give tokenizers of one vocabulary and length")
        self.readers, self.size, self.numbers, self.zeros = list(readers), size, numbers, zeros

    def read(self, prompts: Sequence[str | Chunks]) -> list[Chunks]:
        """The tokens of each prompt, window by window: the same for all encoders, but for the padding."""
        return read_texts(self.readers[0][0], prompts)

    def __call__(
        self,
        prompts: Sequence[str | Chunks],
        size: Size | None = None,
        *,
        original: Size | None = None,
        crop: Size = (0, 0),
        target: Size | None = None,
        score: float | None = None,
    ) -> Conditioning:
        """Prompts to a context (B, n * L, sum of D) and a vector (B, E + numbers * 256).

        Parameters
        ----------
        size : height and width of the pictures that will be drawn, in pixels; None: the model's own.
        original : size of the pictures as they were found, before any crop; None: ``size``.
        crop : how far from the top and from the left they were cropped.
        target : size after the crop; None: ``size``.
        score : how good they look, from 0 to 10, which the refiner reads instead of ``target``; None: 6.0, and 2.5 for
            an empty prompt, from which guidance steers away.

        Raises
        ------
        TypeError
            for a prompt by itself; pass a list.
        ValueError
            if there is no prompt, or they are of lengths that make no batch.
        """
        read, size = self.read(prompts), size or self.size
        cond, first = batch(read, self._conditions), (*(original or size), *crop)
        if self.numbers == "target":
            rows: list[tuple[float, ...]] = [(*first, *(target or size))] * len(read)
        else:
            rows = [(*first, SCORES[text.empty] if score is None else score) for text in read]
        assert cond.vector is not None
        numbers = sinusoids(torch.tensor(rows, dtype=torch.float32)).to(cond.vector)  # (B, numbers * WIDTH)
        return Conditioning(cond.context, torch.cat([cond.vector, numbers], dim=1))

    def blank(self, n: int = 1, size: Size | None = None, **about: Any) -> Conditioning:
        """The condition of ``n`` pictures without a prompt; ``about`` as in a call: the numbers are the same."""
        return self([""], size, **about).repeat(n)

    def _conditions(self, texts: Sequence[Chunks]) -> list[Conditioning]:
        """Each text's context (1, n L, sum of D) and projection (1, E); zeros for an empty one where that is so."""
        written = [text for text in texts if not (self.zeros and text.empty)]
        known = dict(zip(written, self._encoded(written), strict=True)) if written else {}
        return [known[text] if text in known else self._blank() for text in texts]

    def _encoded(self, texts: Sequence[Chunks]) -> list[Conditioning]:
        encoded = [encode(encoder, tokenizer, texts, _penultimate) for tokenizer, encoder in self.readers]
        contexts = [torch.cat([states for states, _ in each], dim=-1) for each in zip(*encoded, strict=True)]
        return [Conditioning(context, projected) for context, (_, projected) in zip(contexts, encoded[-1], strict=True)]

    def _blank(self) -> Conditioning:
        tokenizer, last = self.readers[-1]
        width = sum(encoder.config.width for _, encoder in self.readers)
        zeros = last.position.new_zeros  # of the encoders' type, on their device
        return Conditioning(zeros(1, tokenizer.length, width), zeros(1, last.config.projection or 0))


def sinusoids(numbers: Tensor) -> Tensor:
    """Numbers (B, N) as features (B, N * 256): each becomes what a time step would, one after another."""
    features = timestep_embedding(rearrange(numbers, "b n -> (b n)"), WIDTH)  # (B N, WIDTH)
    return rearrange(features, "(b n) d -> b (n d)", b=len(numbers))


def _penultimate(states: TextStates) -> Tensor:
    return states.hidden[-2]
