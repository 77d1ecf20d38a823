"""Damaged states, run files and caches: each is refused in one sentence before a number of it is used.

torch takes moments of another shape than their weight without a word, and then writes outside their memory: a
segmentation fault. So every tensor is compared with what the task needs. Each damage below comes with a right checksum,
but for those of the checksum itself: every check stands alone.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ldm_edu.datasets.folder import CaptionedPictures
from ldm_edu.training.cache import Cache, fill_cache, start_cache
from ldm_edu.training.ema import Ema
from ldm_edu.training.fingerprints import checksum
from ldm_edu.training.guard import same_settings
from ldm_edu.training.loop import train
from ldm_edu.training.sharded import load_sharded, save_sharded, whole_states
from ldm_edu.training.state import Store, load_state, save_state
from ldm_edu.weights.errors import CheckpointError

STEPS = 3
WEIGHT, FIRST, SECOND = "module/net/0.weight", "optimizer/net/0/exp_avg", "optimizer/net/0/exp_avg_sq"
COUNT, LATE = "optimizer/net/0/step", "optimizer/late/0/step"


class Small:
    """Two networks, one of which has not begun to learn, and an average, whose number of updates is an integer."""

    def __init__(self) -> None:
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 1)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules: dict[str, nn.Module] = {"net": net, "late": nn.Linear(2, 2), "ema": Ema(net)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(self.modules[name].parameters(), fused=True) for name in ("net", "late")
        }

    def step(self, step: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        net, ema = self.modules["net"], self.modules["ema"]
        loss = net(torch.randn(2, 2, 5, 5, generator=rng)).square().mean()
        self.optimizers["net"].zero_grad()
        loss.backward()
        self.optimizers["net"].step()
        ema.update(net)  # type: ignore[operator]
        return {"loss": float(loss.detach())}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """States after three steps, in both stores."""
    folder, task = tmp_path_factory.mktemp("sound"), Small()
    list(train(task, steps=STEPS, seed=1, folder=folder))
    del task.modules["late"], task.optimizers["late"]
    save_sharded(task, folder, STEPS)
    return folder


def refusal(load: Callable[[Any, Path], object], task: Any, folder: Path) -> str:
    """What is said of a damaged state: one sentence with a remedy, and the task as it was."""
    before = {name: t.clone() for m in task.modules.values() for name, t in m.state_dict().items()}
    with pytest.raises(ValueError) as refused:
        load(task, folder)
    sentence = str(refused.value)
    assert sentence.startswith(str(folder)) and "remove that" in sentence
    assert "\n" not in sentence and len(sentence) < len(str(folder)) + 300
    after = {name: t for m in task.modules.values() for name, t in m.state_dict().items()}
    assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []
    return sentence


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.__setitem__(name, value)


def drop(*names: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


def cast(name: str, dtype: torch.dtype) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.__setitem__(name, tensors[name].to(dtype))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(put(FIRST, torch.zeros(3, 2, 3, 4)), "exp_avg has shape", id="a moment of another shape"),
        pytest.param(put(FIRST, torch.zeros(1)), "exp_avg has shape (1,)", id="a moment of one number"),
        pytest.param(put(FIRST, torch.zeros(54)), "exp_avg has shape (54,)", id="a moment laid flat"),
        pytest.param(put(FIRST, torch.zeros(3, 0, 3, 3)), "exp_avg has shape", id="an empty moment"),
        pytest.param(put(SECOND, torch.zeros(2, 3, 3, 3)), "exp_avg_sq has shape", id="a moment turned round"),
        pytest.param(cast(FIRST, torch.float64), "holds torch.float64", id="a moment in double precision"),
        pytest.param(cast(SECOND, torch.int32), "holds torch.int32", id="a moment of integers"),
        pytest.param(put(FIRST, torch.full((3, 2, 3, 3), torch.nan)), "exp_avg is not finite", id="a moment of NaN"),
        pytest.param(put(SECOND, torch.full((3, 2, 3, 3), -1.0)), "exp_avg_sq is negative", id="a negative square"),
        pytest.param(drop(SECOND), f"it has no {SECOND}", id="a moment missing"),
        pytest.param(drop(FIRST, SECOND, COUNT), f"it has no {COUNT}", id="all moments of a weight missing"),
        pytest.param(put("optimizer/net/0/velocity", torch.zeros(1)), "velocity' is unknown", id="another moment"),
        pytest.param(put("optimizer/net/99/exp_avg", torch.zeros(1)), "is unknown", id="a moment of no weight"),
        pytest.param(put("optimizer/net/-1/exp_avg", torch.zeros(1)), "is unknown", id="a moment of weight -1"),
        pytest.param(put("optimizer/net/x/exp_avg", torch.zeros(1)), "is unknown", id="a moment without a number"),
        pytest.param(put("optimizer/other/0/step", torch.zeros(())), "is unknown", id="another optimiser"),
        pytest.param(put(LATE, torch.zeros(())), "it has no optimizer/late/0/exp_avg", id="half an optimiser"),
        pytest.param(put("a\x1b[31m\n", torch.zeros(1)), r"'a\x1b[31m\n' is unknown", id="a name with escapes"),
        pytest.param(put("x" * 9999, torch.zeros(1)), "is unknown", id="an endless name"),
        pytest.param(put(COUNT, torch.tensor(4.0)), "step is 4, not", id="more updates than steps"),
        pytest.param(put(COUNT, torch.tensor(-1.0)), "step is -1, not", id="a negative number of updates"),
        pytest.param(put(COUNT, torch.tensor(1.5)), "step is 1.5, not", id="half an update"),
        pytest.param(put(COUNT, torch.tensor(torch.inf)), "step is not finite", id="endless updates"),
        pytest.param(put(COUNT, torch.tensor([1.0])), "step has shape (1,)", id="updates in a row"),
        pytest.param(put(COUNT, torch.tensor(1)), "step holds torch.int64", id="updates of another kind"),
        pytest.param(drop(WEIGHT), f"it has no {WEIGHT}", id="a weight missing"),
        pytest.param(put("module/net/7.weight", torch.zeros(1)), "is unknown", id="another weight"),
        pytest.param(put(WEIGHT, torch.zeros(3, 2, 3)), f"{WEIGHT} has shape", id="a weight of another shape"),
        pytest.param(cast(WEIGHT, torch.bfloat16), "holds torch.bfloat16", id="a weight in half precision"),
        pytest.param(put(WEIGHT, torch.full((3, 2, 3, 3), torch.inf)), "is not finite", id="an infinite weight"),
        pytest.param(put("module/ema/updates", torch.tensor(-10)), "updates is negative", id="negative updates"),
    ],
)
def test_tensors_that_are_not_those_of_the_task(
    sound: Path, tmp_path: Path, damage: Callable[[dict[str, Tensor]], object], reason: str
) -> None:
    tensors = safetensors.torch.load_file(sound / "state.safetensors")
    damage(tensors)
    write(tmp_path, tensors, step=str(STEPS), checksum=checksum(tensors, note=str(STEPS)))
    assert reason in refusal(load_state, Small(), tmp_path)


def write(folder: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    safetensors.torch.save_file(tensors, folder / "state.safetensors", metadata=metadata)


@pytest.mark.parametrize("step", ["", "0", "-1", "1.5", "1e1", " 2", "1_0", "٣", "x", "9" * 400])
def test_a_step_that_is_not_a_whole_number(sound: Path, tmp_path: Path, step: str) -> None:
    tensors = safetensors.torch.load_file(sound / "state.safetensors")
    write(tmp_path, tensors, step=step, checksum=checksum(tensors, note=step))
    assert "is not a whole number of steps" in refusal(load_state, Small(), tmp_path)


def test_a_state_beside_its_checksum(sound: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(sound / "state.safetensors")
    right = checksum(tensors, note=str(STEPS))
    tensors[WEIGHT][0, 0, 0, 0] += 1e-6
    write(tmp_path, tensors, step=str(STEPS), checksum=right)
    assert "do not have its checksum" in refusal(load_state, Small(), tmp_path)
    tensors[WEIGHT][0, 0, 0, 0] = safetensors.torch.load_file(sound / "state.safetensors")[WEIGHT][0, 0, 0, 0]
    write(tmp_path, tensors, step="2", checksum=right)
    assert "step is 3, not a number of updates in 2 steps" in refusal(load_state, Small(), tmp_path)
    write(tmp_path, tensors, step="4", checksum=right)
    assert "do not have its checksum" in refusal(load_state, Small(), tmp_path)
    write(tmp_path, tensors, step=str(STEPS))  # as older versions wrote it
    assert load_state(Small(), tmp_path) == STEPS


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\0" * 64, b"\xff" * 64, (2**60).to_bytes(8, "little") + b"{}", b"PK\x03\x04" + bytes(99)],
    ids=["empty", "short", "zeros", "ones", "an endless header", "an archive"],
)
def test_a_file_that_is_not_one_of_tensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.safetensors").write_bytes(content)
    assert "is damaged" in refusal(load_state, Small(), tmp_path)


def test_a_file_cut_short_changed_or_not_a_file(sound: Path, tmp_path: Path) -> None:
    whole, path = (sound / "state.safetensors").read_bytes(), tmp_path / "state.safetensors"
    for content in (whole[:-1], whole[: len(whole) // 2], whole + b"x", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(content)
        assert "is damaged" in refusal(load_state, Small(), tmp_path)
    path.unlink()
    path.mkdir()
    assert "it is not a file" in refusal(load_state, Small(), tmp_path)


def as_saved(task: Small) -> Small:
    del task.modules["late"], task.optimizers["late"]
    return task


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Change what ``state.json`` says."""

    def spoil(state: Path) -> None:
        told = json.loads((state / "state.json").read_text())
        change(told)
        (state / "state.json").write_text(json.dumps(told))

    return spoil


