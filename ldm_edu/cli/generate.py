"""``ldm-edu generate``: prompts, and a picture to start from, to pictures; and a film of how they came about."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import ldm_edu
from ldm_edu.cli.album import Order, captions, check_places, save_pictures
from ldm_edu.cli.convert import Weights
from ldm_edu.cli.edits import by_instruction, make_edit, parse_size

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ldm_edu.editing import Edit
    from ldm_edu.latent_diffusion import LatentDiffusion
    from ldm_edu.prompts import Chunks

Sampler = Literal["ddpm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_3m", "plms", "ipndm", "unipc"]
Spacing = Literal["leading", "trailing", "linspace", "karras"]
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
    steps: Annotated[int, typer.Option(help="Steps from noise to picture, 1 to 1000.")] = 20,
    guidance: Annotated[float, typer.Option(help="How strongly to follow the prompt; 1 is no guidance.")] = 5.0,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Of each prompt's first picture; the next ones count up.")
    ] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures a prompt.")] = 1,
    sampler: Annotated[Sampler, typer.Option(help="The solver.")] = "dpmpp_2m",
    spacing: Annotated[Spacing, typer.Option(help="How the steps are spread over the noise levels.")] = "trailing",
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
    than the text encoder's window is read in several.

    Image to image: --init photo.png --strength 0.6. Inpainting: --init photo.png --mask mask.png, white where it is
    painted anew; the rest stays as it is. Outpainting: --init photo.png --outpaint 64.
    """
    check_places(out, film)
    about_init = {"strength": strength, "mask": mask, "outpaint": outpaint, "image-guidance": image_guidance}
    for option, value in about_init.items():
        if init is None and value is not None:
            raise ValueError(f"--{option} is about the picture to start from: give --init as well")
    shape = None if size is None else parse_size(size)

    from ldm_edu.pictures import save_gif, sheet
    from ldm_edu.samplers import SAMPLERS

    pipeline = load(model, device, dtype, copy)
    if tile is not None:
        pipeline.check_tile(tile)
    _warn_of_truncation(pipeline, [*prompts, negative])
    edit = None
    if init is not None:
        edit = make_edit(pipeline, init, mask, outpaint, shape, strength, image_guidance)
        shape = edit.size
    said = {"steps": steps, "guidance": guidance, "sampler": sampler, "spacing": spacing, "negative": negative}
    away = _condition(pipeline, negative)
    how: dict[str, Any] = {**said, "sampler": SAMPLERS[sampler], "size": shape, "negative": away}
    orders = [(prompt, seed + i) for prompt in prompts for i in range(count)]
    with ThreadPoolExecutor(1) as meanwhile, _memory(pipeline):
        weights = meanwhile.submit(_fingerprint, model, copy)  # gigabytes take seconds
        frames = _draw(pipeline, orders, every_step=film is not None, tile=tile, edit=edit, **how)
    settings = {"model": model, "weights": weights.result(), **said, "size": "{}x{}".format(*frames[-1][0].size)}
    if copy is not None:
        settings["copy"] = copy
    if edit is not None:
        given = {"init": init, "strength": edit.strength, "mask": mask, "outpaint": outpaint}
        given |= {"image_guidance": edit.image_guidance} if by_instruction(pipeline) else {}
        settings |= {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value}
    settings |= {"dtype": dtype, "device": pipeline.device.type, "version": f"ldm-edu {ldm_edu.__version__}"}
    save_pictures(out, orders, frames[-1], settings)
    typer.echo(f"{out}: {len(orders)} picture{'s' if len(orders) > 1 else ''}", err=True)
    if film is not None:
        save_gif(film, [sheet(frame, captions(orders)) for frame in frames])
        typer.echo(f"{film}: {len(frames)} frames", err=True)


def load(
    model: str, device: str | None = None, dtype: Dtype = "float32", copy: Literal["ema", "last"] | None = None
) -> "LatentDiffusion":
    """A checkpoint by name, folder or file, to draw with; on the GPU where there is one and no other device is named.

    Raises
    ------
    ValueError
        if there is no such device, or it does not calculate in that type.
    """
    import torch

    from ldm_edu.latent_diffusion import LatentDiffusion

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"--device {place}: this machine has none that PyTorch can use; leave it out, or cpu"
        ) from error
    if dtype == "float16" and torch.device(place).type == "cpu":
        raise ValueError("--dtype float16 is many times slower on a CPU than float32; take bfloat16, of the same size")
    return LatentDiffusion.from_pretrained(model, weights=copy, device=place, dtype=getattr(torch, dtype)).pack()


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
    from ldm_edu.checkpoint.layouts import loaded_files
    from ldm_edu.checksums import fingerprint

    path = find_checkpoint(model)
    return fingerprint(path, loaded_files(path, copy))


def _draw(
    pipeline: "LatentDiffusion",
    orders: list[Order],
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

    batches = list(_batches(pipeline, orders, pipeline.latent_shape(how["size"])))
    left = steps - (first_step(steps, edit.strength) if edit and edit.strength else 0)
    films: list[list[Frame]] = []  # batch, step, picture
    with tqdm(total=left * len(batches), unit="step", leave=False, disable=None) as bar:
        for batch in batches:
            frames: list[Frame] = []
            wanted, seeds = [_condition(pipeline, prompt) for prompt, _ in batch], [seed for _, seed in batch]
            for step in pipeline.generate(wanted, seeds=seeds, steps=steps, edit=edit, **how):
                bar.update()
                if every_step:
                    frames.append(decoded(step.x0))
            frames.append(decoded(step.x))
            films.append(frames)
    return [[picture for frame in at for picture in frame] for at in zip(*films, strict=True)]


def _batches(pipeline: "LatentDiffusion", orders: list[Order], shape: tuple[int, int, int]) -> Iterator[list[Order]]:
    """Neighbours of one batch: prompts of as many windows, and no more pictures than memory should be asked for."""
    most = max(1, min(BATCH, BATCH_LATENTS // (shape[1] * shape[2])))
    for _, group in groupby(orders, lambda order: len(_read(pipeline, order[0]).tokens) if pipeline.text else 1):
        alike = list(group)
        yield from (alike[start : start + most] for start in range(0, len(alike), most))


def _condition(pipeline: "LatentDiffusion", prompt: str) -> str | int:
    """A prompt as the model takes it: a class-conditional one draws from numbers."""
    return int(prompt) if pipeline.classes is not None and prompt.isdecimal() else prompt


def _read(pipeline: "LatentDiffusion", prompt: str) -> "Chunks":
    from ldm_edu.prompts import chunks

    assert pipeline.tokenizer is not None
    return chunks(pipeline.tokenizer, prompt)


def _warn_of_truncation(pipeline: "LatentDiffusion", prompts: list[str]) -> None:
    if pipeline.tokenizer is None:
        return
    for prompt in dict.fromkeys(prompts):
        read = _read(pipeline, prompt)
        if not read.whole:
            n = len(read.tokens) * (pipeline.tokenizer.length - 2)
            typer.echo(
                f"ldm-edu: the prompt {prompt[:40]!r}... is too long; what follows {n:,} tokens is not read", err=True
            )
