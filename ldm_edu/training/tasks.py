"""What all tasks share, and four of them: autoencoder, decoder, classifier, CLIP.

The fifth, diffusion, has a file of its own: `ldm_edu.training.diffusion`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_edu.kernels.precision import autocast
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.models.classifier import Classifier
from ldm_edu.models.clip import CLIP, MAX_LOGIT_SCALE
from ldm_edu.models.discriminator import PatchDiscriminator
from ldm_edu.training.ema import Ema
from ldm_edu.training.loop import trapezoid
from ldm_edu.training.losses import contrastive_loss, discriminator_loss, perceptual_loss
from ldm_edu.training.recipes import AutoencoderRecipe, ClassifierRecipe, ClipRecipe, DecoderRecipe

Pictures = Callable[[torch.Generator, int], Tensor]  # (rng, n) -> (n, 3, H, W) in [-1, 1]


class BaseTask:
    """What the tasks share: one AdamW a network and the trapezoid learning rate."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def _setup(
        self,
        learned: dict[str, nn.Module],
        lr: float,
        weight_decay: float,
        *,
        beta2: float = 0.99,
        decay: float = 0.25,
        warmup: int = 60,
    ) -> None:
        self.lr, self.decay, self.warmup = lr, decay, warmup
        self.modules = dict(learned)
        self.device = next(iter(learned.values())).parameters().__next__().device
        self.optimizers = {
            name: torch.optim.AdamW(m.parameters(), lr, betas=(0.9, beta2), weight_decay=weight_decay, fused=True)
            for name, m in learned.items()
        }

    def _update(self, name: str, loss: Tensor, step: int, progress: float, clip: float = 1.0) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self._descend(name, step, progress, clip)

    def _descend(self, name: str, step: int, progress: float, clip: float = 1.0) -> None:
        """One step down the gradients that the parameters hold."""
        optimizer = self.optimizers[name]
        nn.utils.clip_grad_norm_(self.modules[name].parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = self.lr * trapezoid(progress, step, self.warmup, self.decay)
        optimizer.step()


class AutoencoderTask(BaseTask):
    """L1 + perceptual + patch adversarial + KL (Rombach et al. 2022, appendix G; Esser et al. 2021, equation 6).

    The perceptual and the adversarial term start at ``perceptual_from`` and ``adversarial_from`` of the recipe: the
    first needs colours and outlines in place, the second pictures so sharp that the discriminator learns about texture
    and not about blur.
    """

    def __init__(
        self,
        model: AutoencoderKL,
        pictures: Pictures,
        recipe: AutoencoderRecipe,
        *,
        perceptual: Classifier | None,
    ) -> None:
        self.model, self.pictures, self.recipe = model, pictures, recipe
        self.discriminator = PatchDiscriminator().to(next(model.parameters()).device)
        learned = {"autoencoder": model, "discriminator": self.discriminator}
        self._setup(learned, recipe.lr, weight_decay=1e-3, decay=recipe.decay)
        self.modules["ema"] = self.ema = Ema(model)
        self.perceptual = perceptual.requires_grad_(False) if perceptual else None

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update of the autoencoder, and of the discriminator once it takes part."""
        recipe = self.recipe
        x = self.pictures(rng, recipe.batch).to(self.device, memory_format=torch.channels_last)
        adversarial = recipe.adversarial > 0 and progress >= recipe.adversarial_from
        with autocast(self.device):
            posterior = self.model.encode(x)
            mean = posterior.mean
            noise = torch.randn(mean.shape, generator=rng).to(mean)
            decoded = self.model.decode(posterior.sample(noise))
            l1 = (decoded.float() - x).abs().mean()
            kl = posterior.kl().float().mean() / x[0].numel()
            loss = l1 + recipe.kl * kl
            values = {"l1": l1, "kl": kl, "psnr": 10 * torch.log10(4 / (decoded.float() - x).square().mean())}
            if self.perceptual is not None and progress >= recipe.perceptual_from:
                values["perceptual"] = perceptual_loss(self.perceptual, decoded, x)
                loss = loss + recipe.perceptual * values["perceptual"]
            if adversarial:
                values["adversarial"] = -self.discriminator(decoded).float().mean()
                loss = loss + recipe.adversarial * values["adversarial"]
        self._update("autoencoder", loss, step, progress)
        self.ema.update(self.model)
        if adversarial:
            with autocast(self.device):
                d_loss = discriminator_loss(self.discriminator(x).float(), self.discriminator(decoded.detach()).float())
            self._update("discriminator", d_loss, step, progress)
            values["discriminator"] = d_loss
        return {name: float(value.detach()) for name, value in values.items()}


class DecoderTask(BaseTask):
    """Train the decoder on; the encoder is kept, and with it every latent that a U-Net has learned from.

    The loss is each picture's root mean squared error, whose logarithm is what PSNR measures, plus a little of the
    perceptual one against blur.
    """

    def __init__(
        self,
        model: AutoencoderKL,
        pictures: Pictures,
        recipe: DecoderRecipe,
        *,
        perceptual: Classifier | None,
    ) -> None:
        self.model, self.pictures, self.recipe = model, pictures, recipe
        model.encoder.requires_grad_(False)
        model.quant.requires_grad_(False)
        learned = nn.ModuleDict({"post_quant": model.post_quant, "decoder": model.decoder})
        self._setup({"decoder": learned}, recipe.lr, weight_decay=1e-3, decay=0.9)
        self.learned = learned
        self.modules["ema"] = self.ema = Ema(learned)
        self.perceptual = perceptual.requires_grad_(False) if perceptual else None

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update of the decoder, on the most likely latents of a batch."""
        x = self.pictures(rng, self.recipe.batch).to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            with torch.no_grad():
                latents = self.model.encode(x).mode
            decoded = self.model.decode(latents)
            squared = (decoded.float() - x).square().mean(dim=(1, 2, 3))  # (B,)
            loss = (squared + 1e-6).sqrt().mean()  # the constant keeps the root's slope finite at a perfect picture
            values = {"rmse": loss, "psnr": (10 * torch.log10(4 / squared)).mean()}
            if self.perceptual is not None:
                values["perceptual"] = perceptual_loss(self.perceptual, decoded, x)
                loss = loss + self.recipe.perceptual * values["perceptual"]
        self._update("decoder", loss, step, progress)
        self.ema.update(self.learned)
        return {name: float(value.detach()) for name, value in values.items()}

    def trained(self) -> dict[str, Tensor]:
        """The whole autoencoder's weights, the averaged decoder among them."""
        return self.model.state_dict() | self.ema.model.state_dict()


class ClassifierTask(BaseTask):
    """Cross-entropy on concept and style, on pictures scaled and shifted, or mirrored and cropped, and noised."""

    def __init__(
        self,
        model: Classifier,
        pictures: Callable[[torch.Generator, int], tuple[Tensor, Tensor, Tensor]],
        recipe: ClassifierRecipe,
    ) -> None:
        self.model, self.pictures, self.recipe = model, pictures, recipe
        self._setup({"classifier": model}, recipe.lr, weight_decay=0.05)
        self.modules["ema"] = self.ema = Ema(model, decay=0.998)

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update on a batch of pictures, concepts and styles."""
        x, concept, style = self.pictures(rng, self.recipe.batch)
        moved = augment(x, rng) if self.recipe.resample else mirror_and_crop(x, rng)
        x = moved.to(self.device, memory_format=torch.channels_last)
        with autocast(self.device):
            concept_logits, style_logits = self.model(x)
        concept, style = concept.to(self.device), style.to(self.device)
        loss_concept = F.cross_entropy(concept_logits.float(), concept, label_smoothing=0.1)
        loss_style = F.cross_entropy(style_logits.float(), style)
        self._update("classifier", self.recipe.name_things * loss_concept + loss_style, step, progress)
        self.ema.update(self.model)
        return {
            "concept": float(loss_concept.detach()),
            "style": float(loss_style.detach()),
            "concept_top1": float((concept_logits.argmax(1) == concept).float().mean()),
            "style_top1": float((style_logits.argmax(1) == style).float().mean()),
        }


def augment(x: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, scale and noise a batch (B, 3, H, W) at random: a judge must not depend on the exact pixel.

    The noise is faint, since styles differ in faint things: a gradient, an outline.
    """
    n = len(x)
    scale = 0.85 + 0.3 * torch.rand(n, generator=rng)
    move = 0.2 * (torch.rand(n, 2, generator=rng) - 0.5)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale, scale, move
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return _with_faint_noise(F.grid_sample(x, grid, padding_mode="border", align_corners=False), rng)


def mirror_and_crop(x: Tensor, rng: torch.Generator, side: int = 48) -> Tensor:
    """Mirror half of a batch (B, 3, H, W), and cut a square of ``side`` pixels out of each: (B, 3, side, side).

    A style shows in every part of a picture, a thing in the whole. No pixel is mixed with its neighbours: resampling
    would blur the edges and gradients by which styles differ.
    """
    n, _, height, width = x.shape
    mirrored = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.5, x.flip(3), x)
    tops = torch.randint(height - side + 1, (n,), generator=rng).tolist()
    lefts = torch.randint(width - side + 1, (n,), generator=rng).tolist()
    parts = [p[:, t : t + side, f : f + side] for p, t, f in zip(mirrored, tops, lefts, strict=True)]
    return _with_faint_noise(torch.stack(parts), rng)