def replace_all(text: str) -> Callable[[Path], object]:
    return lambda state: (state / "state.json").write_text(text)


def without_sums(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    """Change tensors, and list the file as an older version would: each check stands alone."""

    def spoil(state: Path) -> None:
        path = next(state.glob("*.safetensors"))
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path)
        edit(lambda told: (told.pop("sha256"), told["files"].update({path.name: path.stat().st_size})))(state)

    return spoil


PLACED = "optimizer/net/0.weight/"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(replace_all("{"), "Expecting", id="half a list of files"),
        pytest.param(replace_all("[]"), "its format is []", id="another list"),
        pytest.param(replace_all("[" * 100_000), "nested too deeply", id="a deep list"),
        pytest.param(replace_all('{"step": NaN}'), "NaN is not a number", id="a step of NaN"),
        pytest.param(edit(lambda told: told.pop("format")), "its format is None", id="no format"),
        pytest.param(edit(lambda told: told.update(format="x" * 999)), "its format is 'xxx", id="another format"),
        pytest.param(edit(lambda told: told.pop("step")), "its step is 'None'", id="no step"),
        pytest.param(edit(lambda told: told.update(step=True)), "its step is 'True'", id="a step that is a truth"),
        pytest.param(edit(lambda told: told.update(step=2)), "is that of step 2", id="another step"),
        pytest.param(edit(lambda told: told.update(files=[])), "does not list its files", id="no files"),
        pytest.param(edit(lambda told: told.update(files={})), "does not list its files", id="files left out"),
        pytest.param(edit(lambda told: told.update(files={}, sha256={})), "are not those that", id="all left out"),
        pytest.param(lambda state: (state / "more.safetensors").touch(), "are not those that", id="one file more"),
        pytest.param(
            lambda state: next(state.glob("*.safetensors")).write_bytes(b""), "cut short", id="a file of no length"
        ),
        pytest.param(
            edit(lambda told: told.update(sha256=dict.fromkeys(told["sha256"], "0"))), "its checksum", id="a checksum"
        ),
        pytest.param(without_sums(drop(PLACED + "exp_avg")), "it has no", id="a moment missing"),
        pytest.param(without_sums(put("more", torch.zeros(1))), "'more' is unknown", id="a tensor more"),
        pytest.param(without_sums(put(PLACED + "exp_avg", torch.zeros(5))), "has shape (5,)", id="another shape"),
        pytest.param(without_sums(cast(PLACED + "exp_avg", torch.float64)), "holds torch.float64", id="another dtype"),
    ],
)
def test_a_state_in_shards(sound: Path, tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    state = whole_states(sound)[-1]
    shutil.copytree(state, tmp_path / state.name)
    damage(tmp_path / state.name)
    assert reason in refusal(load_sharded, as_saved(Small()), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("exp_avg", torch.full((3, 2, 3, 3), torch.nan), "exp_avg is not finite"),
        ("exp_avg_sq", torch.full((3, 2, 3, 3), -1.0), "exp_avg_sq is negative"),
        ("step", torch.tensor(4.0), "step is 4, not a number of updates in 3 steps"),
    ],
)
def test_numbers_in_shards_that_no_training_gives(
    sound: Path, tmp_path: Path, name: str, value: Tensor, reason: str
) -> None:
    state = whole_states(sound)[-1]
    shutil.copytree(state, tmp_path / state.name)
    without_sums(put(PLACED + name, value))(tmp_path / state.name)
    with pytest.raises(ValueError, match=reason):  # once they are in place: shards are read into the task itself
        load_sharded(as_saved(Small()), tmp_path)


