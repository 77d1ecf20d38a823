"""``ldm-edu verify`` on the toy preset: what it takes minutes to show of Stable Diffusion 1.5, in seconds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity.reference import AUTOENCODER
from torch import nn

from ldm_edu.cli import main
from ldm_edu.config import TextConfig, UNetConfig
from ldm_edu.evaluate.verify import verify
from ldm_edu.families import TOY
from ldm_edu.families.sdxl_presets import SDXL
from ldm_edu.models.autoencoder import Decoder
from ldm_edu.nn.attention import PixelAttention
from ldm_edu.schedule import levels

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.slow]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["ldm-edu", "verify", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_whole_pipeline_equals_the_reference_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verify.json"
    assert run(monkeypatch, "toy", "--out", str(out)) == 0
    assert "diffusers' pipeline" in capsys.readouterr().out
    pictures, bits = json.loads(out.read_text())["sections"]
    assert len(pictures["figures"]) == 4 and len(bits["figures"]) == 3
    for figure in pictures["figures"]:
        assert figure["value"] <= 1e-4  # ten times below what is asked of the full size
        assert figure["beside"]["standard deviation of theirs"] > 0.1  # a picture, not a flat one
    assert all(figure["value"] == 0 and figure["count"] > 10 for figure in bits["figures"])


@pytest.mark.parametrize("what", ["an epsilon", "a name", "a schedule"])
def test_a_small_mistake_is_found(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "an epsilon":
        build = Decoder.__init__

        def wrong(self: Decoder, *args: object) -> None:
            build(self, *args)  # type: ignore[arg-type]
            assert isinstance(self.norm_out, nn.GroupNorm)
            self.norm_out.eps = 1e-2

        monkeypatch.setattr(Decoder, "__init__", wrong)
    elif what == "a name":
        attend = PixelAttention.forward

        def swapped(self: PixelAttention, x: torch.Tensor) -> torch.Tensor:
            maps = self.attention
            maps.to_q, maps.to_v = maps.to_v, maps.to_q
            try:
                return attend(self, x)
            finally:
                maps.to_q, maps.to_v = maps.to_v, maps.to_q

        monkeypatch.setattr(PixelAttention, "forward", swapped)
    else:
        monkeypatch.setattr("ldm_edu.evaluate.verify.levels", lambda schedule, n, *_: levels(schedule, n, "trailing"))
    assert run(monkeypatch, "toy") == 1
    assert "✗" in capsys.readouterr().out


def test_what_is_done_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    verify(TOY, tmp_path, size=16, say=said.append)
    assert len(said) == 5 and "the original layout" in said[3]


def test_two_text_encoders_come_back_bit_for_bit(tmp_path: Path) -> None:
    """transformers writes the names of the second one with another prefix than those of the first."""
    text = TextConfig(49408, length=77, width=16, layers=3, heads=2)
    unet = UNetConfig(
        channels=8, mults=(1, 2), blocks=1, depth=(0, 2), mid_depth=2, context_dim=40, heads=None, head_dim=4,
        groups=4, linear_proj=True, vector_dim=24 + 6 * 256,
    )  # fmt: skip
    second = replace(text, width=24, activation="gelu", projection=24, pad=0)
    small = replace(SDXL, name="small", size=16, unet=unet, autoencoder=AUTOENCODER, text=text, text2=second)
    pictures, bits = verify(small, tmp_path, size=16)
    assert all(figure.value <= 1e-4 for figure in pictures.figures)
    assert [figure.name for figure in bits.figures] == ["unet", "vae", "text_encoder", "text_encoder_2"]
    assert [figure.value for figure in bits.figures] == [0, 0, 0, 0]
    assert bits.figures[3].count == 3 * 16 + 5  # embeddings of tokens and places, norm (2), projection
