"""The names of a residual block's tensors, which a U-Net and an autoencoder share."""

from collections.abc import Iterator

from ldm_edu.layouts.pair import Pair, both

_RES = {  # ours: diffusers', CompVis's
    "norm1": ("norm1", "in_layers.0"),
    "conv1": ("conv1", "in_layers.2"),
    "time_proj": ("time_emb_proj", "emb_layers.1"),
    "norm2": ("norm2", "out_layers.0"),
    "conv2": ("conv2", "out_layers.3"),
    "skip": ("conv_shortcut", "skip_connection"),
}


def residual_pairs(
    theirs: str, ours: str, *, original: bool, skip: bool, time: bool = False, nin: bool = False
) -> Iterator[Pair]:
    """A residual block. ``nin``: CompVis's autoencoder has diffusers' names for all but the way past the block."""
    for name, (diffusers, other) in _RES.items():
        if (name == "skip" and not skip) or (name == "time_proj" and not time):
            continue
        their_name = "nin_shortcut" if name == "skip" and nin else other if original else diffusers
        yield from both(f"{theirs}.{their_name}", f"{ours}.{name}")
