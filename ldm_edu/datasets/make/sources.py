"""The published packages that the shipped data are made from, pinned to a version and a checksum."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Package:
    """One published archive.

    ``archive`` is the file name the client writes; ``sha256`` is of that whole file.
    """

    client: Literal["npm", "pip", "apt"]
    name: str
    version: str
    archive: str
    sha256: str


NOTO = Package(
    "npm",
    "@iconify-json/noto",
    "1.2.9",
    "iconify-json-noto-1.2.9.tgz",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
)
NOTO_V1 = Package(
    "npm",
    "@iconify-json/noto-v1",
    "1.2.5",
    "iconify-json-noto-v1-1.2.5.tgz",
    "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
)
FLUENT_FLAT = Package(
    "npm",
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "iconify-json-fluent-emoji-flat-1.2.6.tgz",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
)
TWEMOJI = Package(
    "npm",
    "@iconify-json/twemoji",
    "1.2.5",
    "iconify-json-twemoji-1.2.5.tgz",
    "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
)
FXEMOJI = Package(
    "npm",
    "@iconify-json/fxemoji",
    "1.2.2",
    "iconify-json-fxemoji-1.2.2.tgz",
    "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
)
FLUENT_3D = Package(
    "npm",
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
EMOJIBASE = Package(
    "npm",
    "emojibase-data",
    "17.0.0",
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
OPEN_CLIP = Package(
    "pip",
    "open_clip_torch",
    "3.3.0",
    "open_clip_torch-3.3.0-py3-none-any.whl",
    "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
)
FASHION_MNIST = Package(
    "apt",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)

PACKAGES = (NOTO, NOTO_V1, FLUENT_FLAT, TWEMOJI, FXEMOJI, FLUENT_3D, EMOJIBASE, OPEN_CLIP, FASHION_MNIST)

_COMMANDS = {
    "npm": lambda p: ["npm", "pack", "--silent", f"{p.name}@{p.version}"],
    "pip": lambda p: [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{p.name}=={p.version}"],
    "apt": lambda p: ["apt-get", "download", f"{p.name}={p.version}"],
}


def download(package: Package, folder: Path) -> Path:
    """The package's archive inside ``folder``, downloaded by its own client unless it is there already.

    Raises
    ------
    RuntimeError
        if the client is missing or fails, or if the archive is not the pinned one.
    """
    archive = folder / package.archive
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = _COMMANDS[package.client](package)
        try:
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                f"Could not run {' '.join(command)!r} ({error}). Install that client, or put {package.archive} into "
                f"{folder} yourself, and run the build again."
            ) from error
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise RuntimeError(
            f"{archive} has sha256 {found}, but {package.name} {package.version} should have {package.sha256}. "
            "Delete the file and run the build again; if it differs again, the package was republished."
        )
    return archive
