"""DiT: transformers that draw one of 1000 classes in Stable Diffusion's latents (Peebles and Xie 2023).

Sampling here differs from the authors' in two points. Guidance steers all four channels, as in diffusers' pipeline; the
authors' `forward_with_cfg` steers the first three. And the learned variance is left out: a sampler has its own.

The authors publish the network alone: give Stable Diffusion's autoencoder with ``--vae``, or read a diffusers folder,
or one file with both networks, as `ldm-edu convert` writes it. A file of their train.py holds the weights twice
(``model``, and the average over training, ``ema``): the average is taken.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm_edu.conditioners.classes import OneHotConditioner
from ldm_edu.conditioners.conditioner import Conditioner
from ldm_edu.config import AutoencoderConfig, DiTConfig, Preset, Sampling, ScheduleConfig
from ldm_edu.families.family import Family, Folder, Networks, Part
from ldm_edu.families.unet_parts import autoencoder_part
from ldm_edu.layouts.autoencoder import AUTOENCODER
from ldm_edu.layouts.dit import DIT
from ldm_edu.layouts.pair import Json
from ldm_edu.layouts.schedule import read_schedule, write_schedule
from ldm_edu.nn.embeddings import position_embedding
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile

PIPELINE = "DiTPipeline"
SIZES = {
    "s": (12, 384, 6),
    "b": (12, 768, 12),
    "l": (24, 1024, 16),
    "xl": (28, 1152, 16),
}  # depth, width, heads: table 1
SCHEDULE = ScheduleConfig("linear", beta_start=1e-4, beta_end=0.02)  # not Stable Diffusion's
# A guidance of 4 is the default of the authors' sample.py and of diffusers' pipeline; their best FID was measured at
# 1.5. The authors take 250 steps that use the learned variance; this sampler needs a tenth of them.
DEFAULTS = Sampling(steps=25, guidance=4.0, sampler="dpmpp_2m")


@dataclass(frozen=True, kw_only=True)
class DiTPreset(Preset):
    """A diffusion transformer, and an autoencoder; without an autoencoder the model diffuses pixels."""

    family: str = "dit"
    dit: DiTConfig
    autoencoder: AutoencoderConfig | None
    schedule: ScheduleConfig = SCHEDULE
    defaults: Sampling = DEFAULTS


def _published(name: str, patch: int, size: int = 256) -> DiTPreset:
    depth, width, heads = SIZES[name]
    dit = DiTConfig(size=size // 8, patch=patch, depth=depth, width=width, heads=heads)
    name = f"dit_{name}{patch}" if size == 256 else f"dit_{name}{patch}_{size}"
    return DiTPreset(name=name, size=size, dit=dit, autoencoder=AutoencoderConfig())


TOY_DIT = DiTPreset(  # for tests and for reading: trains in seconds
    name="toy_dit",
    size=28,
    dit=DiTConfig(size=28, channels=1, patch=4, width=32, depth=2, heads=2, classes=10, learned_variance=False),
    autoencoder=None,
    defaults=Sampling(steps=20, guidance=2.0, sampler="dpmpp_2m"),
)
DIT_XL2, DIT_XL2_512 = _published("xl", 2), _published("xl", 2, 512)
PRESETS = (TOY_DIT, *(_published(name, patch) for name in SIZES for patch in (2, 4, 8)), DIT_XL2_512)


def conditioner(preset: DiTPreset, networks: Networks) -> Conditioner:
    """Class numbers to one-hot vectors: the network has the table of labels."""
    return OneHotConditioner(preset.dit.classes)


def recognise(file: WeightFile) -> DiTPreset | None:
    """The preset, by the shapes of the tensors."""
    try:
        dit = _config({name: stored.shape for name, stored in file.tensors.items()})
    except (KeyError, ValueError, ArithmeticError):
        return None
    return _preset(dit, AutoencoderConfig(), "dit")


def _config(shapes: Mapping[str, tuple[int, ...]]) -> DiTConfig:
    """The network whose tensors have such shapes; KeyError, ValueError or ArithmeticError if there is none."""
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    rows, _ = shapes["y_embedder.embedding_table.weight"]
    values, _ = shapes["final_layer.linear.weight"]
    _, places, _ = shapes.get("pos_embed", (1, (32 // patch) ** 2, width))  # for 256 pixels, if nothing says otherwise
    depth = sum(name.endswith(".attn.qkv.weight") for name in shapes)
    heads = {(layers, wide): count for layers, wide, count in SIZES.values()}  # no tensor has a shape of heads
    return DiTConfig(
        size=patch * math.isqrt(places),
        channels=channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads[depth, width],
        classes=rows - 1,
        learned_variance=values == 2 * patch * patch * channels,
    )


def _preset(dit: DiTConfig, autoencoder: AutoencoderConfig, name: str) -> DiTPreset:
    """The known preset of these networks, or one of the given name."""
    for known in PRESETS:
        if (known.dit, known.autoencoder) == (dit, autoencoder):
            return known
    return DiTPreset(name=name, size=dit.size * autoencoder.factor, dit=dit, autoencoder=autoencoder)


def positions(preset: DiTPreset) -> dict[str, Tensor]:
    """The fixed positions, (1, N, width), which the authors' file holds too: their number says the pictures' size."""
    places = torch.arange(preset.dit.grid)
    return {"pos_embed": position_embedding(places, places, preset.dit.width)[None]}


def read_folder(folder: Folder) -> DiTPreset | None:
    """The preset that a folder's configs describe: a known one by its name, another by the folder's."""
    if folder.pipeline != PIPELINE:
        return None
    dit = folder.read("transformer/config.json", DIT.read)
    autoencoder = folder.read("vae/config.json", AUTOENCODER.read)
    schedule, prediction = folder.read("scheduler/scheduler_config.json", read_schedule)
    return replace(_preset(dit, autoencoder, folder.name), schedule=schedule, prediction=prediction)


def write_folder(preset: DiTPreset) -> dict[str, Json]:
    """The configs of a folder that describe a preset, by their paths in it.

    Raises
    ------
    CheckpointError
        if the preset diffuses pixels, or is a rectified flow.
    """
    if preset.autoencoder is None:
        raise CheckpointError(
            f"{preset.name} has no autoencoder, and a diffusers folder of DiT needs one; keep this model in ldm-edu's "
            "own layout."
        )
    schedule = write_schedule(preset) | {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, "steps_offset": 0}
    return {
        "model_index.json": {
            "_class_name": PIPELINE,
            "_diffusers_version": "0.12.0",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "transformer": ["diffusers", "DiTTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "transformer/config.json": DIT.write(preset.dit),
        "vae/config.json": AUTOENCODER.write(preset.autoencoder) | {"sample_size": preset.size},
        "scheduler/scheduler_config.json": {
            name: value for name, value in schedule.items() if name != "skip_prk_steps"
        },
    }


FAMILY = Family(
    name="dit",
    title="DiT",
    preset=DiTPreset,
    presets=PRESETS,
    parts=(Part("dit", "DiT", DIT, lambda preset: preset.dit, "transformer", prefix=""), autoencoder_part()),
    network="dit",
    conditioner=conditioner,
    recognise=recognise,
    read_folder=read_folder,
    write_folder=write_folder,
    ignored=("pos_embed",),  # computed here
    marks=positions,
)
