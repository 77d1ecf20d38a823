"""Packages that only some commands need: where one is missing, one sentence says how to install it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

# What is imported, and what `pip install` takes for it.
INSTALL = {
    **dict.fromkeys(("accelerate", "tensorboard"), "'ldm-edu[train]'"),
    **dict.fromkeys(("IPython", "ipykernel", "ipywidgets", "jupyter_client", "jupytext", "nbclient"), "'ldm-edu[lab]'"),
    **dict.fromkeys(("nbformat", "psutil", "traitlets", "zmq"), "'ldm-edu[lab]'"),
    **dict.fromkeys(("nbconvert", "nbgrader"), "'ldm-edu[classroom]'"),
    **dict.fromkeys(("diffusers", "transformers"), "'ldm-edu[test]'"),
    "resvg_py": "'ldm-edu[data]'",
    "wandb": "wandb",
}


class MissingPackageError(ModuleNotFoundError, ValueError):
    """A package is not installed that only some commands need."""


@contextmanager
def extras() -> Iterator[None]:
    """Inside, a missing package of `INSTALL` is one sentence.

    Raises
    ------
    MissingPackageError
        if one is imported that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in INSTALL or isinstance(error, MissingPackageError):
            raise
        raise MissingPackageError(
            f"this needs the package {package}, which is not installed: pip install {INSTALL[package]}", name=package
        ) from error


def need(module: str) -> Any:
    """A module of a package in `INSTALL`.

    Raises
    ------
    MissingPackageError
        if it is not installed.
    """
    with extras():
        return import_module(module)
