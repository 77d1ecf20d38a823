"""Whether the whole pipeline draws what diffusers' draws, from the same files, the same prompt and the same noise.

The weights are random, since none are shipped at this size; but of a spread that keeps every layer's output alive, so
that a wrong name or a wrong epsilon anywhere changes the picture. diffusers writes them as a folder and draws from it;
then we draw from that folder, and from the same weights as one CompVis file.
"""

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm_edu.build import build_on_meta
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.config import Preset
from ldm_edu.convert import convert_checkpoint
from ldm_edu.evaluate.record import Figure, Section
from ldm_edu.extras import need
from ldm_edu.families import family_of
from ldm_edu.files import atomic_write_text
from ldm_edu.guidance import cfg
from ldm_edu.model import LatentDiffusion
from ldm_edu.samplers import ddim, initial_noise
from ldm_edu.schedule import levels
from ldm_edu.weights.mapped import open_weights

PROMPT = "a horse in the snow"  # short enough for a small vocabulary: longer ones are read in pieces here
STEPS, GUIDANCE, SEED = 3, 7.5, 7
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Drawn:
    """What a pipeline draws: latents (1, C, h, w) and the picture (1, 3, H, W) in [-1, 1]."""

    latents: Tensor
    picture: Tensor


def verify(
    preset: Preset, folder: Path, *, size: int, say: Callable[[str], object] = lambda what: None
) -> list[Section]:
    """Compare both layouts' pictures with the reference pipeline's, and both conversions with the first files.

    Parameters
    ----------
    folder
        where the weights go, three times over: 13 GB for ``sd15``, 42 GB for ``sdxl``.
    size
        the side of the picture in pixels.
    say
        is told what is being done.

    Raises
    ------
    ValueError
        if the preset does not draw from prompts alone, or not at that size; if diffusers or transformers is not
        installed.
    """
    _refuse_more_than_prompts(preset)
    noise = initial_noise([SEED], _latent_shape(preset, size))
    theirs, one, back = folder / "theirs", folder / "one.safetensors", folder / "back"
    say(f"diffusers writes {preset.name} with random weights")
    write_reference(preset, theirs)
    say(f"diffusers draws {STEPS} steps at {size} x {size}")
    wanted = draw_reference(theirs, noise)
    say("we draw from its folder")
    from_folder = draw_ours(theirs, noise)
    say("we write one file in the original layout, and draw from it")
    convert_checkpoint(open_checkpoint(theirs), one, "original")
    from_file = draw_ours(one, noise)
    say("we write a diffusers folder from that file, and compare it with the first")
    convert_checkpoint(open_checkpoint(one), back, "diffusers")
    drawn = {"diffusers' folder": from_folder, "one file": from_file}
    return [_differences(drawn, wanted), _round_trip(preset, theirs, back)]


def _refuse_more_than_prompts(preset: Preset) -> None:
    if preset.beside != "nothing" or not family_of(preset).tokenizers(preset):
        raise ValueError(f"{preset.name} does not draw from prompts alone; choose sd15, sd21, sdxl or toy")


def _latent_shape(preset: Preset, size: int) -> tuple[int, int, int]:
    """The shape (C, h, w) of the latents of a picture; raises ValueError for a size that does not fit."""
    networks = build_on_meta(preset)
    return LatentDiffusion(preset, networks).latent_shape(size)


def _differences(drawn: dict[str, Drawn], wanted: Drawn) -> Section:
    figures = [
        Figure(
            f"{what} from {where}",
            float((getattr(ours, what) - getattr(wanted, what)).abs().max()),
            getattr(wanted, what).numel(),
            {"standard deviation of theirs": float(getattr(wanted, what).std())},
            goal=TOLERANCE,
            better="lower",
        )
        for where, ours in drawn.items()
        for what in ("latents", "picture")
    ]
    note = f"{STEPS} steps of DDIM, guidance {GUIDANCE}, float32, the same noise; N counts the numbers compared."
    return Section("The pictures of diffusers' pipeline", "largest difference", figures, note)


