"""What numbers a run rests on, in 32 digits each: of networks, of the latents that one gives, of any tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ldm_edu.datasets.folder import digest
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.clip import TextEncoder


def fingerprint(*modules: nn.Module, note: str = "") -> str:
    """A fingerprint of the weights of some networks, and of a ``note`` on how they are used."""
    tensors = (
        (f"{i}.{name}", tensor) for i, module in enumerate(modules) for name, tensor in module.state_dict().items()
    )
    return digest([note, *(part for name, tensor in sorted(tensors) for part in (name, tensor_bytes(tensor)))])


def checksum(tensors: Mapping[str, Tensor], *, note: str = "") -> str:
    """A fingerprint of the names, kinds and numbers of some tensors; their order and memory format do not count."""
    kinds = {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in tensors.items()}
    named = (part for name in sorted(tensors) for part in (name, kinds[name], tensor_bytes(tensors[name])))
    return digest(part for parts in ([note], named) for part in parts)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor in the order of its indices."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def latent_fingerprint(autoencoder: AutoencoderKL) -> str:
    """A fingerprint of what makes an autoencoder's latents: a decoder that was trained on changes none of them."""
    return fingerprint(autoencoder.encoder, autoencoder.quant, note=str(autoencoder.config))


def text_fingerprint(encoder: TextEncoder) -> str:
    """A fingerprint of what makes a text encoder's states."""
    return fingerprint(encoder, note=str(encoder.config))
