"""The autoencoder's posterior and pictures against the reference class's, on the same random weights."""

from typing import Any

import pytest
import torch
from parity.reference import difference, norm_epsilons, randomised, reference_autoencoder

from ldm_edu.config import AutoencoderConfig
from ldm_edu.layouts.autoencoder import autoencoder_pairs
from ldm_edu.layouts.pair import convert, convert_back
from ldm_edu.models.autoencoder import AutoencoderKL

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
CONFIGS = {
    "as sd15": AutoencoderConfig(channels=8, groups=4),
    "small": AutoencoderConfig(channels=8, mults=(1, 2), blocks=1, groups=4),
    "many latent channels": AutoencoderConfig(channels=8, mults=(1, 1, 2), latent_channels=16, blocks=3, groups=8),
}


def pair(config: AutoencoderConfig, *, from_theirs: bool) -> tuple[AutoencoderKL, Any]:
    ours, theirs = AutoencoderKL(config), diffusers.AutoencoderKL(**reference_autoencoder(config))
    pairs = autoencoder_pairs(config)
    if from_theirs:
        ours.load_state_dict(convert(randomised(theirs).state_dict(), pairs))
    else:
        theirs.load_state_dict(convert_back(randomised(ours).state_dict(), pairs))
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("from_theirs", [True, False], ids=["their weights", "our weights"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_posterior_and_pictures(config: AutoencoderConfig, from_theirs: bool) -> None:
    ours, theirs = pair(config, from_theirs=from_theirs)
    x = torch.randn(2, 3, 4 * config.factor, 2 * config.factor).clamp(-1, 1)
    noise = torch.randn(2, config.latent_channels, 4, 2)
    with torch.no_grad():
        posterior, reference = ours.encode(x), theirs.encode(x).latent_dist
        assert difference(posterior.mode, reference.mode()) <= TOLERANCE
        assert difference(posterior.logvar, reference.logvar) <= TOLERANCE
        assert difference(posterior.sample(noise), reference.mean + reference.std * noise) <= TOLERANCE
        assert difference(posterior.kl(), reference.kl()) <= TOLERANCE
        z = torch.randn(2, config.latent_channels, 4, 2)
        assert difference(ours.decode(z), theirs.decode(z).sample) <= TOLERANCE


def test_norms_add_the_same_to_the_variance() -> None:
    ours, theirs = pair(CONFIGS["as sd15"], from_theirs=True)
    wanted, found = norm_epsilons(theirs), norm_epsilons(ours)
    assert {p.theirs: found[p.ours] for p in autoencoder_pairs(CONFIGS["as sd15"]) if p.ours in found} == wanted


def test_the_comparison_can_fail() -> None:
    """A downsampling that is off by half a pixel, and a single wrong weight of the attention, are seen."""
    ours, theirs = pair(CONFIGS["as sd15"], from_theirs=True)
    x, z = torch.randn(1, 3, 32, 32), torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        ours.decoder.mid.attention.attention.to_v.weight[0, 0] += 0.1
        assert difference(ours.decode(z), theirs.decode(z).sample) > TOLERANCE
        shifted = ours.encode(x.roll(1, dims=3)).mode
        assert difference(shifted, theirs.encode(x).latent_dist.mode()) > TOLERANCE
