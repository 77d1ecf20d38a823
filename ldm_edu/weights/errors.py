"""Why a file of weights cannot be used, in a sentence that says what to do."""

import json
from pathlib import Path

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_PICKLE_HEADS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip of torch.save; bare pickles
SHOWN = 120  # letters of a name or a value that are shown


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why, and what to do."""


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, by its name or its first bytes."""
    head = b""
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(9)
    is_safetensors = head[8:] == b"{"  # its first eight bytes are a length, and any length can look like a pickle
    return path.suffix.lower() in PICKLES or (head.startswith(_PICKLE_HEADS) and not is_safetensors)


def refuse_pickle(path: Path) -> None:
    """Refuse a file that loading would run as a program, by its name or its first bytes.

    Raises
    ------
    CheckpointError
        if it is a pickle, with how to convert it.
    """
    if is_pickle(path):
        raise CheckpointError(
            f"{path} is a pickle, which can run any program when it is opened, so it is not. Take the .safetensors "
            "file of the same model; or, if you trust its maker, convert it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')."
        )


def hint_of_pickles(folder: Path) -> str:
    """A sentence on the pickles in a folder where something else was sought; "" where there are none."""
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in PICKLES)
    return f" ({pickles[0]} is a pickle, which is never opened: convert it to safetensors first.)" if pickles else ""


def diagnosis(path: Path, error: Exception) -> str:
    """Why a file that should be safetensors is none: eight bytes of header length, a JSON header, then the numbers."""
    if not path.is_file():
        return "there is no such file. Check the path."
    size = path.stat().st_size
    with open(path, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > size - 8:
            return f"it is cut short, or no safetensors file ({size} bytes). Copy or download it again."
        try:
            header = json.loads(file.read(header_size))
            wanted = 8 + header_size + max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return "it is no safetensors file, or damaged. Copy or download it again."
    if size < wanted:
        return f"it is cut short: {size} bytes of {wanted}. Copy or download it again."
    return f"it is damaged ({error}). Copy or download it again."


def listed(names: list[str]) -> str:
    """The first three of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name) for name in names[:3]) + more


def printable(text: object, most: int = SHOWN) -> str:
    """A text that comes from a file, for a terminal: signs that a terminal would obey are spelt out, the end cut off.

    >>> print(printable("conv" + chr(27) + "[2J"), printable("a" * 1000, 5))
    conv\\x1b[2J aaaaa...
    """
    shown = str(text)
    cut = shown[:most] + "..." if len(shown) > most else shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in cut)
