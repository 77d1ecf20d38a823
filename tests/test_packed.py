"""Packed layers give what the plain ones give, in every form a network here has; and refuse what they cannot do."""

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm_edu.families import TOY
from ldm_edu.kernels.packed import FusedSelfAttention, PackedConv2d, PackedLinear, PackedPointwise, fuse, pack
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.unet import UNet
from ldm_edu.nn.attention import Attention

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")

LAYERS = {
    "3x3": nn.Conv2d(6, 64, 3, padding=1),
    "1x1": nn.Conv2d(6, 10, 1),
    "stride 2": nn.Conv2d(6, 64, 3, stride=2, padding=1),
    "stride 2, unpadded": nn.Conv2d(6, 64, 3, stride=2),
    "patches": nn.Conv2d(6, 64, 4, stride=4, bias=False),
}


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_edu.kernels.packed.BIG", 0)


@needs_onednn
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_convolution(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    network = nn.Sequential(copy.deepcopy(LAYERS[name])).to(dtype).to(memory_format=layout)
    packed = copy.deepcopy(network)
    pack(packed)
    assert isinstance(packed[0], PackedPointwise if name == "1x1" else PackedConv2d)
    for size in ((2, 6, 8, 8), (1, 6, 21, 13), (3, 6, 4, 4)):  # packed once, for every size
        x = torch.randn(size).to(dtype).to(memory_format=layout)
        with torch.no_grad():
            a, b = network(x), packed(x)
        torch.testing.assert_close(a, b, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-2 * float(a.std()))


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_map(bias: bool, dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Linear(12, 20, bias=bias)).to(dtype)
    packed = copy.deepcopy(network)
    pack(packed)
    assert isinstance(packed[0], PackedLinear)
    for size in ((5, 12), (2, 7, 12), (1, 12)):
        x = torch.randn(size).to(dtype)
        with torch.no_grad():
            a, b = network(x), packed(x)
        torch.testing.assert_close(a, b, rtol=0.02 if dtype == torch.bfloat16 else 1e-5, atol=1e-2 * float(a.std()))


@needs_onednn
def test_what_is_packed_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 192, 3), nn.Conv2d(64, 96, 3), nn.Conv2d(64, 96, 1)),
        nn.Conv2d(64, 64, 3, groups=2),
        nn.Conv2d(64, 64, 3, padding_mode="reflect"),
        nn.Linear(4, 4),
        nn.GroupNorm(2, 4),
    )
    monkeypatch.setattr("ldm_edu.kernels.packed.BIG", 64 * 192 * 9)
    pack(network)
    kinds = [type(m) for m in network.modules()]
    assert kinds[1:] == [
        *(nn.Sequential, nn.Conv2d, PackedConv2d, nn.Conv2d, PackedPointwise),
        *(nn.Conv2d, nn.Conv2d, PackedLinear, nn.GroupNorm),
    ]
    pack(network)  # a second time changes nothing
    assert [type(m) for m in network.modules()] == kinds


@needs_onednn
def test_a_packed_model_draws_the_same_picture() -> None:
    model = LatentDiffusion.from_preset(TOY)
    for parameter in model.unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    plain, packed = [
        list(each.generate(["red apple"], steps=3, seeds=[1]))[-1].x for each in (model, copy.deepcopy(model).pack())
    ]
    torch.testing.assert_close(plain, packed, rtol=1e-4, atol=1e-4)
    pictures = [each.decode(plain) for each in (model, model.pack())]
    torch.testing.assert_close(*pictures, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_a_packed_network_is_not_saved_moved_or_converted(tmp_path: Path) -> None:
    model = LatentDiffusion.from_preset(TOY).pack()
    with pytest.raises(ValueError, match="load it again to save or train it"):
        model.save(tmp_path)
    with pytest.raises(ValueError, match="load it again to move or convert it"):
        model.to(dtype=torch.bfloat16)


def test_three_maps_as_one() -> None:
    """Self-attention of U-Net (without biases) and autoencoder (with); cross-attention keeps its three maps."""
    model = LatentDiffusion.from_preset(TOY)
    for module in model.networks.values():
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    cond, x = model.condition(["red apple"]), torch.randn(1, 4, 8, 8)
    fused = copy.deepcopy(model)
    fuse(fused.unet)
    assert fused.autoencoder is not None
    fuse(fused.autoencoder)
    with torch.no_grad():
        a, b = (each.unet(x, torch.tensor(500), cond) for each in (model, fused))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(model.decode(x), fused.decode(x))
    kinds = {name: type(m) for name, m in fused.unet.named_modules() if name.endswith("attention")}
    assert {kind for name, kind in kinds.items() if name.endswith("self_attention")} == {FusedSelfAttention}
    assert {kind for name, kind in kinds.items() if name.endswith("cross_attention")} == {Attention}
    with pytest.raises(ValueError, match="load it again to save"):
        fused.unet.state_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_is_left_alone() -> None:
    unet = UNet(TOY.unet).cuda()
    pack(unet)
    assert isinstance(unet.conv_in, nn.Conv2d)


def test_without_onednn_a_network_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    unet = UNet(TOY.unet)
    pack(unet)
    assert isinstance(unet.conv_in, nn.Conv2d)
    torch.save(unet.state_dict(), io.BytesIO())


@needs_onednn
def test_a_layer_that_does_more_than_its_map_is_left_alone() -> None:
    class Lora(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    watched = nn.Linear(8, 8)
    watched.register_forward_hook(lambda module, args, out: out * 2)
    network = nn.Sequential(Lora(8, 8), watched, nn.Linear(8, 8))
    x = torch.randn(3, 8)
    with torch.no_grad():
        wanted = network(x)
        pack(network)
        torch.testing.assert_close(network(x), wanted)
    assert [type(layer) for layer in network] == [Lora, nn.Linear, PackedLinear]


@needs_onednn
def test_gradients_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Conv2d(64, 8, 1))
    pack(network)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    for layer, inputs in ((network[0], x), (network[1], torch.randn(1, 64, 6, 6, requires_grad=True))):
        with pytest.raises(ValueError, match="without gradients"):
            layer(inputs)
    with torch.no_grad():
        assert network(x).shape == (1, 8, 6, 6)