def _round_trip(preset: Preset, first: Path, last: Path) -> Section:
    """How many tensors are not, bit for bit, what they were."""
    figures = []
    for network in [part.folder for part in family_of(preset).parts_of(preset)]:
        count, differing = 0, 0
        for same in _compared(first / network, last / network):
            count, differing = count + 1, differing + (not same)
        figures.append(Figure(network, differing, count, {}, goal=0, better="lower"))
    return Section("diffusers to one file and back", "tensors that differ", figures, "N counts the tensors.")


def _compared(first: Path, last: Path) -> Iterator[bool]:
    """For each tensor of two folders of one network, whether it is the same in both."""
    before, after = (
        {name.removeprefix("text_model."): (file, name) for file in _files(place) for name in file.tensors}
        for place in (first, last)
    )  # transformers 5 leaves out the prefix for some text encoders; published files have the prefix
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield False
            continue
        a, b = (file.read(original) for file, original in (before[name], after[name]))
        yield a.dtype == b.dtype and torch.equal(a, b)


def _files(folder: Path) -> Iterable[Any]:
    return [open_weights(path) for path in sorted(folder.glob("*.safetensors"))]


def write_reference(preset: Preset, folder: Path) -> None:
    """A folder of random weights, written by diffusers and transformers themselves, one network after another.

    Raises
    ------
    ValueError
        if they are not installed, or have no such model.
    """
    libraries = dict(zip(("diffusers", "transformers"), _libraries(), strict=True))
    family = family_of(preset)
    if family.write_folder is None:
        raise ValueError(f"diffusers has no pipeline for {family.title}; choose sd15, sd21, sdxl or toy")
    configs = family.write_folder(preset)
    index = configs["model_index.json"]
    for name, tokenizer in family.tokenizers(preset).items():
        for file, text in tokenizer.files().items():
            atomic_write_text(folder / name / file, text)
    for path, config in configs.items():
        atomic_write_text(folder / path, json.dumps(config))
    for part in family.parts_of(preset):
        library, kind = index[part.folder]
        network = _network(libraries[library], kind, configs[f"{part.folder}/config.json"])
        _randomised(network).save_pretrained(folder / part.folder)  # type: ignore[operator]
        del network
        gc.collect()  # the next network wants its memory


def _network(library: Any, kind: str, config: Any) -> nn.Module:
    """A network of a library by the name of its class: transformers wants a config object, diffusers the values."""
    made = getattr(library, kind)
    return made(made.config_class(**config)) if hasattr(made, "config_class") else made.from_config(config)


def _randomised(module: nn.Module) -> nn.Module:
    """Random weights that keep the spread of what goes through; a fresh network's zeros would hide what is behind."""
    rng = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(generator=rng)
            if parameter.ndim > 1:
                parameter.mul_(parameter[0].numel() ** -0.5)
            else:
                parameter.mul_(0.1).add_(0.0 if name.endswith("bias") else 1.0)
    return module


def draw_reference(folder: Path, noise: Tensor) -> Drawn:
    """What diffusers' pipeline draws from a folder, with the original DDIM's settings."""
    diffusers, _ = _libraries()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config,
        **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"},
    )
    side = [length * pipeline.vae_scale_factor for length in noise.shape[2:]]
    latents = pipeline(
        PROMPT,
        height=side[0],
        width=side[1],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise.clone(),
        output_type="latent",
    ).images
    with torch.no_grad():
        picture = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    drawn = Drawn(latents.clone(), picture.clamp(-1, 1))
    del pipeline
    gc.collect()  # the next pipeline wants its memory
    return drawn


def draw_ours(path: Path, noise: Tensor) -> Drawn:
    """The same by our own pipeline, from a folder or a file."""
    model = LatentDiffusion.from_pretrained(path)
    size = noise.shape[2] * model.codec.factor, noise.shape[3] * model.codec.factor
    cond, blank = model.condition([PROMPT], size), model.condition([""], size)
    guided = cfg(model.denoiser(cond), model.denoiser(blank), GUIDANCE)
    *_, last = ddim(guided, noise, levels(model.schedule, STEPS, "leading", "first"))
    return Drawn(last.x, model.decode(last.x))


def _libraries() -> tuple[Any, Any]:
    diffusers, transformers = need("diffusers"), need("transformers")
    for library in (diffusers, transformers):  # their bars and warnings would stand between the lines of the report
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return diffusers, transformers
