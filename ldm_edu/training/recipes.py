"""What each shipped network was trained with: numbers as frozen dataclasses, one table a network.

Every figure of a recipe can be changed from the command line's `ldm-edu train`; what is written here is what made
the weights under data/checkpoints, and their model cards name it, and what was done in two runs and stands here as one.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from ldm_edu.config import ClassifierConfig


class Recipe(Protocol):
    """What the recipe of every network says."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    @property
    def batch(self) -> int:
        """Pictures a step."""
        ...

    @property
    def seed(self) -> int:
        """What all randomness of the run is drawn from."""
        ...


@dataclass(frozen=True)
class AutoencoderRecipe:
    """Weights of the four losses, and how long (Rombach et al. 2022, appendix G)."""

    steps: int
    batch: int
    lr: float
    decay: float = 0.5  # the share of the run, its last, in which the learning rate falls to 0
    kl: float = 1e-4  # times the KL divergence a pixel value, in nats
    perceptual: float = 0.0  # 0: no perceptual network is loaded
    adversarial: float = 0.0
    perceptual_from: float = 0.0  # of the run
    adversarial_from: float = 0.8
    seed: int = 1


@dataclass(frozen=True)
class DecoderRecipe:
    """More training for the decoder alone: the latents, and with them every U-Net trained on them, stay as they are.

    The published ``sd-vae-ft-mse`` came about this way: Stable Diffusion's decoder, trained on with a squared error.
    """

    steps: int
    batch: int
    lr: float
    perceptual: float = 0.0  # 0: no perceptual network is loaded
    seed: int = 2


@dataclass(frozen=True)
class ClassifierRecipe:
    """A classifier of emoji: ``core`` concepts or all, ``held_out`` pictures too or not."""

    config: ClassifierConfig
    core: bool
    held_out: bool  # the judge must know every picture; the perceptual loss must not have seen the test's
    steps: int
    batch: int
    lr: float
    seed: int
    name_things: float = 1.0  # weight of the concept's cross-entropy; 0: the styles alone are learned
    resample: bool = True  # pictures are scaled and shifted; False: mirrored and cropped, no pixel mixed with others


@dataclass(frozen=True)
class ClipRecipe:
    """CLIP on pictures and captions (Radford et al. 2021, section 2.5)."""

    steps: int
    batch: int
    lr: float
    partial: float = 0.0  # share of captions of which only a part is said: see `ldm_edu.training.phrases`
    composed: float = 0.0  # share of pictures that the reader makes of drawings: see `ldm_edu.datasets.compose`
    seed: int = 3


@dataclass(frozen=True)
class UNetRecipe:
    """The diffusion model on cached latents."""

    steps: int
    batch: int
    lr: float
    warmup: int = 60  # steps in which the learning rate rises
    decay: float = 0.4  # the share of the run, its last, in which the learning rate falls to 0
    drop: float = 0.1  # share of conditions replaced by the blank one (Ho and Salimans 2022)
    partial: float = 0.0  # share of captions of which only a part is said: see `ldm_edu.training.phrases`
    gamma: float | None = 5.0  # ceiling of the min-SNR weight (Hang et al. 2023); None: no weight (Ho et al. 2020)
    floor: float = 1.0  # and its floor (Salimans and Ho 2022)
    ema_decay: float = 0.999
    joint_text: bool = (
        False  # the text encoder learns along (Rombach et al. 2022), or CLIP's is kept (Stable Diffusion)
    )
    narrow_from: float = 1.0  # of the run: from here on the starter concepts, so that they are seen often enough
    others: float = 0.0  # share of pictures drawn from all concepts even then: a style is what many things have alike
    composed: float = 0.0  # share of pictures that the reader makes of drawings: see `ldm_edu.datasets.compose`
    seed: int = 4


AUTOENCODERS = {
    "toy": AutoencoderRecipe(steps=40, batch=8, lr=1e-3),
    "shapes": AutoencoderRecipe(steps=800, batch=32, lr=1.2e-3),
    "emoji": AutoencoderRecipe(
        steps=2800, batch=16, lr=1.2e-3, perceptual=0.05, perceptual_from=0.4, adversarial=0.002, adversarial_from=0.85
    ),
}

DECODERS = {
    "toy": DecoderRecipe(steps=20, batch=8, lr=1e-3),
    "emoji": DecoderRecipe(steps=6000, batch=16, lr=6e-4, perceptual=0.01),
}

