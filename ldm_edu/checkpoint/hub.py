"""Models of the Hugging Face hub, by their id: from the user's cache, or downloaded where there is a network."""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from ldm_edu.families import FAMILIES
from ldm_edu.weights.errors import PICKLES, CheckpointError
from ldm_edu.weights.untrusted import read_json

STEMS = {part.folder: part.stem for family in FAMILIES for part in family.parts if part.folder}  # by folder
NETWORKS = {part.folder for family in FAMILIES for part in family.parts if part.name == family.network} - {""}
ALWAYS = ("model_index.json", "scheduler/scheduler_config.json")
USUAL = ("unet", "vae", "text_encoder")  # the folders of a model that nothing is known of
CONFIGS = (*ALWAYS, *(f"{folder}/config.json" for folder in USUAL))
WEIGHTS = tuple(f"{folder}/{STEMS[folder]}.safetensors" for folder in USUAL)


def is_hub_id(name: str | Path) -> bool:
    """Whether a name has the form of a hub id, owner/model, and is no file's.

    >>> is_hub_id("stable-diffusion-v1-5/stable-diffusion-v1-5"), is_hub_id("emoji"), is_hub_id("runs/sd.safetensors")
    (True, False, False)
    """
    own = r"[A-Za-z0-9][\w.-]*"
    suffixes = (".safetensors", *PICKLES)
    return bool(re.fullmatch(f"{own}/{own}", str(name))) and not str(name).lower().endswith(suffixes)


def fetch(name: str) -> Path:
    """The folder of a hub model's files: the cache's if they are all there, else after a download of those needed.

    Raises
    ------
    CheckpointError
        if it is not in the cache and cannot be downloaded: which files are needed, and where to put them.
    """
    cached = _cached(name)
    if cached is not None and not _missing(cached):
        return cached
    try:
        files = huggingface_hub.list_repo_files(name)
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=needed(name, files)))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name!r} is given only to those who accept its terms: do so at https://huggingface.co/{name}, then "
            "`hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no model {name!r}, nor is there a folder of that name. Check it."
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # no network: each HTTP library that the client has used calls it by another name
        raise CheckpointError(_where_to_put(name, _missing(cached), cached, error)) from error


def needed(name: str, files: Iterable[str]) -> list[str]:
    """Of a repository's files those that a model is loaded from: configs, and each network's weights once.

    Raises
    ------
    CheckpointError
        if it holds no diffusers folder; the message names the single files that it has.
    """
    files = list(files)
    folders = [folder for folder in STEMS if any(path.startswith(f"{folder}/") for path in files)]
    wanted = [path for path in files if path in (*ALWAYS, *(f"{folder}/config.json" for folder in folders))]
    for folder in folders:
        stem = f"{folder}/{STEMS[folder]}"
        for forms in (
            [f"{stem}.safetensors"],
            [f"{stem}.safetensors.index.json", f"{stem}-*-of-*.safetensors"],
            [f"{stem}.fp16.safetensors"],
            [f"{folder}/*.bin"],
        ):
            if found := [path for path in files if any(fnmatch(path, form) for form in forms)]:
                wanted += found
                break
        else:
            raise CheckpointError(
                f"{name!r} holds no weights in {folder}/; choose another model, or a single file of it."
            )
    if not NETWORKS & set(folders):
        single = [path for path in files if "/" not in path and path.endswith(".safetensors")]
        also = f" It has single files: {', '.join(single)}; download one and give its path." if single else ""
        raise CheckpointError(
            f"{name!r} is not a diffusers folder: it has none of {', '.join(sorted(NETWORKS))}.{also}"
        )
    return wanted


def _cached(name: str) -> Path | None:
    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def _missing(folder: Path | None) -> list[str]:
    """The files without which a snapshot cannot be loaded, by their usual names; of no snapshot: of a usual model."""
    if folder is None or not (folder / ALWAYS[0]).is_file():
        wanted = list(USUAL)
    else:
        index = read_json(folder / ALWAYS[0])
        wanted = [each for each in STEMS if each in index] or list(USUAL)
    names = [*ALWAYS, *(f"{each}/config.json" for each in wanted)]
    missing = [name for name in names if folder is None or not (folder / name).is_file()]
    for each in wanted:
        here = folder.glob(f"{each}/*") if folder else ()
        if not any(file.suffix in (".safetensors", ".bin") for file in here):
            missing.append(f"{each}/{STEMS[each]}.safetensors")
    return missing


def _where_to_put(name: str, missing: list[str], cached: Path | None, error: Exception) -> str:
    folder = Path.cwd() / name
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    cache = f" (the cache at {cached} holds the rest of them)" if cached is not None else ""
    return (
        f"{name!r} is not in this computer's cache, and could not be fetched from the hub ({reason}). Needed are "
        f"{', '.join(missing)}{cache}. On a computer with a network: `hf download {name} {' '.join(missing)} "
        f"--local-dir {name}`. Put them under the same names in {folder}, and start again here; or give the folder "
        "that you put them in."
    )
