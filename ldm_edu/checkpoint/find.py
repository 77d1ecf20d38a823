"""Which folder or file a checkpoint's name means."""

from pathlib import Path

from ldm_edu.checkpoint.io import CheckpointError, has_part, refuse_pickle
from ldm_edu.paths import checkpoints_dir


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a shipped checkpoint by its name, or the folder or file that ``name`` is.

    Raises
    ------
    CheckpointError
        if there is none, with what there is; or if it is a pickle.
    """
    known = shipped_checkpoints()
    if isinstance(name, str) and name in known:
        return known[name]
    path = Path(name).expanduser()
    refuse_pickle(path)
    if path.exists():
        return path
    listed = f"Shipped are {', '.join(known)}" if known else "None is shipped with this copy"
    raise CheckpointError(f"there is no checkpoint {str(name)!r}. {listed}; or give the folder of one you trained.")


def shipped_checkpoints() -> dict[str, Path]:
    """The models that came with the package, by name: the folders that hold a U-Net."""
    try:
        folders = sorted(checkpoints_dir().iterdir())
    except FileNotFoundError:
        return {}
    return {folder.name: folder for folder in folders if folder.is_dir() and has_part(folder, "unet")}
