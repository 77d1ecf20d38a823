"""From a preset to a checkpoint: the toy autoencoder, CLIP and U-Net, trained by the commands that train the others."""

from pathlib import Path

import pytest
import torch

from ldm_edu.datasets.emoji import emoji_tensors
from ldm_edu.families import EMOJI, TOY
from ldm_edu.model import LatentDiffusion
from ldm_edu.training.sources import captioned_pictures, measure_scale


@pytest.mark.slow
def test_the_parts_of_a_model_are_trained_one_after_the_other(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.cli import app

    for network in ("vae", "clip", "unet"):
        command = ["train", network, "--preset", "toy", "--out", str(tmp_path), "--steps", "3", "--sheet-every", "3"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert (tmp_path / "training" / network / "state.safetensors").is_file()
    assert (tmp_path / "training" / "unet" / "sheet-000003.png").is_file()
    model = LatentDiffusion.from_pretrained(tmp_path)
    assert model.preset.name == "toy"
    assert model.preset.autoencoder != TOY.autoencoder  # its scale was measured
    *_, last = model.generate(["a big red circle"], steps=2, seeds=[1])
    assert model.decode(last.x).shape == (1, 3, 16, 16)


@pytest.mark.slow
def test_a_decoder_trained_on_keeps_the_latents(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.checkpoint.io import load_tensors
    from ldm_edu.cli import app

    saved = []
    for network in ("vae", "decoder"):
        command = ["train", network, "--preset", "toy", "--out", str(tmp_path), "--steps", "3", "--sheet-every", "0"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        saved.append(load_tensors(tmp_path, "autoencoder"))
    before, after = saved
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant"}


@pytest.mark.slow
def test_a_unet_is_trained_on_from_its_weights(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ldm_edu.checkpoint.io import load_tensors
    from ldm_edu.cli import app

    command = ["train", "--preset", "toy", "--sheet-every", "0", "--out", str(tmp_path)]
    for network in ("vae", "clip", "unet"):
        assert CliRunner().invoke(app, [*command, network, "--steps", "3"]).exit_code == 0
    before = load_tensors(tmp_path, "unet")
    (tmp_path / "training" / "unet" / "state.safetensors").unlink()
    result = CliRunner().invoke(app, [*command, "unet", "--steps", "1", "--start", str(tmp_path)])
    assert result.exit_code == 0, result.output
    after = load_tensors(tmp_path, "unet")
    moved = max(float((after[name].float() - before[name].float()).abs().max()) for name in before)
    assert 0 < moved < 0.02  # one step away, not another start
    assert CliRunner().invoke(app, [*command, "clip", "--start", str(tmp_path)]).exit_code != 0


def test_training_needs_the_parts_before_it(tmp_path: Path) -> None:
    from ldm_edu.training.recipes import UNETS
    from ldm_edu.training.runs import unet_run
    from ldm_edu.weights.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"config\.json"):
        unet_run(TOY, UNETS["toy"], tmp_path, torch.device("cpu"))


@pytest.mark.slow
def test_captions_say_what_the_background_is() -> None:
    captioned = captioned_pictures(EMOJI)
    plain = emoji_tensors("train", core=True).captions
    assert captioned.captions[:: captioned.variants] == plain
    rows = captioned.base[:3] + 1
    for row, image in zip(rows.tolist(), captioned.images(rows), strict=True):
        assert captioned.captions[row].startswith(plain[row // captioned.variants] + ", on a")
        assert not torch.equal(image[:, 0, 0], torch.ones(3))
    assert torch.equal(captioned.images(captioned.base[:1])[0, :, 0, 0], torch.ones(3))


def test_measured_scale_gives_unit_variance() -> None:
    latents = 3.0 * torch.randn(50, 4, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.7
    scale, shift = measure_scale(latents)
    scaled = (latents - shift) * scale
    assert scaled.mean().abs() < 1e-5
    assert scaled.std().item() == pytest.approx(1.0, abs=1e-5)


def test_a_folder_of_another_preset_is_not_trained(tmp_path: Path) -> None:
    from ldm_edu.training.recipes import UNETS
    from ldm_edu.training.runs import unet_run
    from ldm_edu.weights.errors import CheckpointError

    LatentDiffusion.from_preset(TOY).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"made for the preset toy, not emoji: name, size, .*--preset toy"):
        unet_run(EMOJI, UNETS["emoji"], tmp_path, torch.device("cpu"))


def test_latents_are_encoded_once_and_anew_for_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldm_edu.models.autoencoder import AutoencoderKL
    from ldm_edu.training import sources

    assert TOY.autoencoder is not None
    model, captioned = AutoencoderKL(TOY.autoencoder), captioned_pictures(TOY)
    path = tmp_path / "latents.safetensors"
    wanted = sources.encode_all(model, captioned)
    assert torch.equal(sources.cached_latents(model, captioned, path), wanted)
    with monkeypatch.context() as patched:
        patched.setattr(sources, "encode_all", lambda model, captioned: pytest.fail("encoded a second time"))
        assert torch.equal(sources.cached_latents(model, captioned, path), wanted)
    with torch.no_grad():
        model.quant.bias += 1.0
    assert not torch.equal(sources.cached_latents(model, captioned, path), wanted)
    path.write_bytes(path.read_bytes()[:100])  # cut short: made anew too
    assert torch.equal(sources.cached_latents(model, captioned, path), sources.encode_all(model, captioned))
