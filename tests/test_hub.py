"""Models by their hub id: from a cache laid out as the hub's client does, or told what is missing; no network."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.errors
import pytest

from ldm_edu.checkpoint.find import find_checkpoint
from ldm_edu.checkpoint.hub import CONFIGS, WEIGHTS, is_hub_id, needed
from ldm_edu.weights.errors import CheckpointError

NAME = "artist/model-v1-5"
REPOSITORY = [
    *CONFIGS, *WEIGHTS, "README.md", "v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors", "tokenizer/vocab.json",
]  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot folder of a model in a cache of the client's layout."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "hub" / "models--artist--model-v1-5"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0123abc")
    snapshot = model / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    return snapshot


def put(folder: Path, names: list[str] | tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_what_is_in_the_cache_is_found_without_a_network(cache: Path) -> None:
    put(cache, [*CONFIGS, *WEIGHTS])
    assert find_checkpoint(NAME) == cache


def test_what_is_missing_is_listed_with_where_to_put_it(cache: Path, tmp_path: Path) -> None:
    put(cache, [*CONFIGS, *WEIGHTS[1:]])
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(NAME)
    message = str(caught.value)
    assert WEIGHTS[0] in message and WEIGHTS[1] not in message
    assert f"in {tmp_path / NAME}, " in message and f"hf download {NAME} {WEIGHTS[0]} --local-dir {NAME}" in message
    put(tmp_path / NAME, REPOSITORY)  # as the message says
    assert find_checkpoint(NAME) == Path(NAME)


def test_without_a_cache_all_files_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(NAME)
    assert all(name in str(caught.value) for name in (*CONFIGS, *WEIGHTS))


def test_with_a_network_only_what_is_needed_is_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = huggingface_hub.snapshot_download

    def download(name: str, *, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        if local_files_only:
            return local(name, local_files_only=True)
        assert name == NAME and sorted(allow_patterns or []) == sorted([*CONFIGS, *WEIGHTS, "tokenizer/vocab.json"])
        put(cache, allow_patterns or [])
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: REPOSITORY)
    assert find_checkpoint(NAME) == cache
    assert find_checkpoint(NAME) == cache  # the second time from the cache


def test_a_network_that_is_down_is_the_same_as_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        """The client's library has its own, which is no OSError."""

    def down(name: str) -> list[str]:
        raise ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", down)
    with pytest.raises(CheckpointError, match=r"from the hub \(\[Errno -2\] Name .* known\)\. Needed are model_index"):
        find_checkpoint(NAME)


@pytest.mark.parametrize(
    "kind, words", [("RepositoryNotFoundError", "the hub has no model"), ("GatedRepoError", "accept its terms")]
)
def test_what_the_hub_refuses(cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    def refuse(name: str) -> list[str]:
        raise getattr(huggingface_hub.errors, kind)("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "list_repo_files", refuse)
    with pytest.raises(CheckpointError, match=words):
        find_checkpoint(NAME)


@pytest.mark.parametrize(
    "files, wanted",
    [
        (REPOSITORY, {*CONFIGS, *WEIGHTS, "tokenizer/vocab.json"}),
        ([n for n in REPOSITORY if n != WEIGHTS[0]], {"unet/diffusion_pytorch_model.fp16.safetensors"}),
        (["unet/diffusion_pytorch_model.bin", *WEIGHTS[1:]], {"unet/diffusion_pytorch_model.bin"}),
        (
            [*WEIGHTS[1:], *(f"unet/diffusion_pytorch_model{n}" for n in (
                ".safetensors.index.json", "-00001-of-00002.safetensors", "-00002-of-00002.safetensors",
            ))],
            {f"unet/diffusion_pytorch_model{n}.safetensors" for n in ("-00001-of-00002", "-00002-of-00002")},
        ),
    ],
    ids=["whole", "half", "pickle", "pieces"],
)  # fmt: skip
def test_weights_are_taken_once(files: list[str], wanted: set[str]) -> None:
    found = needed(NAME, files)
    assert wanted <= set(found)
    if WEIGHTS[0] in found:
        assert not [name for name in found if "fp16" in name or "non_ema" in name or name.endswith(".bin")]


def test_a_repository_of_single_files_names_them() -> None:
    with pytest.raises(CheckpointError, match=r"It has single files: dream\.safetensors; download one"):
        needed(NAME, ["dream.safetensors", "README.md"])


@pytest.mark.parametrize("name", ["../model", "./a", "a", "a/b/c", "/a/b", "a/b.ckpt", "a/b.safetensors", "a b/c"])
def test_what_is_no_hub_id(name: str) -> None:
    assert not is_hub_id(name)


def test_a_folder_of_one_s_own_is_not_sought_on_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_: pytest.fail("asked the hub"))
    for name in ("emoji", "mine2", "miner", "shapes", ".hidden"):
        Path("runs", name).mkdir(parents=True)
    with pytest.raises(
        CheckpointError, match=r"no folder or file runs/mine: the nearest names in runs are miner, mine2, "
    ):
        find_checkpoint("runs/mine")
    with pytest.raises(CheckpointError, match=r"no folder or file runs/emoji/unet: runs/emoji is empty"):
        find_checkpoint("runs/emoji/unet")
