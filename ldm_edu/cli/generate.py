"""``ldm-edu generate``: prompts to a sheet of pictures, and a film of how they came out of the noise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

    from ldm_edu.latent_diffusion import LatentDiffusion

Sampler = Literal["ddpm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_3m", "plms", "ipndm", "unipc"]
Spacing = Literal["leading", "trailing", "linspace", "karras"]
Frame = list["Image"]  # every picture asked for, at one step

BATCH = 16  # pictures drawn at once; a picture does not depend on it


def generate(
    prompts: Annotated[list[str], typer.Argument(help='What to draw, as in "red apple, 3d style".')],
    model: Annotated[str, typer.Option(help="A shipped checkpoint, or a checkpoint's folder.")] = "emoji",
    steps: Annotated[int, typer.Option(help="Steps from noise to picture, 1 to 1000.")] = 20,
    guidance: Annotated[float, typer.Option(help="How strongly to follow the prompt; 1 is no guidance.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of each prompt's first picture; the next ones count up.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Pictures a prompt.")] = 1,
    sampler: Annotated[Sampler, typer.Option(help="The solver.")] = "dpmpp_2m",
    spacing: Annotated[Spacing, typer.Option(help="How the steps are spread over the noise levels.")] = "trailing",
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels; left out: the model's own.")] = None,
    out: Annotated[Path, typer.Option(help="Where the sheet goes, a .png.")] = Path("sheet.png"),
    film: Annotated[Path | None, typer.Option(help="Where a film of the steps goes, a .gif.")] = None,
) -> None:
    """Draw pictures from prompts.

    A picture depends on its prompt and its seed alone, not on the others drawn beside it.
    """
    _check_suffix(out, ".png")
    if film is not None:
        _check_suffix(film, ".gif")

    from ldm_edu.pictures import save_gif, save_png, sheet
    from ldm_edu.samplers import SAMPLERS

    pipeline = load(model)
    _warn_of_truncation(pipeline, [*prompts, negative])
    orders = [(prompt, seed + i) for prompt in prompts for i in range(count)]
    frames = _draw(
        pipeline,
        orders,
        every_step=film is not None,
        steps=steps,
        guidance=guidance,
        sampler=SAMPLERS[sampler],
        spacing=spacing,
        negative=negative,
        size=size,
    )
    captions = [f"{prompt} · seed {number}" if count > 1 else prompt for prompt, number in orders]
    save_png(out, sheet(frames[-1], captions))
    typer.echo(f"{out}: {len(orders)} picture{'s' if len(orders) > 1 else ''}", err=True)
    if film is not None:
        save_gif(film, [sheet(frame, captions) for frame in frames])
        typer.echo(f"{film}: {len(frames)} frames", err=True)


def load(model: str) -> "LatentDiffusion":
    """A checkpoint by name or folder, on the GPU where there is one."""
    import torch

    from ldm_edu.latent_diffusion import LatentDiffusion

    return LatentDiffusion.from_pretrained(model, device="cuda" if torch.cuda.is_available() else "cpu")


def _draw(
    pipeline: "LatentDiffusion", orders: list[tuple[str, int]], *, every_step: bool, steps: int, **how: Any
) -> list[Frame]:
    """The frames of all orders: the estimate of every step and then the pictures, or the pictures alone."""
    from tqdm import tqdm

    from ldm_edu.pictures import to_pil

    batches = [orders[start : start + BATCH] for start in range(0, len(orders), BATCH)]
    films: list[list[Frame]] = []  # batch, step, picture
    with tqdm(total=steps * len(batches), unit="step", leave=False, disable=None) as bar:
        for batch in batches:
            frames: list[Frame] = []
            prompts, seeds = zip(*batch, strict=True)
            wanted = [_condition(pipeline, prompt) for prompt in prompts]
            for step in pipeline.generate(wanted, seeds=list(seeds), steps=steps, **how):
                bar.update()
                if every_step:
                    frames.append([to_pil(image) for image in pipeline.decode(step.x0)])
            frames.append([to_pil(image) for image in pipeline.decode(step.x)])
            films.append(frames)
    return [[picture for frame in at for picture in frame] for at in zip(*films, strict=True)]


def _condition(pipeline: "LatentDiffusion", prompt: str) -> str | int:
    """A prompt as the model takes it: a class-conditional one draws from numbers."""
    return int(prompt) if pipeline.classes is not None and prompt.isdecimal() else prompt


def _warn_of_truncation(pipeline: "LatentDiffusion", prompts: list[str]) -> None:
    if pipeline.tokenizer is None:
        return
    for prompt in dict.fromkeys(prompts):
        rest = pipeline.tokenizer.truncated(prompt)
        if rest is not None:
            shown = rest if len(rest) <= 60 else rest[:57] + "..."
            typer.echo(f"ldm-edu: the prompt is too long for this model; it does not read {shown!r}", err=True)


def _check_suffix(path: Path, suffix: str) -> None:
    if path.suffix.lower() != suffix:
        raise ValueError(f"{str(path)!r} should end in {suffix}: other formats are not written.")