def _with_faint_noise(x: Tensor, rng: torch.Generator) -> Tensor:
    strength = 0.03 * torch.rand(len(x), 1, 1, 1, generator=rng)
    return x + strength * torch.randn(x.shape, generator=rng)


class ClipTask(BaseTask):
    """Contrastive learning of captions and pictures (Radford et al. 2021, section 2.3).

    ``pairs`` gives n pictures (n, 3, H, W), the tokens of a text for each (n, L), and which texts are true of which
    pictures (n, n): a text that says little is true of several.
    """

    def __init__(
        self, model: CLIP, pairs: Callable[[torch.Generator, int], tuple[Tensor, Tensor, Tensor]], recipe: ClipRecipe
    ) -> None:
        self.model, self.pairs, self.batch = model, pairs, recipe.batch
        self._setup({"clip": model}, recipe.lr, weight_decay=0.1, beta2=0.98)

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """One update on a batch of pictures (B, 3, H, W) and tokens (B, L)."""
        images, tokens, true = self.pairs(rng, self.batch)
        with autocast(self.device):
            image = self.model.encode_image(images.to(self.device))
            text = self.model.encode_text(tokens.to(self.device))
        scale = self.model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        loss = contrastive_loss(image.float(), text.float(), scale, true)
        self._update("clip", loss, step, progress)
        with torch.no_grad():
            best = (image.float() @ text.float().T).argmax(1).cpu()  # (B,) the text nearest to each picture
            top1 = true[torch.arange(len(image)), best].float().mean()
        return {"loss": float(loss.detach()), "top1": float(top1), "scale": float(scale.detach())}
