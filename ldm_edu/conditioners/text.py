"""Prompts as the states of all their tokens, read by one text encoder."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ldm_edu.condition import Conditioning, as_long_as_each_other, refuse_one
from ldm_edu.models.clip import TextEncoder
from ldm_edu.prompts import Chunks, chunks
from ldm_edu.tokenizer import Tokenizer


class TextConditioner:
    """Prompts as the states of all their tokens (Rombach et al. 2022, section 3.3).

    Two things go beyond the paper, both as people are used to from Stable Diffusion. A prompt longer than the encoder's
    window is read in several, and the U-Net attends to the states of all. And a word in parentheses counts more (see
    `ldm_edu.prompts`): its state is moved along the line from the blank prompt's state at the same place,
    ``blank + weight * (state - blank)``, just as guidance moves the estimate. Weight 0 is as if nothing stood there.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: TextEncoder) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder

    def read(self, prompts: Sequence[str]) -> list[str]:
        return list(prompts)

    def __call__(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Conditioning:
        """Prompts to a context (B, n * L, D), n windows of L tokens.

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
        refuse_one(prompts)
        if not prompts:
            raise ValueError("no prompts: give one a picture, [''] for the blank condition")
        read = {prompt: chunks(self.tokenizer, prompt) for prompt in dict.fromkeys(prompts)}
        states = self._states(list(read.values()))  # one a different prompt, each (1, n L, D)
        alike = as_long_as_each_other([Conditioning(context=each) for each in states])
        known = dict(zip(read, alike, strict=True))
        return Conditioning.cat([known[prompt] for prompt in prompts])

    def _states(self, read: list[Chunks]) -> list[Tensor]:
        """The states of each prompt, (1, n L, D); all windows are encoded as one batch."""
        tokens = torch.cat([each.tokens for each in read]).to(self.encoder.position.device)  # (N, L)
        weights = torch.cat([each.weights for each in read])  # (N, L)
        states = self.encoder(tokens).last  # (N, L, D)
        if (weights != 1).any():
            blank = self.encoder(self.tokenizer([""]).to(tokens.device)).last  # (1, L, D)
            states = torch.lerp(blank.expand_as(states), states, weights.to(states)[..., None])
        return [rearrange(part, "n l d -> 1 (n l) d") for part in states.split([len(each.tokens) for each in read])]

    def blank(self, n: int = 1) -> Conditioning:
        """The condition of ``n`` pictures without a prompt: that of an empty one."""
        return self([""] * n)