CLASSIFIERS = {
    "perceptual": ClassifierRecipe(
        ClassifierConfig(concepts=1386, styles=6, channels=32, mults=(1, 2, 4)),
        core=False,
        held_out=False,
        steps=2400,
        batch=64,
        lr=2e-3,
        seed=11,
    ),
    "judge": ClassifierRecipe(
        ClassifierConfig(concepts=1386, styles=6, channels=48, mults=(1, 2, 4, 4)),
        core=True,
        held_out=True,
        steps=6000,
        batch=64,
        lr=2e-3,
        seed=12,
    ),
    "style": ClassifierRecipe(
        ClassifierConfig(concepts=1386, styles=6, channels=48, mults=(1, 2, 4)),
        core=False,
        held_out=False,
        steps=4800,
        batch=64,
        lr=2e-3,
        seed=13,
        name_things=0.0,
        resample=False,
    ),
}

CLIPS = {
    "toy": ClipRecipe(steps=40, batch=16, lr=1e-3),
    "emoji": ClipRecipe(steps=900, batch=128, lr=1e-3, partial=0.5),
}

UNETS = {
    "toy": UNetRecipe(steps=40, batch=8, lr=1e-3, ema_decay=0.9),
    "toy_dit": UNetRecipe(steps=40, batch=8, lr=1e-2, gamma=None, ema_decay=0.9),
    "fashion": UNetRecipe(steps=2000, batch=32, lr=2e-3, gamma=None),
    "shapes": UNetRecipe(steps=8000, batch=64, lr=1e-3, joint_text=True),
    "emoji": UNetRecipe(steps=7500, batch=64, lr=8e-4, partial=0.2, narrow_from=0.17, others=0.4),
    # as Stable Diffusion 1.1 began (its model card): 237,000 steps at 256 px; the weight of the loss is 1, eps's own
    "sd15": UNetRecipe(
        steps=237_000, batch=2048, lr=1e-4, warmup=10_000, decay=0.0, gamma=None, ema_decay=0.9999, drop=0.1
    ),
}

# from trained weights on: `ldm-edu train clip --start NAME`, `ldm-edu train unet --start NAME`
CLIPS_ON = {
    "toy": ClipRecipe(steps=20, batch=16, lr=5e-4),
    # tried, and not in the shipped weights: see the model's card
    "emoji": ClipRecipe(steps=300, batch=128, lr=6e-4, partial=0.3, composed=0.7, seed=6),
}

UNETS_ON = {
    "toy": UNetRecipe(steps=20, batch=8, lr=5e-4, ema_decay=0.9),
    "shapes": UNetRecipe(steps=600, batch=64, lr=5e-4, decay=0.6, ema_decay=0.99),
    "emoji": UNetRecipe(steps=4000, batch=64, lr=8e-4, partial=0.2, narrow_from=0.0, others=0.4, seed=5),
    "sd15": UNetRecipe(steps=1000, batch=64, lr=1e-5, warmup=100, decay=0.0, gamma=None, ema_decay=0.999, seed=7),
}
LEAST = 400  # steps, however few the pictures are
SEEN = 200  # times that each of a person's own pictures is shown to a U-Net that is trained on


def on_own_pictures(
    recipe: UNetRecipe,
    pictures: int,
    *,
    most: int,
    at_once: int = 1,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
) -> UNetRecipe:
    """A recipe of `UNETS_ON` for a person's own pictures: how many there are decides the steps and the batch.

    A batch is at most half of the pictures, and the learning rate falls with the root of the batch, as it should for
    Adam (Malladi et al. 2022). Each picture is shown `SEEN` times, in `LEAST` steps at least.

    Parameters
    ----------
    most
        steps at most.
    at_once
        pictures that all processes together compute at once: a batch has no fewer.
    steps, batch, lr
        what a person has chosen; None: by the rule.

    >>> recipe = on_own_pictures(UNETS_ON["emoji"], 30, most=7500)
    >>> recipe.steps, recipe.batch, round(recipe.lr, 6)
    (750, 8, 0.000283)
    """
    if batch is None:
        batch = max(at_once, min(recipe.batch, 2 ** int(math.log2(max(1, pictures // 2)))))
        lr = lr or recipe.lr * math.sqrt(batch / recipe.batch)
    shown = math.ceil(SEEN * pictures / batch)
    steps = steps or min(max(LEAST, shown), most)
    return replace(recipe, steps=steps, batch=batch, lr=lr or recipe.lr)
