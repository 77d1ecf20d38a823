"""DiT by itself: what a fresh one is, what it refuses, and that computing beforehand changes nothing."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from ldm_edu.condition import Conditioning
from ldm_edu.conditioners.classes import OneHotConditioner
from ldm_edu.config import DiTConfig
from ldm_edu.families.dit import TOY_DIT
from ldm_edu.model import LatentDiffusion
from ldm_edu.models.dit import DiT
from ldm_edu.nn.embeddings import position_embedding
from ldm_edu.training.diffusion import DiffusionTask, whole_batches
from ldm_edu.training.loop import train
from ldm_edu.training.recipes import UNetRecipe
from ldm_edu.training.sources import class_batches

SMALL = DiTConfig(size=8, channels=3, patch=2, width=32, depth=2, heads=2, classes=5)
X, T = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 900.0])
COND = OneHotConditioner(5)([4, None])


def randomized(config: DiTConfig = SMALL) -> DiT:
    """A network whose every part has an effect: a fresh one computes zeros."""
    torch.manual_seed(1)
    network = DiT(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_a_fresh_network_predicts_zeros_and_its_blocks_change_nothing() -> None:
    torch.manual_seed(0)
    network = DiT(SMALL)
    assert torch.equal(network(X, T, COND), torch.zeros(2, 6, 8, 12))
    tokens, c = torch.randn(2, 7, 32), torch.randn(2, 32)
    for block in network.blocks():
        assert torch.equal(block(tokens, c), tokens)


def test_a_fresh_network_learns_in_its_last_layer_first() -> None:
    """Zero weights are no dead end: the first step reaches the last layer, and through it all others."""
    network = DiT(SMALL)
    for _ in range(3):
        (network(X, T, COND) - 1).pow(2).mean().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= parameter.grad
        network.zero_grad()
    (network(X, T, COND) - 1).pow(2).mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_initial_weights_have_the_spread_of_the_paper() -> None:
    torch.manual_seed(0)
    network = DiT(dataclasses.replace(SMALL, width=256, heads=4, classes=1000))
    block = network.layers[0]
    as_one_map = math.sqrt(6 / (256 + 3 * 256))  # Xavier's bound of the map to queries, keys and values
    assert block.attention.to_k.weight.abs().max().item() == pytest.approx(as_one_map, rel=1e-3)
    assert block.mlp[0].weight.abs().max().item() == pytest.approx(math.sqrt(6 / (256 + 1024)), rel=1e-3)
    assert network.patch.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (3 * 4 + 256)), rel=1e-2)
    assert network.labels.std().item() == pytest.approx(0.02, rel=0.02)
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_what_is_computed_beforehand_changes_nothing() -> None:
    network = randomized()
    times = torch.tensor([900.0, 1.0])
    with torch.no_grad():
        for t, prepared in zip(times, network.prepare(COND, times), strict=True):
            whole = network(X, t.expand(2), COND)
            assert whole.shape == (2, 6, 8, 12)
            torch.testing.assert_close(network.step(X, prepared), whole[:, :3])
        (one,) = network.prepare(OneHotConditioner(5)([4]), times[1:])
        torch.testing.assert_close(network.step(X[:1], one), network(X, T, COND)[:1, :3])


def test_the_class_and_the_null_class_are_rows_of_the_table() -> None:
    network = randomized()
    with torch.no_grad():
        labels = network._label(COND)
    assert torch.equal(labels, network.labels[[4, 5]])
    assert torch.equal(OneHotConditioner(5)(["4", ""]).vector, COND.vector)
    assert OneHotConditioner(5).read([0, "0"]) == [0, 0]


def test_positions_say_the_column_first_and_row_by_row() -> None:
    places = position_embedding(torch.arange(2), torch.arange(3), 16)  # (6, 16)
    assert places.shape == (6, 16)
    for n, (row, column) in enumerate((row, column) for row in range(2) for column in range(3)):
        for half, place in ((places[n, :8], column), (places[n, 8:], row)):
            wanted = [f(place * 10_000 ** (-i / 4)) for f in (math.sin, math.cos) for i in range(4)]
            torch.testing.assert_close(half, torch.tensor(wanted))


def test_a_larger_picture_spans_the_same_positions() -> None:
    network = DiT(SMALL)
    assert torch.equal(network._positions(8, 8)[::2][:4], network._positions(8, 4)[:4])


def test_half_precision_stays_near() -> None:
    network = randomized()
    with torch.no_grad():
        exact = network(X, T, COND)
        half = network.bfloat16()(X.bfloat16(), T, COND)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_sizes_and_conditions_that_do_not_fit() -> None:
    network = DiT(SMALL)
    with pytest.raises(ValueError, match="multiples of the patch, 2, not 8 x 9"):
        network(torch.zeros(2, 3, 8, 9), T, COND)
    with pytest.raises(ValueError, match=r"expected x of shape \(B, 3, H, W\)"):
        network(torch.zeros(2, 6, 8, 8), T, COND)
    wrong = [
        Conditioning(),
        Conditioning(vector=torch.zeros(2, 5)),
        Conditioning(context=torch.zeros(2, 4, 8), vector=COND.vector),
        COND.beside(torch.zeros(2, 3, 8, 12)),
    ]
    for cond in wrong:
        with pytest.raises(ValueError, match=r"reads one vector \(B, 6\) a picture and nothing else"):
            network(X, T, cond)
    for label in (5, -1, 2.5):
        with pytest.raises(ValueError, match=f"{label} is not a class: give whole numbers from 0 to 4, or None"):
            OneHotConditioner(5)([label])


def test_configs_that_describe_no_network() -> None:
    wrong = {
        "depth=0: a DiT needs at least one": {"depth": 0},
        "patch=3 does not divide size=8": {"patch": 3},
        "heads=5 does not divide width=32": {"heads": 5},
        "width=30 must be a multiple of 4": {"width": 30},
    }
    for sentence, change in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(SMALL, **change)


def test_the_toy_learns(tmp_path: Path) -> None:
    """From predicting nothing, a loss of 1; and the table of labels learns along, the null class among them."""
    images = (torch.rand(20, 1, 1, 1) * 2 - 1).expand(-1, 1, 28, 28).contiguous()  # plain shades
    model = LatentDiffusion.from_preset(TOY_DIT)
    network = model.networks["dit"]
    batches = class_batches(images, torch.arange(20) % 10, model.conditioner, drop=0.5)
    recipe = UNetRecipe(steps=14, batch=8, lr=1e-2, warmup=5, gamma=None, ema_decay=0.9)
    source = whole_batches(batches, recipe.batch, model.schedule)
    task = DiffusionTask(network, model.schedule, "eps", source, recipe)
    before = network.labels.detach().clone()
    losses = [record.values["loss"] for record in train(task, steps=recipe.steps, seed=1)]
    assert losses[0] == pytest.approx(1.0, abs=0.1) and losses[-1] < 0.6
    assert ((network.labels - before).abs().amax(dim=1) > 0).all()
    model.save(tmp_path)
    *_, last = LatentDiffusion.from_pretrained(tmp_path).generate([3, ""], steps=2)
    assert last.x.shape == (2, 1, 28, 28) and last.x.isfinite().all()
