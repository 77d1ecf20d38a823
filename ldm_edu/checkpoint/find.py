"""Which folder or file a checkpoint's name means."""

from difflib import get_close_matches
from pathlib import Path

from ldm_edu.checkpoint.io import has_model
from ldm_edu.paths import checkpoints_dir
from ldm_edu.weights.errors import CheckpointError

NEAREST = 3  # names that are told where one is not found


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a shipped checkpoint by its name, the folder or file that ``name`` is, or that of a hub id.

    Raises
    ------
    CheckpointError
        if there is none, with what there is. A folder that is here is looked into, not sought on the hub: then these
        are the nearest names in it.
    """
    known = shipped_checkpoints()
    if isinstance(name, str) and name in known:
        return known[name]
    path = Path(name).expanduser()
    if path.exists():
        return path
    if path.parent != Path() and path.parent.is_dir():
        raise CheckpointError(_nearest(path))

    from ldm_edu.checkpoint.hub import fetch, is_hub_id  # brings the network's client along: only where it is asked for

    if isinstance(name, str) and is_hub_id(name):
        return fetch(name)
    listed = f"Shipped are {', '.join(known)}" if known else "None is shipped with this copy"
    raise CheckpointError(
        f"there is no checkpoint {str(name)!r}. {listed}; or give the folder of one you trained, a folder or file of "
        "a published model, or its id on the hub, owner/model."
    )


def _nearest(path: Path) -> str:
    """Of a folder that is here: what is in it, rather than what the hub may have under the same words."""
    inside = sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))
    near = get_close_matches(path.name, inside, n=NEAREST, cutoff=0.0)
    there = f"the nearest names in {path.parent} are {', '.join(near)}" if near else f"{path.parent} is empty"
    hub = f" (the hub is asked only where there is no folder {path.parent})" if len(path.parts) == 2 else ""
    return f"there is no folder or file {path}: {there}; check the name{hub}."


def shipped_checkpoints() -> dict[str, Path]:
    """The models that came with the package, by name: the folders that hold a network that draws."""
    try:
        folders = sorted(checkpoints_dir().iterdir())
    except FileNotFoundError:
        return {}
    return {folder.name: folder for folder in folders if folder.is_dir() and has_model(folder)}
