"""Prompts as the states of all their tokens, read by one text encoder."""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.condition import Conditioning, as_long_as_each_other, refuse_one
from ldm_edu.conditioners.conditioner import Size
from ldm_edu.models.clip import TextEncoder, TextStates
from ldm_edu.prompts import Chunks, chunks
from ldm_edu.tokenizer import Tokenizer


class TextConditioner:
    """Prompts as the states of all their tokens (Rombach et al. 2022, section 3.3).

    Two things go beyond the paper, both as people are used to from Stable Diffusion. A prompt longer than the encoder's
    window is read in several, and the U-Net attends to the states of all. And a word in parentheses counts more (see
    `ldm_edu.prompts`): its state is moved along the line from the blank prompt's state at the same place,
    ``blank + weight * (state - blank)``, just as guidance moves the estimate. Weight 0 is as if nothing stood there.

    Parameters
    ----------
    skip : how many of the encoder's last layers are left out before its final norm. 0 for Stable Diffusion 1, 1 for
        Stable Diffusion 2 where all 24 layers of its encoder are there.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: TextEncoder, *, skip: int = 0) -> None:
        if not 0 <= skip < len(encoder.layers):
            raise ValueError(f"skip={skip} must lie from 0 to {len(encoder.layers) - 1}, one layer less than there are")
        self.tokenizer, self.encoder, self.skip = tokenizer, encoder, skip

    def read(self, prompts: Sequence[str | Chunks]) -> list[Chunks]:
        """The tokens of each prompt, window by window; equal prompts are read once.

        Raises
        ------
        TypeError
            for a prompt by itself; pass a list.
        """
        return read_texts(self.tokenizer, prompts)

    def __call__(self, prompts: Sequence[str | Chunks], size: Size | None = None) -> Conditioning:
        """Prompts to a context (B, n * L, D), n windows of L tokens. The ``size`` of the pictures makes no difference.

        Padding is attended to as well: Stable Diffusion was trained so. Where prompts need different numbers of
        windows, each is repeated whole until all are of one length: attention over a sequence twice is attention over
        it once, so a picture does not depend on its neighbours' prompts.

        Raises
        ------
        TypeError
            for a prompt by itself; pass a list.
        ValueError
            if there is no prompt, or they are of lengths that make no batch: 5 and 7 windows would be repeated to 35.
        """
        return batch(self.read(prompts), self._conditions)

    def blank(self, n: int = 1, size: Size | None = None) -> Conditioning:
        """The condition of ``n`` pictures without a prompt: that of an empty one."""
        return self([""]).repeat(n)

    def _conditions(self, texts: Sequence[Chunks]) -> list[Conditioning]:
        encoded = encode(self.encoder, self.tokenizer, texts, self._pick)
        return [Conditioning(context=states) for states, _ in encoded]

    def _pick(self, states: TextStates) -> Tensor:
        return states.last if self.skip == 0 else self.encoder.norm(states.hidden[-1 - self.skip])


def read_texts(tokenizer: Tokenizer, prompts: Sequence[str | Chunks]) -> list[Chunks]:
    """The windows of each prompt; a prompt that was read before stays as it is, and equal ones are read once."""
    refuse_one(prompts)
    if wrong := [prompt for prompt in prompts if not isinstance(prompt, (str, Chunks))]:
        raise ValueError(f"a prompt of this model must be a text, not {wrong[0]!r}; '' is the blank prompt")
    known = {prompt: chunks(tokenizer, prompt) for prompt in dict.fromkeys(prompts) if isinstance(prompt, str)}
    return [known[prompt] if isinstance(prompt, str) else prompt for prompt in prompts]


def batch(read: Sequence[Chunks], encode: Callable[[list[Chunks]], list[Conditioning]]) -> Conditioning:
    """The conditions of texts as those of one batch: each different text is encoded once, and all made equally long.

    Raises
    ------
    ValueError
        if there is no text, or they are of lengths that make no batch.
    """
    if not read:
        raise ValueError("no prompts: give one a picture, [''] for the blank condition")
    different = list(dict.fromkeys(read))
    known = dict(zip(different, as_long_as_each_other(encode(different)), strict=True))
    return Conditioning.cat([known[text] for text in read])


def encode(
    encoder: TextEncoder, tokenizer: Tokenizer, texts: Sequence[Chunks], pick: Callable[[TextStates], Tensor]
) -> list[tuple[Tensor, Tensor | None]]:
    """Each text's states (1, n L, D), and the projection of its first window (1, E) where the encoder has one.

    ``pick`` says which states (N, L, D) of the encoder's. All windows are encoded as one batch.
    """
    device, counts = encoder.position.device, [len(text.tokens) for text in texts]
    padding = torch.cat([text.padding for text in texts])  # (N, L)
    tokens = torch.cat([text.tokens for text in texts]).masked_fill(padding, tokenizer.padding).to(device)  # (N, L)
    weights = torch.cat([text.weights for text in texts])  # (N, L)
    found = encoder(tokens)
    states = pick(found)  # (N, L, D)
    if (weights != 1).any():
        blank = pick(encoder(tokenizer([""]).to(device)))  # (1, L, D)
        states = torch.lerp(blank.expand_as(states), states, weights.to(states)[..., None])
    contexts = [rearrange(part, "n l d -> 1 (n l) d") for part in states.split(counts)]
    projected = [None] * len(texts) if found.projected is None else [p[:1] for p in found.projected.split(counts)]
    return list(zip(contexts, projected, strict=True))
