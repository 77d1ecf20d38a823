"""Latents and text states on disk: what the networks give, resumed where it stopped, refused when stale."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_edu import files
from ldm_edu.datasets.folder import CaptionedPictures, read_pictures
from ldm_edu.families import TOY
from ldm_edu.files import SaveError
from ldm_edu.models.autoencoder import AutoencoderKL
from ldm_edu.pictures import fit, from_pil
from ldm_edu.training import cache as module
from ldm_edu.training.buckets import bucket_sizes
from ldm_edu.training.cache import BLANK, Cache, fill_cache, start_cache
from ldm_edu.training.fingerprints import fingerprint

NETWORKS = {"autoencoder": "a1", "text encoder": "t1"}
SIZES = bucket_sizes(16, 4)


def encode(pictures: Tensor) -> Tensor:
    """Stands for an autoencoder: one latent pixel is the mean of four."""
    return torch.nn.functional.avg_pool2d(pictures, 2)


def embed(captions: Sequence[str]) -> Tensor:
    """Stands for a text encoder: a state that depends on the caption alone."""
    return torch.tensor([[[float(len(caption)), 1.0]] for caption in captions])


@pytest.fixture
def pictures(tmp_path: Path) -> CaptionedPictures:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10):
        size = (32, 16) if i % 3 else (16, 16)
        Image.new("RGB", size, (25 * i, 0, 255 - 25 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("word " * (i % 4))
    return read_pictures(folder)


def made(folder: Path, pictures: CaptionedPictures, shard: int = 2) -> Cache:
    start_cache(folder, pictures, SIZES, NETWORKS, shard=shard)
    list(fill_cache(folder, pictures, encode, embed))
    return Cache(folder)


def test_a_cache_holds_what_the_networks_give(tmp_path: Path, pictures: CaptionedPictures) -> None:
    cache = made(tmp_path / "cache", pictures)
    assert cache.index.sizes == [(12, 20), (16, 16)]
    assert cache.index.counts == [6, 4]
    ids = [[i for i in range(10) if i % 3], [0, 3, 6, 9]]
    for bucket, size in enumerate(cache.index.sizes):
        rows = [3, 0]
        wanted = encode(torch.cat([from_pil(fit(pictures.rgb(ids[bucket][row]), size)) for row in rows]))
        assert torch.allclose(cache.latents(bucket, rows), wanted, atol=5e-4)  # half a step of float16 at 1
        captions = [pictures.captions[ids[bucket][row]] for row in rows]
        assert torch.equal(cache.states(cache.captions(bucket, rows).tolist()), embed(captions))
    assert torch.equal(cache.states([BLANK]), embed([""]))
    assert cache.index.captions == 4  # each different one once
    assert cache.words(2) == [pictures.captions[1], pictures.captions[2]]


def test_caching_goes_on_where_it_was_killed(tmp_path: Path, pictures: CaptionedPictures) -> None:
    folder = tmp_path / "cache"
    whole = made(tmp_path / "whole", pictures)
    start_cache(folder, pictures, SIZES, NETWORKS, shard=2)
    for _ in zip(range(3), fill_cache(folder, pictures, encode, embed), strict=False):
        pass  # three files of seven
    with pytest.raises(ValueError, match="lacks 4 files"):
        Cache(folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    resumed = made(folder, pictures)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before  # nothing is made twice
    assert torch.equal(resumed.latents(0, range(6)), whole.latents(0, range(6)))


def test_processes_share_the_files(tmp_path: Path, pictures: CaptionedPictures) -> None:
    folder = tmp_path / "cache"
    start_cache(folder, pictures, SIZES, NETWORKS, shard=2)
    done = [list(fill_cache(folder, pictures, encode, embed, part=part, parts=3))[-1] for part in (2, 0, 1)]
    assert all(d == total for d, total in done) and sum(d for d, _ in done) == 10 + 4
    assert torch.equal(Cache(folder).latents(0, range(6)), made(tmp_path / "whole", pictures).latents(0, range(6)))


def test_a_stale_cache_is_refused_and_kept(tmp_path: Path, pictures: CaptionedPictures) -> None:
    folder = tmp_path / "cache"
    made(folder, pictures)
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    with pytest.raises(ValueError, match="stale: it was made from other autoencoder"):
        start_cache(folder, pictures, SIZES, NETWORKS | {"autoencoder": "a2"})
    with pytest.raises(ValueError, match="other bucket sizes"):
        start_cache(folder, pictures, bucket_sizes(32, 4), NETWORKS)
    (tmp_path / "pictures" / "3.txt").write_text("another caption")
    with pytest.raises(ValueError, match=r"other contents of the pictures\. Remove that folder"):
        start_cache(folder, read_pictures(tmp_path / "pictures"), SIZES, NETWORKS)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_a_damaged_file_is_named_and_only_it_is_made_anew(tmp_path: Path, pictures: CaptionedPictures) -> None:
    folder = tmp_path / "cache"
    wanted = made(folder, pictures).latents(0, [2])
    path = folder / "latents-12x20-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"12x20-00001\.safetensors is damaged .*remove that file"):
        Cache(folder)
    path.unlink()
    assert torch.equal(made(folder, pictures).latents(0, [2]), wanted)


@pytest.mark.parametrize("text", ["{", '{"format": "ldm-edu-cache/1"}', "[]"])
def test_a_damaged_index_is_named(tmp_path: Path, pictures: CaptionedPictures, text: str) -> None:
    folder = tmp_path / "cache"
    made(folder, pictures)
    (folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is no readable index"):
        start_cache(folder, pictures, SIZES, NETWORKS)


def test_an_unreadable_picture_stops_before_anything_is_encoded(tmp_path: Path, pictures: CaptionedPictures) -> None:
    (tmp_path / "pictures" / "4.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"4\.png cannot be read as a picture"):
        start_cache(tmp_path / "cache", read_pictures(tmp_path / "pictures"), SIZES, NETWORKS)
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_keeps_what_was_made(
    tmp_path: Path, pictures: CaptionedPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, flush = tmp_path / "cache", os.fsync
    start_cache(folder, pictures, SIZES, NETWORKS, shard=2)
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SaveError, match="the disk is full"):
        list(fill_cache(folder, pictures, encode, embed))
    assert len(list(folder.glob("*-0*.safetensors"))) == 3
    assert not list(folder.glob(".*"))
    made(folder, pictures)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, pictures: CaptionedPictures) -> None:
    start_cache(tmp_path / "cache", pictures, SIZES, NETWORKS)
    with pytest.raises(ValueError, match="not finite; check the weights"):
        list(fill_cache(tmp_path / "cache", pictures, lambda x: encode(x) / 0, embed))


def test_the_fingerprint_of_a_network_is_that_of_its_weights() -> None:
    torch.manual_seed(0)
    assert TOY.autoencoder is not None
    a, b = (AutoencoderKL(TOY.autoencoder) for _ in range(2))
    assert fingerprint(a) != fingerprint(b)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b) != fingerprint(a, note="another scale")
    with torch.no_grad():
        b.quant.bias[0] += 1e-7
    assert fingerprint(a) != fingerprint(b)


def test_rows_are_read_without_the_rest_of_their_file(
    tmp_path: Path, pictures: CaptionedPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = made(tmp_path / "cache", pictures)
    for name in ("_check_file", "_read_table"):
        monkeypatch.setattr(module, name, lambda path, *rest: pytest.fail(f"all of {path} was read"))
    cache.latents(1, [1, 2])
    cache.states([1])
    assert sorted(cache._open) == [
        "latents-16x16-00000.safetensors",
        "latents-16x16-00001.safetensors",
        "text-00000.safetensors",
    ]
