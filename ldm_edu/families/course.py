"""The models of the course: small enough to be trained while a lesson is read, or on two CPU cores in a day."""

from functools import partial

from ldm_edu.config import AutoencoderConfig, TextConfig, UNetConfig, UNetPreset, VisionConfig
from ldm_edu.families.family import Family, Folder
from ldm_edu.families.sd1 import IGNORED, PIPELINES, TEXT_PREFIX
from ldm_edu.families.unet_parts import (
    autoencoder_part,
    classes_part,
    conditioner,
    read_unet_folder,
    text_part,
    tokenizers,
    unet_part,
    write_unet_folder,
)

TOY = UNetPreset(  # for tests and for reading: trains in seconds
    name="toy",
    size=16,
    unet=UNetConfig(channels=32, mults=(1, 2), blocks=1, depth=(0, 1), context_dim=32, heads=2, groups=8),
    autoencoder=AutoencoderConfig(channels=16, mults=(1, 2), blocks=1, groups=8, scale=1.0),
    text=TextConfig(vocab=1024, length=16, width=32, layers=1, heads=2),
    vision=VisionConfig(size=16, patch=4, width=32, layers=1, heads=2),
    embed_dim=32,
    prediction="v",
)

EMOJI = UNetPreset(  # small enough to train on two CPU cores in an afternoon
    name="emoji",
    size=64,
    unet=UNetConfig(channels=64, mults=(1, 3, 3), blocks=1, depth=(0, 1, 1), context_dim=192, heads=4, groups=8),
    autoencoder=AutoencoderConfig(channels=32, mults=(1, 2, 4), blocks=1, groups=8, scale=1.0),
    text=TextConfig(vocab=8192, length=32, width=192, layers=3, heads=3),
    vision=VisionConfig(size=64, patch=8, width=192, layers=3, heads=3),
    embed_dim=192,
    prediction="v",
)

SHAPES = UNetPreset(
    name="shapes",
    size=32,
    unet=UNetConfig(channels=64, mults=(1, 2), blocks=1, depth=(1, 1), context_dim=128, heads=4, groups=8),
    autoencoder=AutoencoderConfig(channels=32, mults=(1, 2, 2), blocks=1, groups=8, scale=1.0),
    text=TextConfig(vocab=1024, length=32, width=128, layers=2, heads=4),
    prediction="v",
)

FASHION = UNetPreset(  # diffuses pixels, one of ten classes told: small enough to train while a lesson is read
    name="fashion",
    size=28,
    unet=UNetConfig(
        in_channels=1,
        out_channels=1,
        channels=16,
        mults=(1, 2, 2),
        blocks=1,
        depth=(0, 0, 1),
        mid_depth=0,
        context_dim=None,
        heads=2,
        vector_dim=16,
        groups=4,
    ),
    autoencoder=None,
    text=None,
    classes=10,
)

PRESETS = (TOY, FASHION, SHAPES, EMOJI)


def read_folder(folder: Folder) -> UNetPreset | None:
    """A preset of the course that `ldm-edu convert` wrote as a diffusers folder; None for any other model."""
    if folder.pipeline and folder.pipeline not in PIPELINES:
        return None
    found = read_unet_folder(folder, "course", PIPELINES, PRESETS)
    return found if any(found.unet == preset.unet and found.text == preset.text for preset in PRESETS) else None


FAMILY = Family(
    name="course",
    title="a model of the course",
    preset=UNetPreset,
    presets=PRESETS,
    parts=(unet_part(), autoencoder_part(), text_part(TEXT_PREFIX), classes_part()),
    network="unet",
    conditioner=conditioner,
    read_folder=read_folder,
    write_folder=partial(write_unet_folder, pipelines=PIPELINES),
    tokenizers=tokenizers,
    ignored=IGNORED,
)