@pytest.mark.parametrize(("save", "load"), [(save_state, load_state), (save_sharded, load_sharded)])
def test_a_state_that_could_not_be_loaded_does_not_replace_one_that_can(
    tmp_path: Path, save: Callable[..., None], load: Callable[..., int]
) -> None:
    task = as_saved(Small())
    list(train(task, steps=1, seed=1, folder=tmp_path, store=Store(save, load)))
    task.modules["net"][0].weight.data[0] = torch.nan  # type: ignore[index, union-attr]
    with pytest.raises(
        ValueError, match=r"after step 2 was not saved, since module/net/0\.weight is not finite: the state"
    ):
        save(task, tmp_path, 2)
    assert load(as_saved(Small()), tmp_path) == 1


def test_states_are_taken_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("step-000009", "step-1000000", "step-999999", "step-x", "step-12345678901"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").touch()
    assert [path.name for path in whole_states(tmp_path)] == ["step-000009", "step-999999", "step-1000000"]


@pytest.mark.parametrize(
    "text", ["{", "[]", '"lr"', '{"lr": NaN}', "[" * 100_000, "\xff", '{"lr": ' + "9" * 5000 + "}"]
)
def test_a_run_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.safetensors").touch()
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read .*remove it") as refused:
        same_settings(tmp_path, {"lr": 1.0})
    assert len(str(refused.value)) < len(str(tmp_path)) + 250
    (tmp_path / "run.json").write_text(json.dumps({"lr": "9" * 5000}))
    with pytest.raises(ValueError, match="lr was 9999") as refused:
        same_settings(tmp_path, {"lr": 1.0})
    assert len(str(refused.value)) < len(str(tmp_path)) + 250


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of five pictures, three of them of one size, in files of two rows."""
    from PIL import Image

    sizes = [(16, 16), (16, 16), (16, 16), (32, 16), (32, 16)]
    folder = tmp_path_factory.mktemp("cache")
    for name, size in zip("abcde", sizes, strict=True):
        Image.new("RGB", size).save(folder.parent / f"{name}.png")
    names = [folder.parent / f"{name}.png" for name in "abcde"]
    pictures = CaptionedPictures(list("abcde"), list("vwxyz"), "p", names.__getitem__)
    start_cache(folder, pictures, [(16, 16), (16, 32)], {"latent encoder": "a"}, shard=2)
    list(fill_cache(folder, pictures, lambda x: x[:, :, ::2, ::2], lambda texts: torch.ones(len(texts), 2, 3)))
    return folder


def index(**values: object) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        told = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(told | values))

    return spoil


def shard(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    """Change a file of latents, with a right checksum."""

    def spoil(folder: Path) -> None:
        path = folder / "latents-16x16-00000.safetensors"
        tensors = safetensors.torch.load_file(path)
        change(tensors)
        safetensors.torch.save_file(tensors, path, metadata={"checksum": checksum(tensors)})

    return spoil


def flip(name: str) -> Callable[[Path], object]:
    """Change the last bit of a file."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return spoil


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(index(format="ldm-edu-cache/1"), "its format is ldm-edu-cache/1", id="an older format"),
        pytest.param(index(made_from=[]), "no readable index", id="made from a list"),
        pytest.param(index(made_from={"pictures": 1}), "its made_from cannot be", id="made from a number"),
        pytest.param(index(sizes=[[16, 16]]), "its sizes cannot be", id="a size missing"),
        pytest.param(index(sizes=[[16, -16], [16, 32]]), "its sizes cannot be", id="a negative size"),
        pytest.param(index(sizes=[[16, 16], [16, 16]]), "its sizes cannot be", id="a size twice"),
        pytest.param(index(counts=[3, 2.0]), "its counts cannot be", id="a count with a point"),
        pytest.param(index(counts=[3, 3]), "counts other pictures", id="a picture too many"),
        pytest.param(index(counts=[10**30, 2]), "counts other pictures", id="endless pictures"),
        pytest.param(index(captions=0), "its captions cannot be 0", id="no captions"),
        pytest.param(index(captions=7), "counts other pictures", id="a caption too many"),
        pytest.param(index(shard=0), "its shard cannot be 0", id="files of no rows"),
        pytest.param(index(shard=1), "lacks 5 files", id="files of one row"),
        pytest.param(index(shard=3), "does not hold 3 rows of", id="files of three rows"),
        pytest.param(index(more=1), "no readable index", id="a value more"),
        pytest.param(index(checksum="0"), "do not have the checksum", id="another checksum"),
        pytest.param(flip("pictures.safetensors"), "do not have the checksum", id="a picture elsewhere"),
        pytest.param(flip("captions.json"), "captions.json or pictures", id="a caption changed"),
        pytest.param(flip("latents-16x16-00000.safetensors"), "its checksum", id="a bit of a latent"),
        pytest.param(flip("text-00001.safetensors"), "its checksum", id="a bit of a state"),
        pytest.param(shard(cast("latents", torch.float32)), "does not hold 2 rows", id="latents in float32"),
        pytest.param(shard(put("latents", torch.zeros(1, 3, 8, 8).half())), "does not hold 2", id="a latent missing"),
        pytest.param(shard(put("more", torch.zeros(1).half())), "does not hold 2 rows", id="more than latents"),
    ],
)
def test_a_cache(cache: Path, tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    Cache(folder)
    damage(folder)
    with pytest.raises(ValueError) as refused:
        Cache(folder)
    sentence = str(refused.value)
    assert reason in sentence and str(folder) in sentence and "\n" not in sentence
    assert "remove" in sentence or "start the training again" in sentence


def test_a_sound_state_is_read_from_both_stores(sound: Path) -> None:
    task = Small()
    assert load_state(task, sound) == STEPS
    again = as_saved(Small())
    assert load_sharded(again, sound) == STEPS
    wanted, got = (each.modules["net"].state_dict() for each in (task, again))
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []
