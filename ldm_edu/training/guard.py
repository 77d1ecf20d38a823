"""What a training may write where: it replaces no other model, goes on with no other run, and writes alone."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ldm_edu.checkpoint.io import has_part, load_preset
from ldm_edu.classifiers import CONFIG_FILE, KIND
from ldm_edu.config import ClassifierConfig, Preset, to_dict
from ldm_edu.files import atomic_write_text, read_json, remove_leftovers
from ldm_edu.training.fingerprints import fingerprint
from ldm_edu.training.parts import same_model
from ldm_edu.training.sharded import remove_halves, whole_states
from ldm_edu.training.state import STATE
from ldm_edu.weights.errors import CheckpointError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SETTINGS = "run.json"  # beside a run's state
LOCK = ".lock"
ANOTHER = "give another --out"


def refuse_another_model(folder: Path, preset: Preset, *, but: tuple[str, ...] = ()) -> None:
    """Leave a folder alone that holds a model of another preset, or a classifier.

    Parameters
    ----------
    but
        fields of the preset that may differ.

    Raises
    ------
    CheckpointError
        if it does, or if what it holds cannot be told.
    """
    found = _config(folder)
    if found is None:
        return
    if found.get("kind") == KIND:
        raise CheckpointError(f"{folder} holds a classifier, not a model of the preset {preset.name}; {ANOTHER}")
    names = tuple(field.name for field in dataclasses.fields(preset) if field.name not in but)
    same_model(load_preset(folder), preset, folder, parts=names)


def refuse_another_classifier(folder: Path, config: ClassifierConfig) -> None:
    """Leave a folder alone that holds another classifier, or no classifier but a model.

    Raises
    ------
    CheckpointError
        if it does, or if what it holds cannot be told.
    """
    found = _config(folder)
    if found is None:
        return
    if found.get("kind") != KIND:
        raise CheckpointError(f"{folder} holds a model ({found.get('name')}), not a classifier; {ANOTHER}")
    if found.get("config") != _plain(to_dict(config)):
        raise CheckpointError(f"{folder} holds a classifier of another size; give its --preset, or another --out")


def refuse_under_unet(folder: Path, network: str, what: str) -> None:
    """Leave the parts alone that a finished U-Net was trained on, unless they were trained here and are resumed.

    Parameters
    ----------
    network
        what is to be trained: the name of its run's folder.
    what
        the part that would be replaced, for the message.

    Raises
    ------
    CheckpointError
        if there is such a U-Net.
    """
    if has_part(folder, "unet") and not _begun(folder / "training" / network, with_data=False):
        raise CheckpointError(f"the U-Net in {folder} was trained on the {what} that is there; {ANOTHER}")


def settings(recipe: "DataclassInstance", **more: object) -> dict[str, Any]:
    """What decides the curve of a run: its recipe but for the number of steps, and ``more``."""
    values = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "steps"}
    return _plain(values | more)


def origin(start: str | Path | None, folder: Path, model: nn.Module) -> str:
    """What a U-Net's weights were when its training began, in a few words that differ where they did.

    Parameters
    ----------
    start
        the checkpoint that ``model`` was filled from; None: from none.
    folder
        where the trained weights go. If they started from there, they are not the same any more when the run is
        resumed, so the words do not depend on them.
    """
    if start is None:
        return "random weights"
    return "the weights of --out" if Path(start).resolve() == folder.resolve() else f"weights {fingerprint(model)}"


def same_settings(
    state: Path,
    settings: Mapping[str, object],
    *,
    with_data: bool = False,
    may_write: bool = True,
    tell: Callable[[str], object] = lambda sentence: None,
) -> None:
    """Write what decides the curve of a run beside its state; a run that is resumed must have the same.

    A setting that was not written when the run began, by an older version, is taken as it is now.

    Parameters
    ----------
    with_data
        whether it is a run on own pictures, whose state is kept in another way.
    may_write
        False in all processes of a run but one.
    tell
        called with a sentence if an older version began the run and did not note all settings.

    Raises
    ------
    ValueError
        if ``state`` holds a run with other settings, naming them, or one of the other kind.
    SaveError
        if they cannot be written.
    """
    refuse_other_kind(state, with_data=with_data)
    path = state / SETTINGS
    begun = _begun(state, with_data=with_data)
    before = _json(path) if begun and path.exists() else {}
    if changed := [f"{k} was {str(before[k])[:40]}, not {v}" for k, v in settings.items() if before.get(k, v) != v]:
        raise ValueError(
            f"{state} holds a run with other settings: {'; '.join(changed)}. Give the same to resume it, or "
            "another --out to start anew"
        )
    if may_write and begun and (new := [name for name in settings if name not in before]):
        tell(f"{state} was begun by an older version, which did not note {', '.join(new)}; taken as it is now")
    if may_write:
        atomic_write_text(path, json.dumps(settings, indent=1) + "\n")


def refuse_other_kind(state: Path, *, with_data: bool) -> None:
    """A run on own pictures does not go on with one on a preset's, nor the other way round.

    Raises
    ------
    ValueError
        if it would.
    """
    if _begun(state, with_data=not with_data):
        kind = "without" if with_data else "with"
        raise ValueError(f"{state} holds a run {kind} --data; {ANOTHER}, or remove that folder to start anew")


def _begun(state: Path, *, with_data: bool) -> bool:
    """Whether a run has saved a state; on own pictures it is kept in shards."""
    return bool(whole_states(state)) if with_data else (state / STATE).exists()


@contextmanager
def writing(state: Path, *others: Path) -> Iterator[None]:
    """Be the only one who writes to the folder of a run, and remove what killed ones have left half written.

    Parameters
    ----------
    others
        further folders that the run writes to, perhaps with other runs.

    Raises
    ------
    ValueError
        if another process is at it.
    """
    with _locked(state):
        remove_halves(state)
        for folder in (state, *others):
            remove_leftovers(folder)
        yield


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Keep others out of the folder of a run; where files cannot be locked, nobody is kept out.

    The lock is the system's, and goes when the process does, however it ends. The file itself stays.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    state.mkdir(parents=True, exist_ok=True)
    with open(state / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another training is writing to {state}; wait for it, or {ANOTHER}") from error
        except OSError:  # some network file systems have no locks
            pass
        yield


def _config(folder: Path) -> dict[str, Any] | None:
    """What the config of a folder says, whatever it describes; None where there is none."""
    path = folder / CONFIG_FILE
    return _json(path) if path.is_file() else None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"it holds {str(values)[:20]}")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove it if nothing depends on it, or {ANOTHER}"
        ) from error
    return values


def _plain(values: Mapping[str, object]) -> dict[str, Any]:
    """Values as they come back from JSON: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return plain
