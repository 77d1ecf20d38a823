"""Latents and text states, computed once and kept on disk: what training reads instead of pictures and captions.

A cache is a folder::

    index.json                    what it was made from, its buckets, a checksum of the two files below
    captions.json                 the captions
    pictures.safetensors          which picture is in which bucket, and which caption each has
    latents-512x512-00000.safetensors ...   float16, scaled to unit variance
    text-00000.safetensors ...              float16, one entry a different caption; the first is the blank one

Every file is written beside and renamed, so a caching that was killed goes on where it stopped; several processes
share the files among them. Every file has a checksum, which is compared once, before the first step. Reading maps the
files into memory: only the rows of a batch are touched.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ldm_edu.datasets.folder import CaptionedPictures, digest
from ldm_edu.files import atomic_write, atomic_write_text, read_json
from ldm_edu.pictures import fit, from_pil
from ldm_edu.training.buckets import Size, nearest_bucket
from ldm_edu.training.fingerprints import checksum

FORMAT = "ldm-edu-cache/2"
SHARD = 1024  # pictures, or captions, a file
CHUNK = 16  # pictures encoded at once
BLANK = 0  # the row of the blank caption

Encode = Callable[[Tensor], Tensor]  # pictures (n, 3, H, W) in [-1, 1] -> scaled latents (n, C, h, w)
Embed = Callable[[Sequence[str]], Tensor]  # captions -> their states (n, L, D)


@dataclass(frozen=True)
class Index:
    """What ``index.json`` holds. ``made_from`` names what the numbers depend on, each with its fingerprint."""

    made_from: dict[str, str]
    sizes: list[Size]  # of the buckets that have pictures
    counts: list[int]  # pictures in each
    captions: int  # different ones, the blank one among them
    checksum: str  # of which picture is in which bucket and has which caption
    shard: int = SHARD
    format: str = FORMAT

    def __post_init__(self) -> None:
        """Check the kinds of all values.

        Raises
        ------
        ValueError
            if one is of another kind, naming it.
        """
        pairs = [isinstance(size, tuple) and len(size) == 2 and all(map(_is_count, size)) for size in self.sizes]
        fits = {
            "made_from": all(isinstance(word, str) for item in self.made_from.items() for word in item),
            "sizes": all(pairs) and len(set(self.sizes)) == len(self.sizes) == len(self.counts),
            "counts": all(map(_is_count, self.counts)),
            "captions": _is_count(self.captions),
            "shard": _is_count(self.shard),
        }
        if wrong := [name for name, right in fits.items() if not right]:
            raise ValueError(f"its {wrong[0]} cannot be {str(getattr(self, wrong[0]))[:40]}")

    def files(self) -> Iterator[tuple[str, int | None, range]]:
        """Every file of numbers: its name, its bucket (None: text), and which of the bucket's rows it holds."""
        for number, first in enumerate(range(0, self.captions, self.shard)):
            yield f"text-{number:05}.safetensors", None, range(first, min(first + self.shard, self.captions))
        for bucket, ((height, width), count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            for number, first in enumerate(range(0, count, self.shard)):
                name = f"latents-{height}x{width}-{number:05}.safetensors"
                yield name, bucket, range(first, min(first + self.shard, count))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def start_cache(
    folder: Path, pictures: CaptionedPictures, sizes: Sequence[Size], networks: dict[str, str], *, shard: int = SHARD
) -> Index:
    """Sort the pictures into buckets and write the index, or take the one that is there if it was made from the same.

    Parameters
    ----------
    networks
        the fingerprint of each network by its name, as `fingerprint` gives it.

    Raises
    ------
    ValueError
        if a picture cannot be read, or the cache in ``folder`` was made from something else.
    SaveError
        if the folder cannot be written.
    """
    made_from = {
        "contents of the pictures": pictures.fingerprint,
        "bucket sizes": digest(json.dumps(list(sizes))),
        **networks,
    }
    path = folder / "index.json"
    if path.exists():
        index = read_index(folder)
        if other := stale(index, made_from):
            raise ValueError(
                f"the cache in {folder} is stale: it was made from other {' and other '.join(other)}. Remove that "
                "folder to have it made anew, or name another one with --cache"
            )
        return index
    members: list[list[int]] = [[] for _ in sizes]
    for i in range(len(pictures.names)):
        members[nearest_bucket(*pictures.size(i), sizes)].append(i)
    kept = [bucket for bucket, ids in enumerate(members) if ids]
    places = {"": BLANK}
    texts = [places.setdefault(caption, len(places)) for caption in pictures.captions]
    tensors = {f"bucket-{place}": torch.tensor(members[bucket]) for place, bucket in enumerate(kept)}
    tensors["texts"] = torch.tensor(texts)
    captions = list(places)
    chosen, counts = [sizes[b] for b in kept], [len(members[b]) for b in kept]
    index = Index(made_from, chosen, counts, len(captions), checksum(tensors, note=json.dumps(captions)), shard)
    atomic_write_text(folder / "captions.json", json.dumps(captions, ensure_ascii=False) + "\n")
    atomic_write(folder / "pictures.safetensors", lambda beside: safetensors.torch.save_file(tensors, beside))
    atomic_write_text(path, json.dumps(asdict(index), indent=1) + "\n")
    return index


def stale(index: Index, made_from: dict[str, str]) -> list[str]:
    """What a cache was made from that is not the same any more, by name."""
    return [name for name in made_from if index.made_from.get(name) != made_from[name]]


def read_index(folder: Path) -> Index:
    """The index of a cache.

    Raises
    ------
    ValueError
        if it is damaged, or of another format.
    """
    path = folder / "index.json"
    try:
        values = read_json(path)
        if (found := values["format"]) != FORMAT:
            raise ValueError(f"its format is {str(found)[:40]}, not {FORMAT}")
        return Index(**values | {"sizes": [(height, width) for height, width in values["sizes"]]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no readable index of a cache ({error}); remove {folder} to make it anew"
        ) from error


def fill_cache(
    folder: Path, pictures: CaptionedPictures, encode: Encode, embed: Embed, *, part: int = 0, parts: int = 1
) -> Iterator[tuple[int, int]]:
    """Write the files that are missing; yields (pictures and captions done, of how many) after each file.

    ``part`` of ``parts``: which of several processes this is; file ``i`` falls to process ``i % parts``.

    Raises
    ------
    ValueError
        if a picture cannot be read, naming it, or the numbers that a network gives are not finite.
    SaveError
        if the disk is full or refuses; what was written stays, and the next call goes on from there.
    """
    index = read_index(folder)
    table, captions = _read_table(folder, index)
    mine = list(index.files())[part::parts]
    done, total = 0, sum(len(rows) for *_, rows in mine)
    for name, bucket, rows in mine:
        if not (folder / name).exists():
            if bucket is None:
                tensors = {"states": _half(name, embed([captions[row] for row in rows]))}
            else:
                ids = table[f"bucket-{bucket}"][rows.start : rows.stop].tolist()
                load = partial(_picture, pictures, index.sizes[bucket])
                latents = [
                    encode(torch.stack([load(i) for i in ids[at : at + CHUNK]])) for at in range(0, len(ids), CHUNK)
                ]
                tensors = {"latents": _half(name, torch.cat(latents))}
            atomic_write(
                folder / name,
                partial(safetensors.torch.save_file, tensors, metadata={"checksum": checksum(tensors)}),
            )
        done += len(rows)
        yield done, total


def _picture(pictures: CaptionedPictures, size: Size, i: int) -> Tensor:
    return from_pil(fit(pictures.rgb(i), size))[0]  # (3, H, W)


def _half(name: str, values: Tensor) -> Tensor:
    """float16, whose steps are 0.05 % of a value; bfloat16's would be 0.4 %."""
    half = values.detach().to("cpu", torch.float16).contiguous()
    if not half.isfinite().all():
        raise ValueError(f"{name}: the network gave numbers that are not finite; check the weights that --parts names")
    return half


@dataclass
class Cache:
    """A finished cache, open for reading.

    ``part`` of ``parts``: which of several processes this is; the checksum of file ``i`` falls to ``i % parts``.
    """

    folder: Path
    part: int = 0
    parts: int = 1
    index: Index = field(init=False)
    _open: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that every file is there and holds what was written.

        Raises
        ------
        ValueError
            if one is missing or damaged, naming it.
        """
        self.index = read_index(self.folder)
        table, self._captions = _read_table(self.folder, self.index)
        missing = [name for name, *_ in self.index.files() if not (self.folder / name).exists()]
        if missing:
            raise ValueError(
                f"the cache in {self.folder} lacks {len(missing)} files, the first is {missing[0]}; start the training "
                "again on the same pictures to have them made"
            )
        for name, bucket, rows in list(self.index.files())[self.part :: self.parts]:
            _check_file(self.folder / name, "states" if bucket is None else "latents", len(rows))
        self._texts = table["texts"]
        self._members = [table[f"bucket-{bucket}"] for bucket in range(len(self.index.counts))]

    def latents(self, bucket: int, rows: Sequence[int]) -> Tensor:
        """Scaled latents of some rows of a bucket: (n, C, h, w), float32."""
        height, width = self.index.sizes[bucket]
        return self._rows(f"latents-{height}x{width}", "latents", rows)

    def captions(self, bucket: int, rows: Sequence[int]) -> Tensor:
        """Which caption each of some rows of a bucket has: (n,)."""
        return self._texts[self._members[bucket][list(rows)]]

    def states(self, captions: Sequence[int]) -> Tensor:
        """Text states of some captions: (n, L, D), float32."""
        return self._rows("text", "states", captions)

    def words(self, count: int) -> list[str]:
        """The first captions but for the blank one, ``count`` at most; one blank where there are no others."""
        return self._captions[BLANK + 1 : count + 1] or [""]

    def _rows(self, stem: str, key: str, rows: Sequence[int]) -> Tensor:
        found = []
        for row in rows:
            shard, place = divmod(row, self.index.shard)
            found.append(self._slices(f"{stem}-{shard:05}.safetensors", key)[place])
        return torch.stack(found).float()

    def _slices(self, name: str, key: str) -> Any:
        if name not in self._open:
            file = safetensors.safe_open(self.folder / name, framework="pt")
            self._open[name] = file.get_slice(key)
        return self._open[name]


def _read_table(folder: Path, index: Index) -> tuple[dict[str, Tensor], list[str]]:
    """Which picture is in which bucket and has which caption, and the captions: those that the index was made with."""
    try:
        captions = read_json(folder / "captions.json")
        table = safetensors.torch.load_file(folder / "pictures.safetensors")
        if checksum(table, note=json.dumps(captions)) != index.checksum:
            raise ValueError("they do not have the checksum in index.json")
        members = [table[f"bucket-{bucket}"] for bucket in range(len(index.counts))]
        if [len(rows) for rows in members] != index.counts or len(captions) != index.captions:
            raise ValueError("index.json counts other pictures and captions")
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"captions.json or pictures.safetensors in {folder} is damaged ({error}); remove {folder} to make the "
            "cache anew"
        ) from error
    return table, captions


def _check_file(path: Path, key: str, rows: int) -> None:
    """Whether a file of latents or states holds its rows, to the bit as they were written."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("checksum") != checksum(tensors):
                raise ValueError("its numbers do not have its checksum")
        if tensors.keys() != {key} or len(tensors[key]) != rows or tensors[key].dtype != torch.float16:
            raise ValueError(f"it does not hold {rows} rows of {key}")
    except (OSError, safetensors.SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove that file and start again: only it is made anew"
        ) from error
