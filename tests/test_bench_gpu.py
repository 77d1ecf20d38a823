"""What measures a GPU, run on a CPU at toy size: all but the CUDA graphs, with a compiler that only traces."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ldm_edu.cli import app
from ldm_edu.evaluate import bench_gpu
from ldm_edu.families import TOY
from ldm_edu.kernels.graphs import record_launches
from ldm_edu.model import LatentDiffusion

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes minutes; `test_our_networks_can_be_traced_whole` does the part that says whether it can be."""
    monkeypatch.setattr(bench_gpu, "OUR_COMPILER", {"disable": True})
    monkeypatch.setattr(bench_gpu, "THEIR_COMPILERS", {name: {"disable": True} for name in bench_gpu.THEIR_COMPILERS})


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["bench", "gpu"])
    assert isinstance(result.exception, ValueError) and "PyTorch finds no GPU here" in str(result.exception)


@pytest.mark.slow
def test_every_part_at_toy_size() -> None:
    pytest.importorskip("diffusers")
    sections = list(bench_gpu.bench_gpu(TOY, "all", size=16, rounds=1, device="cpu", matrix=64))
    step, where, growth, picture, *training = sections
    assert [figure.goal for figure in step.figures] == [None, 0.35, 2.2, 1.15]
    assert len(step.figures[0].beside) == 5 and "diffusers, max-autotune" in step.figures[0].beside
    shares = [figure.value for figure in where.figures if figure.name.endswith("share of the time")]
    assert sum(shares) == pytest.approx(1) and all(share > 0 for share in shares)
    assert growth.title.endswith("at 32 px") and growth.figures[1].goal == 6.4
    assert picture.figures[0].goal == 130.0
    assert [section.figures[-1].goal for section in training] == [0.4, 0.4]
    assert all(figure.value > 0 for section in sections for figure in section.figures)


@pytest.mark.slow
def test_our_networks_can_be_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer of torch.compile, without a code generator behind it: one graph each, and the same picture."""
    model = LatentDiffusion.from_preset(TOY)
    assert model.autoencoder is not None
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    how = {"steps": 2, "seeds": [1]}
    *_, wanted = model.generate(["red apple"], **how)
    picture = model.decode(wanted.x)
    monkeypatch.setattr(bench_gpu, "OUR_COMPILER", {"backend": "eager", "fullgraph": True})
    for network, method in ((model.unet, "step"), (model.autoencoder.decoder, "forward")):
        bench_gpu.ready(network, method, compiled=True)
    *_, got = model.generate(["red apple"], **how)
    torch.testing.assert_close(got.x, wanted.x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.decode(got.x), picture, rtol=1e-4, atol=1e-4)


def test_networks_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    honest = bench_gpu.our_unet
    monkeypatch.setattr(bench_gpu, "our_unet", lambda c, w: honest(c, {k: 1.05 * v for k, v in w.items()}))
    monkeypatch.setattr(bench_gpu, "ready", lambda network, method, compiled: None)
    with pytest.raises(ValueError, match="differ too much"):
        bench_gpu.bench_step(TOY, 1.0, size=16, rounds=1, device="cpu")


def test_the_record_is_written_after_each_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out, section = tmp_path / "gpu.json", bench_gpu.Section("A step", "", [])

    def one_then_failure(*args: object, **kwargs: object) -> object:
        yield section
        raise ValueError("out of memory")

    monkeypatch.setattr(bench_gpu, "bench_gpu", one_then_failure)
    result = CliRunner().invoke(app, ["bench", "gpu", "step", "--out", str(out)])
    assert "out of memory" in str(result.exception)
    values = json.loads(out.read_text(encoding="utf-8"))
    assert [each["title"] for each in values["sections"]] == ["A step"] and values["settings"]["part"] == "step"


def test_on_a_cpu_launches_are_not_recorded() -> None:
    network = torch.nn.Linear(3, 2)
    x = torch.randn(4, 3)
    wanted = network(x)
    record_launches(network)
    with torch.no_grad():
        assert torch.equal(network(x), wanted)
    assert network(x).requires_grad  # with gradients it is the plain network everywhere


@needs_gpu
def test_replayed_launches_give_what_the_network_gives() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 4)).cuda()
    inputs = [torch.randn(n, 8, device="cuda") for n in (3, 3, 5, 3)]  # two shapes; values change, results are kept
    with torch.no_grad():
        wanted = [network(x) for x in inputs]
        record_launches(network)
        got = [network(x) for x in inputs]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)
