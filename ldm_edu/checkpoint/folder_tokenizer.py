"""The tokenizer in a published folder: the one that this package has, or the folder is refused.

A prompt that is cut by another vocabulary becomes other rows of the embedding, and the picture another one, without any
error. So vocabulary, merges and added tokens are compared with ours, wherever the folder's files say them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldm_edu.tokenizer import Tokenizer
from ldm_edu.weights.errors import CheckpointError, listed, printable
from ldm_edu.weights.untrusted import MAX_JSON, read_json, refuse_special

CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast", "None")


def check_tokenizer(folder: Path, ours: Tokenizer) -> None:
    """Whether the tokenizer in a folder cuts prompts as ours does; a folder without one is taken to.

    Raises
    ------
    CheckpointError
        naming the file that says otherwise.
    """
    if not folder.is_dir():
        return
    files = ours.files()
    vocabulary: dict[str, int] = json.loads(files["vocab.json"])
    merges = _lines(files["merges.txt"])
    if added := sorted({word for word, _ in _added(folder) if word not in vocabulary}):
        _refuse(folder, f"has tokens that were added to CLIP's ({listed(added)})")
    kind = str(_read(folder / "tokenizer_config.json").get("tokenizer_class"))
    if kind not in CLASSES:
        _refuse(folder / "tokenizer_config.json", f"is a {printable(kind)}, where CLIP's tokenizer is read")
    if pieces := sorted(folder.glob("*.model")):
        _refuse(pieces[0], "is a SentencePiece vocabulary, where CLIP's is read")

    fast = _read(folder / "tokenizer.json").get("model")
    for place, words in (("vocab.json", _read(folder / "vocab.json")), ("tokenizer.json", _dict(fast).get("vocab"))):
        if words and _dict(words) != vocabulary:
            _refuse(folder / place, f"is another vocabulary than CLIP's first {ours.vocab:,} tokens")
    for place, pairs in (("merges.txt", _merges(folder)), ("tokenizer.json", _dict(fast).get("merges"))):
        if pairs and [tuple(pair.split()) if isinstance(pair, str) else tuple(pair) for pair in pairs] != merges:
            _refuse(folder / place, "joins other pairs of letters than CLIP's does")
    if moved := sorted({word for word, token in _added(folder) if vocabulary[word] != token}):
        _refuse(folder, f"gives other numbers than CLIP's to {listed(moved)}")


def _added(folder: Path) -> Iterator[tuple[str, Any]]:
    """The tokens that were added to a vocabulary and their numbers, in the three places where they are noted."""
    yield from _read(folder / "added_tokens.json").items()
    for entry in _read(folder / "tokenizer.json").get("added_tokens") or []:
        yield str(_dict(entry).get("content")), _dict(entry).get("id")
    decoder = _read(folder / "tokenizer_config.json").get("added_tokens_decoder")
    for token, entry in _dict(decoder).items():
        yield str(_dict(entry).get("content")), int(token) if token.isdecimal() else token


def _read(path: Path) -> dict[str, Any]:
    refuse_special(path)
    return read_json(path) if path.is_file() else {}


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _merges(folder: Path) -> list[str]:
    path = folder / "merges.txt"
    refuse_special(path)
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        text = file.read(MAX_JSON).decode(errors="replace")
    return [" ".join(pair) for pair in _lines(text)]


def _lines(text: str) -> list[tuple[str, ...]]:
    """The pairs of a list of merges, without its title."""
    return [tuple(line.split()) for line in text.split("\n") if line.strip() and not line.startswith("#version")]


def _refuse(path: Path, why: str) -> None:
    raise CheckpointError(
        f"{path} {why}, so prompts would be read wrongly; take a folder with CLIP's own tokenizer. A word that was "
        "learned for it can be given as an adapter (--adapter FILE)."
    )
