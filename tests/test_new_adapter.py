"""The proof that a new adapter is a new file: this one is defined here, and no line of the package knows of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from randomized import randomized_model
from torch import Tensor
from typer.testing import CliRunner

from ldm_edu.adapters import ADAPTERS, attach
from ldm_edu.cli import app
from ldm_edu.families import TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile

# --- the adapter: what a file of adapters/ would hold ---------------------------------------------------------------


@dataclass
class Brightened:
    """The bias of the last layer, and what it was."""

    bias: Tensor
    before: Tensor

    def detach(self) -> None:
        with torch.no_grad():
            self.bias.copy_(self.before)


class Brightener:
    """Adds numbers to the bias of a U-Net's last layer."""

    title = "a brightener"

    def recognise(self, file: WeightFile) -> bool:
        return "brighter.bias" in file.tensors

    def describe(self, file: WeightFile) -> list[str]:
        return [f"{file.tensors['brighter.bias'].count} channels"]

    def attach(self, model: LatentDiffusion, file: WeightFile, scale: float) -> Brightened:
        bias, more = model.unet.conv_out.bias, file.read("brighter.bias", dtype=torch.float32)
        if set(file.tensors) != {"brighter.bias"} or more.shape != bias.shape:
            raise CheckpointError(f"{file.path} brightens {len(more)} channels, and the model has {len(bias)}")
        before = bias.detach().clone()
        with torch.no_grad():
            bias.add_(scale * more)
        return Brightened(bias, before)


# --- the package, which has never heard of it -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    adapter = Brightener()
    ADAPTERS.append(adapter)
    yield
    ADAPTERS.remove(adapter)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    safetensors.torch.save_file(
        {"brighter.bias": torch.tensor([0.5, -0.5, 0.25, 1.0])}, tmp_path / "bright.safetensors"
    )
    return tmp_path / "bright.safetensors"


@pytest.fixture
def model() -> LatentDiffusion:
    return randomized_model(TOY)


def draw(model: LatentDiffusion) -> Tensor:
    *_, last = model.generate(["red apple"], seeds=[3], steps=3)
    return last.x


def test_it_changes_what_is_drawn_by_its_scale_and_leaves_no_trace(model: LatentDiffusion, file: Path) -> None:
    before, weights = draw(model), {n: t.clone() for n, t in model.unet.state_dict().items()}
    half = attach(model, file, scale=0.5)
    changed = draw(model)
    more = attach(model, file)
    assert not torch.equal(changed, before) and not torch.equal(draw(model), changed)
    more.detach()
    assert torch.equal(draw(model), changed)
    half.detach()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.unet.state_dict().items())
    assert torch.equal(draw(model), before)


def test_what_does_not_fit_is_refused_and_changes_nothing(model: LatentDiffusion, tmp_path: Path) -> None:
    before = model.unet.conv_out.bias.clone()
    for name, tensors in {
        "wide": {"brighter.bias": torch.zeros(7)},
        "stray": {"brighter.bias": torch.ones(4), "darker.bias": torch.ones(4)},
        "other": {"darker.bias": torch.ones(4)},
    }.items():
        safetensors.torch.save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=r"brightens|no adapter of a kind .* \(a brightener\)"):
            attach(model, tmp_path / f"{name}.safetensors")
    assert torch.equal(model.unet.conv_out.bias, before)


def test_the_command_line_draws_with_it_and_describes_it(model: LatentDiffusion, file: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "toy")

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    def drawn(*more: object) -> bytes:
        out = tmp_path / "drawn.png"
        run("generate", "red apple", "--model", tmp_path / "toy", "--steps", 3, "--out", out, *more)
        assert ("adapters" in run("inspect", out)) == bool(more)
        return out.read_bytes()

    plain = drawn()
    assert drawn("--adapter", f"{file}:0.5") != plain != drawn("--adapter", file)
    assert "a brightener" in run("inspect", file) and "4 channels" in run("inspect", file)
