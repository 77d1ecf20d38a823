"""The proof that a new model family is a new file: this one is defined here, and no line of the package knows of it.

Its network is not a U-Net, its prompts are colours, its tensors have names of their own. It draws, edits, is saved,
loaded, inspected, converted, trained, resumed and measured by the code that does so for every other family.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from ldm_edu import (
    FAMILIES,
    Conditioning,
    Edit,
    Family,
    LatentDiffusion,
    Layout,
    Pair,
    Part,
    cfg,
    dpmpp_2m,
    initial_noise,
    levels,
)
from ldm_edu.checkpoint.open import open_checkpoint
from ldm_edu.cli import app
from ldm_edu.config import Preset, Sampling, ScheduleConfig
from ldm_edu.convert import convert_checkpoint
from ldm_edu.kernels.packed import pack
from ldm_edu.nn.embeddings import timestep_embedding
from ldm_edu.training.diffusion import DiffusionBatch, DiffusionTask, whole_batches
from ldm_edu.training.levels import loss_per_level
from ldm_edu.training.loop import train
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.weights.mapped import WeightFile

# --- the family: what a file of families/ would hold ------------------------------------------------------------------

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0), "": (0.0, 0.0, 0.0)}


@dataclass(frozen=True)
class MixerConfig:
    """A network of 1x1 convolutions."""

    channels: int = 3
    width: int = 24


class Prepared(NamedTuple):
    shift: Tensor  # (1 or B, width, 1, 1)


class Mixer(nn.Module):
    """Looks at each pixel, and at the mean of all."""

    def __init__(self, config: MixerConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.channels, config.width, 1)
        self.time = nn.Linear(16, config.width)
        self.colour = nn.Linear(3, config.width)
        self.mix = nn.Conv2d(2 * config.width, config.width, 1)
        self.head = nn.Conv2d(config.width, config.channels, 1)

    channels, multiple = 3, 2

    def _shift(self, t: Tensor, vector: Tensor) -> Tensor:
        return (self.time(timestep_embedding(t, 16).to(vector.dtype)) + self.colour(vector))[..., None, None]

    def prepare(self, cond: Conditioning, times: Tensor) -> list[Prepared]:
        assert cond.vector is not None
        return [Prepared(self._shift(t[None], cond.vector)) for t in times]

    def step(self, x: Tensor, prepared: Prepared) -> Tensor:
        h = torch.relu(self.stem(x) + prepared.shift)  # (B, width, H, W)
        whole = h.mean(dim=(2, 3), keepdim=True).expand_as(h)  # (B, width, H, W)
        return self.head(torch.relu(self.mix(torch.cat([h, whole], dim=1))))  # (B, 3, H, W)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert cond.vector is not None
        return self.step(x, Prepared(self._shift(t, cond.vector)))

    def blocks(self) -> Iterator[nn.Module]:
        yield self.mix


class ColourConditioner:
    """The name of a colour as three numbers."""

    def read(self, prompts: Sequence[str]) -> list[str]:
        for prompt in prompts:
            if prompt not in COLOURS:
                raise ValueError(f"{prompt!r} is not a colour that this model draws; choose one of {list(COLOURS)}")
        return list(prompts)

    def __call__(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Conditioning:
        return Conditioning(vector=torch.tensor([COLOURS[prompt] for prompt in self.read(prompts)]))

    def blank(self, n: int = 1, size: tuple[int, int] | None = None) -> Conditioning:
        return self([""] * n)


@dataclass(frozen=True, kw_only=True)
class MixerPreset(Preset):
    family: str = "mixer"
    mixer: MixerConfig = MixerConfig()


def mixer_pairs(config: MixerConfig, format: str, names: Iterable[str] = ()) -> list[Pair]:
    layers = ("stem", "time", "colour", "mix", "head")
    before = "" if format == "ldm-edu" else "layers."
    return [Pair(f"{before}{name}.{kind}", f"{name}.{kind}") for name in layers for kind in ("weight", "bias")]


def recognise(file: WeightFile) -> MixerPreset | None:
    return MIXER if "net.layers.stem.weight" in file.tensors else None


MIXER = MixerPreset(name="mixer", size=8, schedule=ScheduleConfig("cosine"), prediction="v", defaults=Sampling(4, 1.5))
FAMILY = Family(
    name="mixer",
    title="a mixer of colours",
    preset=MixerPreset,
    presets=(MIXER,),
    parts=(Part("mixer", "mixer", Layout(Mixer, mixer_pairs), lambda preset: preset.mixer, prefix="net."),),
    network="mixer",
    conditioner=lambda preset, networks: ColourConditioner(),
    recognise=recognise,
)


# --- the package, which has never heard of it -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    FAMILIES.append(FAMILY)
    yield
    FAMILIES.remove(FAMILY)


@pytest.fixture
def model() -> LatentDiffusion:
    return LatentDiffusion.from_preset(MIXER, seed=1)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def last_of(steps: Iterator) -> Tensor:
    *_, step = steps
    return step.x


def test_it_draws_by_the_reading_line_and_by_its_own_defaults(model: LatentDiffusion) -> None:
    guided = cfg(model.denoiser(model.condition(["red"])), model.denoiser(model.condition([""])), scale=1.5)
    run_of_levels = levels(model.schedule, 4)
    by_hand = last_of(dpmpp_2m(guided, initial_noise([7], model.latent_shape()), run_of_levels))
    assert torch.equal(by_hand, last_of(model.generate(["red"], seeds=[7])))
    assert model.decode(by_hand).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="'pink' is not a colour"):
        model.generate(["pink"])


def test_it_edits(model: LatentDiffusion) -> None:
    picture, mask = torch.rand(1, 3, 8, 8) * 2 - 1, torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    edit = Edit(picture, mask=mask)
    drawn = edit.paste(model.decode(last_of(model.generate(["blue"], seeds=[1], edit=edit))))
    assert torch.equal(drawn[..., 4:], picture[..., 4:]) and not torch.equal(drawn[..., :4], picture[..., :4])


def test_it_is_saved_loaded_and_converted_there_and_back(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path / "mine", dtype=torch.float32)
    one, back = tmp_path / "one.safetensors", tmp_path / "back"
    convert_checkpoint(open_checkpoint(tmp_path / "mine"), one, "original")
    convert_checkpoint(open_checkpoint(one), back, "ldm-edu")
    for path in (tmp_path / "mine", one, back):
        again = LatentDiffusion.from_pretrained(path)
        assert again.preset == MIXER
        for name, tensor in model.networks["mixer"].state_dict().items():
            assert torch.equal(again.networks["mixer"].state_dict()[name], tensor)


def test_the_command_line_draws_inspects_and_converts_it(model: LatentDiffusion, tmp_path: Path) -> None:
    model.save(tmp_path / "mine")
    run("generate", "red", "green", "--model", tmp_path / "mine", "--out", tmp_path / "sheet.png")
    assert "guidance        1.5" in run("inspect", tmp_path / "sheet.png")
    said = run("inspect", tmp_path / "mine")
    assert "a mixer of colours" in said and f"{sum(p.numel() for p in model.networks['mixer'].parameters()):,}" in said
    assert "mixer" in run("inspect", "--list") and "in 4 steps" in run("inspect", tmp_path / "mine")
    run("convert", tmp_path / "mine", tmp_path / "one.safetensors", "--to", "original")
    assert "whole: nothing is missing" in run("inspect", tmp_path / "one.safetensors")


def task_of(model: LatentDiffusion) -> DiffusionTask:
    """Pictures of one colour with its name."""
    names = [name for name in COLOURS if name]
    conditions = model.condition(names)

    def batches(rng: torch.Generator, n: int, progress: float) -> DiffusionBatch:
        rows = torch.randint(len(names), (n,), generator=rng)
        assert conditions.vector is not None
        vector = conditions.vector[rows]
        return DiffusionBatch(0.8 * vector[..., None, None].expand(n, 3, 8, 8), Conditioning(vector=vector))

    recipe = UNetRecipe(steps=150, batch=16, lr=1e-2, warmup=5, ema_decay=0.9)
    source = whole_batches(batches, recipe.batch, model.schedule)
    return DiffusionTask(model.network, model.schedule, MIXER.prediction, source, recipe)


def test_it_learns_is_resumed_to_the_bit_and_measured(tmp_path: Path) -> None:
    unbroken, broken = (LatentDiffusion.from_preset(MIXER, seed=1) for _ in range(2))
    before = loss_of(unbroken)
    list(train(task_of(unbroken), steps=150, seed=3))
    steps = train(task_of(broken), steps=150, seed=3, folder=tmp_path, save_every=20)
    assert [record.step for record, _ in zip(steps, range(25), strict=False)][-1] == 25
    steps.close()
    resumed = LatentDiffusion.from_preset(MIXER, seed=2)
    assert next(iter(train(task_of(resumed), steps=150, seed=3, folder=tmp_path))).step == 21
    list(train(task_of(resumed), steps=150, seed=3, folder=tmp_path))
    for name, tensor in unbroken.networks["mixer"].state_dict().items():
        assert torch.equal(resumed.networks["mixer"].state_dict()[name], tensor), name
    assert loss_of(unbroken) < 0.6 * before


def loss_of(model: LatentDiffusion) -> float:
    images = 0.8 * model.condition(["red", "blue"]).vector[..., None, None].expand(2, 3, 8, 8)  # type: ignore[index]
    cond = model.condition(["red", "blue"])
    losses = loss_per_level(
        model.network, cond, model.schedule, images, prediction=MIXER.prediction, times=(100, 500, 900)
    )
    return float(losses.mean())


def test_a_packed_network_of_a_family_draws_the_same(model: LatentDiffusion) -> None:
    wanted = last_of(model.generate(["green"], seeds=[3]))
    pack(model.networks["mixer"])
    torch.testing.assert_close(last_of(model.generate(["green"], seeds=[3])), wanted, rtol=1e-4, atol=1e-4)


def test_a_wider_one_is_another_preset(tmp_path: Path) -> None:
    wide = LatentDiffusion.from_preset(replace(MIXER, name="wide", mixer=MixerConfig(width=32)))
    wide.save(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"differs in name .wide, not mixer., mixer\.width .32, not 24."):
        LatentDiffusion.from_pretrained(tmp_path / "wide", preset=MIXER)
