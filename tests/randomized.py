"""Models whose every weight has an effect: fresh ones start with zeros that would hide a mistake."""

from dataclasses import replace

import torch

from ldm_edu.config import Beside, Preset, UNetConfig, UNetPreset
from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.unet import UNet


def randomized_model(preset: Preset, seed: int = 0) -> LatentDiffusion:
    """A model with no weight at zero: a fresh one's transformers and outputs change nothing yet."""
    model, rng = LatentDiffusion.from_preset(preset, seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.networks.values():
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
    return model


def toy_with(in_channels: int) -> UNetPreset:
    """The toy preset, whose U-Net reads a mask (9 channels) or a picture (8) besides the 4 of the sample."""
    beside: dict[int, Beside] = {4: "nothing", 8: "picture", 9: "mask"}
    return replace(TOY, unet=replace(TOY.unet, in_channels=in_channels, beside=beside[in_channels]))


def randomized_unet(config: UNetConfig, seed: int = 1) -> UNet:
    """A network whose every part has an effect: a fresh one starts with zeros at its ends."""
    torch.manual_seed(seed)
    unet = UNet(config)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet
