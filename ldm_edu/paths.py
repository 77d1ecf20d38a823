"""Where the shipped data and checkpoints lie, from a checkout and from an installed wheel alike."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir() -> Path:
    """The folder that holds the shipped data sets and checkpoints.

    In this order: the environment variable ``LDM_EDU_DATA``; ``data/`` beside the package (a checkout); ``_data/``
    inside the package (an installed wheel).

    Raises
    ------
    FileNotFoundError
        if none of them exists; the message says what to set.
    """
    override = os.environ.get("LDM_EDU_DATA")
    if override:
        folder = Path(override).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"LDM_EDU_DATA is set to {override!r}, which is not a folder. Point it at a copy of the project's "
                "data/ folder, or unset it to use the data that came with the package."
            )
        return folder
    for folder in (_PACKAGE.parent / "data", _PACKAGE / "_data"):
        if (folder / "README.md").is_file():
            return folder
    raise FileNotFoundError(
        "The shipped data were not found beside the package nor inside it. Set LDM_EDU_DATA to the project's data/ "
        "folder, or reinstall ldm-edu."
    )


def checkpoints_dir() -> Path:
    """The folder of the shipped checkpoints, one folder a model."""
    return data_dir() / "checkpoints"
