"""``ldm-edu generate``: prompts, and a picture to start from, to pictures; and a film of how they came about."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import ldm_edu
from ldm_edu.cli.convert import Predicts, Text, Vae, Weights
from ldm_edu.cli.edits import by_instruction, make_edit, parse_crop, parse_size
from ldm_edu.cli.output import Order, captions, check_places, save_pictures
from ldm_edu.config import Prediction, SamplerName, Spacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ldm_edu.editing import Edit
    from ldm_edu.model import LatentDiffusion
    from ldm_edu.samplers import Step
Dtype = Literal["float32", "bfloat16", "float16"]
Frame = list["Image"]  # every picture asked for, at one step

MAX_SEED = 2**32 - 1
BATCH = 16  # pictures drawn at once; a picture does not depend on it
BATCH_LATENTS = 4 * 64 * 64  # latent pixels drawn at once: 4 pictures of Stable Diffusion's size


def _list(wanted: bool) -> None:
    """Print what the emoji model knows, and end."""
    if wanted:
        from ldm_edu.datasets.vocabulary import vocabulary

        typer.echo(vocabulary())
        raise typer.Exit


def generate(
    prompts: Annotated[list[str], typer.Argument(help='What to draw, as in "red apple, 3d style".')],
    model: Annotated[
        str, typer.Option(help="A shipped checkpoint, a checkpoint's folder, or a file of Stable Diffusion 1.x.")
    ] = "emoji",
    copy: Weights = None,
    prediction: Predicts = None,
    vae: Vae = None,
    text: Text = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps from noise to picture, 1 to 1000; left out: what suits the model.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="How strongly to follow the prompt; 1 is no guidance; left out: what suits the model."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Of each prompt's first picture; the next ones count up.")
    ] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures a prompt.")] = 1,
    sampler: Annotated[
        SamplerName | None, typer.Option(help="The solver; lms needs karras spacing; left out: what suits the model.")
    ] = None,
    spacing: Annotated[
        Spacing | None,
        typer.Option(help="How the steps are spread over the noise levels; left out: what suits the model."),
    ] = None,
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="In pixels, 512 or 768x512; left out: the model's own, or that of --init."),
    ] = None,
    init: Annotated[Path | None, typer.Option(help="A picture to start from.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Share of the steps that are left to go from --init, above 0 to 1; 0.6, or 1 with a mask."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Where --init is painted anew: white. As large as it.")] = None,
    outpaint: Annotated[
        str | None,
        typer.Option(metavar="PIXELS", help="A border to paint around --init: 64, or left,top,right,bottom."),
    ] = None,
    image_guidance: Annotated[
        float | None,
        typer.Option(help="How strongly a model that edits by instruction keeps to --init; left out: 1.5."),
    ] = None,
    depth: Annotated[
        Path | None, typer.Option(help="Depths of --init, lighter where nearer; for a model that reads depths.")
    ] = None,
    original_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="SDXL: the size of the photo that the picture is to look like.")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="TOP,LEFT", help="SDXL: what was cut off of that photo; left out: nothing.")
    ] = None,
    refiner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="SDXL: a second model, which draws the last steps.")
    ] = None,
    switch: Annotated[
        float | None, typer.Option(help="Share of the noise schedule before --refiner takes over; left out: 0.8.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="What changes the model from outside; may be given several times."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="bfloat16 takes half the memory; float16 needs a GPU.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps; left out: a GPU where there is one.")] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Decode in tiles of this side, in pixels, for less memory; left out: from 1024 on."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="A .png: the picture, or a sheet of several or small ones; a folder: each by itself."),
    ] = Path("sheet.png"),
    film: Annotated[Path | None, typer.Option(help="Where a film of the steps goes, a .gif.")] = None,
    list_: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Say what the emoji model knows, and end.")
    ] = False,
) -> None:
    """Draw pictures from prompts, and from pictures.

    A picture depends on its prompt and its seed alone (and on --init), not on the others drawn beside it. The PNG says
    how it was drawn: ldm-edu inspect FILE.png.

    In a prompt (word) and (word:1.3) count more, [word] and (word:0.5) less; \\( is the sign itself. A prompt longer
    than the text encoder's window is read in several; BREAK starts the next one.

    Image to image: --init photo.png --strength 0.6. Inpainting: --init photo.png --mask mask.png, white where it is
    painted anew; the rest stays as it is. Outpainting: --init photo.png --outpaint 64.
    """
    check_places(out, film)
    about_init = {"strength": strength, "mask": mask, "outpaint": outpaint, "image-guidance": image_guidance}
    about_init["depth"] = depth
    for option, value in about_init.items():
        if init is None and value is not None:
            raise ValueError(f"--{option} is about the picture to start from: give --init as well")
    if switch is not None and refiner is None:
        raise ValueError("--switch says when --refiner takes over: give --refiner as well, or leave it out")
    if refiner is not None and init is not None:
        raise ValueError("--refiner goes on from a picture drawn from noise: give --init or --refiner, not both")
    shape = None if size is None else parse_size(size)
    about = {"original": original_size and parse_size(original_size), "crop": crop and parse_crop(crop)}

    from ldm_edu.cascade import SWITCH, base_then_refiner
    from ldm_edu.pictures import save_gif, sheet
    from ldm_edu.prompts import remarks
    from ldm_edu.samplers import SAMPLERS

    pipeline = load(model, device, dtype, copy, prediction=prediction, vae=vae, text=text, adapters=adapter or ())
    for sentence in pipeline.notes:
        typer.echo(f"ldm-edu: {model}: {sentence}", err=True)
    if tile is not None:
        pipeline.codec.check_tile(tile)
    different = list(dict.fromkeys([*prompts, negative]))
    read = dict(zip(different, pipeline.read(different), strict=True))
    _warn_of_truncation(pipeline, read)
    edit = None
    if init is not None:
        edit = make_edit(pipeline, init, mask, outpaint, shape, strength, image_guidance, depth)
        shape = edit.size
    usual = pipeline.preset.defaults
    said: dict[str, Any] = {
        "steps": usual.steps if steps is None else steps,
        "guidance": usual.guidance if guidance is None else guidance,
        "sampler": sampler or usual.sampler,
        "spacing": spacing or usual.spacing,
        "negative": negative,
    }
    for sentence in remarks(prompts, negative, said["guidance"]):
        typer.echo(f"ldm-edu: {sentence}", err=True)
    how = {**said, "sampler": SAMPLERS[said["sampler"]], "size": shape, "negative": negative and read[negative]}
    how["about"] = {name: value for name, value in about.items() if value}
    draw = partial(pipeline.generate, edit=edit)
    if refiner is not None:
        draw = partial(base_then_refiner, pipeline, load(refiner, device, dtype), switch=switch or SWITCH)
    orders = [(prompt, seed + i) for prompt in prompts for i in range(count)]
    with ThreadPoolExecutor(1) as meanwhile, _memory(pipeline):
        weights = meanwhile.submit(_fingerprint, model, copy)  # gigabytes take seconds
        frames = _draw(draw, pipeline, orders, read, every_step=film is not None, tile=tile, edit=edit, **how)
    settings = {"model": model, "weights": weights.result(), **said, "size": "{}x{}".format(*frames[-1][0].size)}
    otherwise = {"copy": copy, "prediction": prediction, "vae": vae, "text": text, "refiner": refiner, "switch": switch}
    otherwise |= {"original size": original_size, "crop": crop}
    settings |= {name: value for name, value in otherwise.items() if value is not None}
    if adapter:
        settings["adapters"] = ", ".join(adapter)
    if edit is not None:
        given = {"init": init, "strength": edit.strength, "mask": mask, "outpaint": outpaint, "depth": depth}
        given |= {"image_guidance": edit.image_guidance} if by_instruction(pipeline) else {}
        settings |= {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}
    settings |= {"dtype": dtype, "device": pipeline.device.type, "version": f"ldm-edu {ldm_edu.__version__}"}
    save_pictures(out, orders, frames[-1], settings)
    typer.echo(f"{out}: {len(orders)} picture{'s' if len(orders) > 1 else ''}", err=True)
    if film is not None:
        save_gif(film, [sheet(frame, captions(orders)) for frame in frames])
        typer.echo(f"{film}: {len(frames)} frames", err=True)


def load(
    model: str,
    device: str | None = None,
    dtype: Dtype = "float32",
    copy: Literal["ema", "last"] | None = None,
    *,
    prediction: Prediction | None = None,
    vae: str | None = None,
    text: str | None = None,
    adapters: Sequence[str] = (),
) -> "LatentDiffusion":
    """A checkpoint by name, folder or file, to draw with; on the GPU where there is one and no other device is named.

    Raises
    ------
    ValueError
        if there is no such device, or it does not calculate in that type.
    """
    import torch

    from ldm_edu.adapters import attach
    from ldm_edu.device import default_device
    from ldm_edu.model import LatentDiffusion

    place = device or default_device()
    try:
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"--device {place}: this machine has none that PyTorch can use; leave it out, or cpu"
        ) from error
    if dtype == "float16" and torch.device(place).type == "cpu":
        raise ValueError("--dtype float16 is many times slower on a CPU than float32; take bfloat16, of the same size")
    pipeline = LatentDiffusion.from_pretrained(
        model,
        weights=copy,
        prediction=prediction,
        vae=vae,
        text=text,
        device=place,
        dtype=getattr(torch, dtype),
    )
    for named in adapters:
        attach(pipeline, *_file_and_scale(named))
    return pipeline.pack()


def _file_and_scale(named: str) -> tuple[str, float]:
    """``FILE`` or ``FILE:SCALE``; a colon that no number follows belongs to the name.

    >>> _file_and_scale("style.safetensors:0.8"), _file_and_scale("a:b.safetensors")
    (('style.safetensors', 0.8), ('a:b.safetensors', 1.0))
    """
    file, colon, scale = named.rpartition(":")
    try:
        return (file, float(scale)) if colon else (named, 1.0)
    except ValueError:
        return named, 1.0


@contextmanager
def _memory(pipeline: "LatentDiffusion") -> Iterator[None]:
    """What to do where there is too little of it."""
    try:
        yield
    except RuntimeError as error:  # PyTorch has a kind of its own for a GPU, and only words for a CPU
        if "memory" not in str(error):
            raise
        raise ValueError(
            f"there is not enough memory on {pipeline.device} for pictures of this size: make --size smaller, take "
            "--dtype bfloat16 or --tile 256, or --device cpu"
        ) from error


def _fingerprint(model: str, copy: Literal["ema", "last"] | None) -> str:
    from ldm_edu.checkpoint.find import find_checkpoint
    from ldm_edu.checkpoint.open import loaded_files
    from ldm_edu.checksums import fingerprint

    path = find_checkpoint(model)
    return fingerprint(path, loaded_files(path, copy))


def _draw(
    draw: Callable[..., Iterator["Step"]],
    pipeline: "LatentDiffusion",
    orders: list[Order],
    read: Mapping[str, Any],
    *,
    every_step: bool,
    tile: int | None,
    edit: "Edit | None",
    steps: int,
    **how: Any,
) -> list[Frame]:
    """The frames of all orders: the estimate of every step and then the pictures, or the pictures alone."""
    from tqdm import tqdm

    from ldm_edu.editing import first_step
    from ldm_edu.pictures import to_pil

    def decoded(latents: "Tensor") -> Frame:
        images = pipeline.decode(latents) if tile is None else pipeline.decode(latents, tile=tile)
        return [to_pil(image) for image in (images if edit is None else edit.paste(images))]

    batches = list(_batches(orders, read, pipeline.latent_shape(how["size"])))
    left = steps - (first_step(steps, edit.strength) if edit and edit.strength else 0)
    films: list[list[Frame]] = []  # batch, step, picture
    with tqdm(total=left * len(batches), unit="step", leave=False, disable=None) as bar:
        for batch in batches:
            frames: list[Frame] = []
            wanted, seeds = [read[prompt] for prompt, _ in batch], [seed for _, seed in batch]
            for step in draw(wanted, seeds=seeds, steps=steps, **how):
                bar.update()
                if every_step:
                    frames.append(decoded(step.x0))
            frames.append(decoded(step.x))
            films.append(frames)
    return [[picture for frame in at for picture in frame] for at in zip(*films, strict=True)]


def _batches(orders: list[Order], read: Mapping[str, Any], shape: tuple[int, int, int]) -> Iterator[list[Order]]:
    """Neighbours of one batch: prompts of as many windows, and no more pictures than memory should be asked for."""
    most = max(1, min(BATCH, BATCH_LATENTS // (shape[1] * shape[2])))
    for _, group in groupby(orders, lambda order: _windows(read[order[0]])):
        alike = list(group)
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _windows(prompt: object) -> int:
    """In how many windows of the text encoder a prompt is read; 1 for what is not a text."""
    from ldm_edu.prompts import Chunks

    return len(prompt.tokens) if isinstance(prompt, Chunks) else 1


def _warn_of_truncation(pipeline: "LatentDiffusion", read: Mapping[str, Any]) -> None:
    for prompt, chunks in read.items():
        if pipeline.tokenizer is not None and not chunks.whole:
            n = len(chunks.tokens) * (pipeline.tokenizer.length - 2)
            typer.echo(
                f"ldm-edu: the prompt {prompt[:40]!r}... is too long; what follows {n:,} tokens is not read", err=True
            )
