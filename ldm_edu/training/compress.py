"""Four small autoencoders that differ in how far they compress: f = 2, 4, 8 and 16, to compare.

    python -m ldm_edu.training.compress --out runs/compress             all four
    python -m ldm_edu.training.compress --factor 8 --out runs/compress  one

Each has four latent channels and about as many parameters as the others, so that what differs between them is the size
of the latent. They learn with L1 and the KL term alone, on random cuttings of the pictures, which is quicker: 32 pixels
wide, or four latent positions where that is more. One folder holds them all: ``f2.safetensors`` and so on.
"""

import argparse
import time
from pathlib import Path

import torch

from ldm_edu.checkpoint.io import load_tensors, save_tensors
from ldm_edu.config import AutoencoderConfig
from ldm_edu.families import EMOJI
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.paths import checkpoints_dir
from ldm_edu.training.guard import writing
from ldm_edu.training.loop import Record, train
from ldm_edu.training.recipes import AutoencoderRecipe
from ldm_edu.training.sources import pictures
from ldm_edu.training.tasks import AutoencoderTask, Pictures
from ldm_edu.weights.fit import load_into

FOLDER = "compress"  # below runs/, and below data/checkpoints/
CONFIGS = {  # one group a norm: with two channels a group, a flat picture would keep the sign of its colour only
    2: AutoencoderConfig(channels=4, mults=(2, 5), blocks=1, groups=1, scale=1.0),
    4: AutoencoderConfig(channels=4, mults=(2, 4, 4), blocks=1, groups=1, scale=1.0),
    8: AutoencoderConfig(channels=4, mults=(2, 2, 4, 4), blocks=1, groups=1, scale=1.0),
    16: AutoencoderConfig(channels=4, mults=(2, 2, 2, 4, 4), blocks=1, groups=1, scale=1.0),
}
RECIPE = AutoencoderRecipe(steps=3000, batch=8, lr=2e-3, kl=1e-4)


def cuttings(side: int) -> Pictures:
    """Squares (n, 3, side, side) cut at random places out of the emoji set's training pictures."""
    whole = pictures(EMOJI)

    def draw(rng: torch.Generator, n: int) -> torch.Tensor:
        free = EMOJI.size - side + 1
        corners = torch.randint(free, (n, 2), generator=rng).tolist()
        return torch.stack([x[:, i : i + side, j : j + side] for x, (i, j) in zip(whole(rng, n), corners, strict=True)])

    return draw


def compress_task(
    factor: int, recipe: AutoencoderRecipe = RECIPE, device: torch.device | None = None
) -> AutoencoderTask:
    """What there is to learn for one factor of `CONFIGS`: pass it to `train` with the recipe's steps and seed.

    Raises
    ------
    ValueError
        if there is no such factor.
    """
    _known(factor)
    torch.manual_seed(recipe.seed)
    model = AutoencoderKL(CONFIGS[factor]).to(device or "cpu")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AutoencoderTask(model, cuttings(max(32, 4 * factor)), recipe, perceptual=None)


def load_compress(factor: int, folder: Path | None = None) -> AutoencoderKL:
    """A trained autoencoder of one factor, in float32, ready to encode and decode.

    Parameters
    ----------
    folder : where `main` wrote it; None: those that come with the package.

    Raises
    ------
    ValueError
        if there is no such factor.
    CheckpointError
        if the weights are missing or damaged.
    """
    _known(factor)
    folder = folder or checkpoints_dir() / FOLDER
    model = AutoencoderKL(CONFIGS[factor])
    load_into(model, load_tensors(folder, f"f{factor}"), f"the autoencoder f{factor} of {folder}")
    return model.requires_grad_(False).eval()


def _known(factor: int) -> None:
    if factor not in CONFIGS:
        raise ValueError(
            f"there is no small autoencoder with f = {factor}; choose one of {', '.join(map(str, CONFIGS))}"
        )


def main() -> None:
    """Train the small autoencoders, one after the other; a run that was stopped goes on where it was."""
    parser = argparse.ArgumentParser(description="Train the small autoencoders of lesson 03.")
    parser.add_argument("--factor", type=int, choices=list(CONFIGS), help="only this one; left out: all")
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help=f"of each, {RECIPE.steps} if left out")
    parser.add_argument("--out", type=Path, default=Path("runs") / FOLDER, help="folder of the weights")
    options = parser.parse_args()
    for factor in [options.factor] if options.factor else CONFIGS:
        began, task = time.monotonic(), compress_task(factor)
        last: Record | None = None
        state = options.out / f"state-f{factor}"
        with writing(state, options.out):
            for last in train(task, steps=options.steps, seed=RECIPE.seed, folder=state, save_every=40):
                if last.step % 40 == 0:
                    print(
                        f"f = {factor}, step {last.step} of {options.steps}: {last.values['psnr']:.1f} dB", flush=True
                    )
            save_tensors(options.out, f"f{factor}", task.ema.model.state_dict())
        print(f"f = {factor}: {options.out}, {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
