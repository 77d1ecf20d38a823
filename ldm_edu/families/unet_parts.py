"""The networks of the families that are a U-Net, an autoencoder and one text encoder, and their diffusers folders."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ldm_edu.conditioners.conditioner import Conditioner
from ldm_edu.conditioners.nothing import Unconditional
from ldm_edu.conditioners.text import TextConditioner
from ldm_edu.config import Beside, ClassesConfig, Prediction, TextConfig, UNetPreset
from ldm_edu.families.family import Folder, Networks, Part
from ldm_edu.layouts.autoencoder import AUTOENCODER
from ldm_edu.layouts.classes import CLASSES
from ldm_edu.layouts.clip import TEXT
from ldm_edu.layouts.pair import Json, Layout
from ldm_edu.layouts.schedule import read_schedule, write_schedule
from ldm_edu.layouts.settings import refuse
from ldm_edu.layouts.unet import UNET, read_unet
from ldm_edu.tokenizer import Tokenizer
from ldm_edu.weights.errors import CheckpointError
from ldm_edu.weights.mapped import WeightFile

_NAMES: dict[str, Prediction] = {
    "eps": "eps", "epsilon": "eps", "v": "v", "v_prediction": "v", "v-prediction": "v", "x0": "x0", "sample": "x0",
}  # fmt: skip
_PARAMETERIZATION = re.compile(rb"""^\s*parameterization\s*:\s*["']?(\w+)""", re.MULTILINE)
_MAX_YAML = 2**20  # bytes of a yaml that are looked at

Pipelines = Mapping[str, Beside]  # diffusers' classes: what the U-Net of each reads besides the sample


def unet_part(prefix: str = "model.diffusion_model.") -> Part:
    """The U-Net."""
    return Part("unet", "U-Net", UNET, lambda preset: preset.unet, "unet", prefix=prefix)


def autoencoder_part(prefix: str = "first_stage_model.") -> Part:
    """The autoencoder."""
    config = lambda preset: preset.autoencoder  # noqa: E731
    return Part("autoencoder", "autoencoder", AUTOENCODER, config, "vae", prefix=prefix, option="vae")


def text_part(prefix: str, layout: Layout = TEXT, other_prefixes: tuple[str, ...] = ()) -> Part:
    """The text encoder."""
    config = lambda preset: preset.text  # noqa: E731
    return Part("text", "text encoder", layout, config, "text_encoder", "model", prefix, other_prefixes, "text")


def classes_part() -> Part:
    """The table of classes."""
    return Part("classes", "classes", CLASSES, _classes)


def _classes(preset: UNetPreset) -> ClassesConfig | None:
    if preset.classes is None:
        return None
    if preset.unet.vector_dim is None:
        raise ValueError(f"{preset.name} has classes={preset.classes} but its U-Net has no vector_dim; set both")
    return ClassesConfig(preset.classes, preset.unet.vector_dim)


def tokenizer_of(config: TextConfig) -> Tokenizer:
    """The tokenizer whose tokens a text encoder reads."""
    return Tokenizer(config.vocab, config.length, config.pad)


def conditioner(preset: UNetPreset, networks: Networks) -> Conditioner:
    """Prompts to a text encoder, numbers to a table of classes, or nothing."""
    if preset.text is not None:
        return TextConditioner(tokenizer_of(preset.text), networks["text"])  # type: ignore[arg-type]
    return networks.get("classes", Unconditional())  # type: ignore[return-value]


def read_unet_folder(
    folder: Folder, family: str, pipelines: Pipelines, known: tuple[UNetPreset, ...], text_layout: Layout = TEXT
) -> UNetPreset:
    """The preset that a folder's configs describe: one of ``known`` by its name, another by the folder's.

    Raises
    ------
    CheckpointError
        if a config is missing or damaged, or asks for what the networks here do not do.
    """
    named = folder.pipeline in pipelines
    beside = pipelines[folder.pipeline] if named else folder.read("unet/config.json", _beside)
    unet = folder.read("unet/config.json", partial(read_unet, beside=beside))
    autoencoder = folder.read("vae/config.json", AUTOENCODER.read)
    text = folder.read("text_encoder/config.json", text_layout.read)
    schedule, prediction = folder.read("scheduler/scheduler_config.json", read_schedule)
    side = folder.read("unet/config.json", lambda values, _: values.get("sample_size"))
    size = (side if isinstance(side, int) and side > 0 else 64) * autoencoder.factor
    found = {"size": size, "schedule": schedule, "prediction": prediction}
    same = [preset for preset in known if (preset.unet, preset.autoencoder, preset.text) == (unet, autoencoder, text)]
    for preset in sorted(same, key=lambda preset: preset.prediction != prediction):  # networks alone may not tell
        return dataclasses.replace(preset, **found)
    return UNetPreset(family=family, name=folder.name, unet=unet, autoencoder=autoencoder, text=text, **found)


def has_exact_gelu(folder: Folder) -> bool:
    """Whether a folder's text encoder has the exact GELU of OpenCLIP; CLIP's own has the quick one, as by default."""
    return bool(folder.read("text_encoder/config.json", lambda values, _: values.get("hidden_act") == "gelu"))


@dataclass(frozen=True)
class UNetShapes:
    """What the shapes of a U-Net's tensors say, in the one file of the original; None: no such tensor is there."""

    channels: int | None  # that its first layer reads
    contexts: frozenset[int]  # widths of the text states that it attends to
    vector: int | None  # width of the vector that is added to the time embedding


def unet_shapes(file: WeightFile) -> UNetShapes | None:
    """The shapes of the U-Net in a single file, of its live or its averaged copy; None without any."""
    shapes = {  # by names without dots, as the averaged copy has them
        name.removeprefix("model_ema.").removeprefix("model.").replace(".", ""): stored.shape
        for name, stored in file.tensors.items()
        if name.startswith(("model.diffusion_model.", "model_ema.diffusion_model"))
    }
    if not any("input_blocks" in name for name in shapes):
        return None
    first, vector = (
        shapes.get("diffusion_modelinput_blocks00weight", ()),
        shapes.get("diffusion_modellabel_emb00weight"),
    )
    return UNetShapes(
        channels=first[1] if len(first) == 4 else None,
        contexts=frozenset(shape[-1] for name, shape in shapes.items() if name.endswith("attn2to_kweight")),
        vector=vector[-1] if vector else None,
    )


def told_prediction(file: WeightFile) -> tuple[Prediction, str] | None:
    """What a single file says its network predicts, and where it says so; None if it does not.

    Three places are in use: a tensor that only marks the file, the header of the modelspec standard, and the original's
    yaml of the same name in the same folder.
    """
    if "v_pred" in file.tensors:
        return "v", "the file is marked with v_pred"
    if (prediction := _NAMES.get(file.metadata.get("modelspec.prediction_type", ""))) is not None:
        return prediction, "its header says so"
    for suffix in (".yaml", ".yml"):
        place = file.path.with_suffix(suffix)
        if place.is_file():
            with open(place, "rb") as yaml:
                found = _PARAMETERIZATION.search(yaml.read(_MAX_YAML))
            if found and (prediction := _NAMES.get(found[1].decode())) is not None:
                return prediction, f"{place.name} says so"
    return None


def note_of(prediction: Prediction, why: str) -> str:
    """The sentence on what a network is taken to predict."""
    return f"taken to predict {prediction}: {why}; --prediction says otherwise"


def _beside(unet: Json, where: str) -> Beside:
    """What the U-Net of a folder without an index reads besides the sample: its channels are all there is to tell."""
    extra, channels = unet.get("in_channels", 4) - unet.get("out_channels", 4), unet.get("out_channels", 4)
    kinds: dict[int, Beside] = {0: "nothing", 1: "depth", channels: "picture", channels + 1: "mask"}
    if extra not in kinds:
        refuse(where, "in_channels", unet.get("in_channels"))
    return kinds[extra]


def write_unet_folder(preset: UNetPreset, pipelines: Pipelines) -> dict[str, Json]:
    """The configs of a diffusers folder that describe a preset, by their paths in it.

    Raises
    ------
    CheckpointError
        if the preset has no such description: it diffuses pixels, or reads no prompts, or is a rectified flow.
    """
    if preset.autoencoder is None or preset.text is None:
        raise CheckpointError(
            f"{preset.name} has no autoencoder or no text encoder, and a diffusers folder of Stable Diffusion needs "
            "both; keep this model in ldm-edu's own layout."
        )
    names = [name for name, beside in pipelines.items() if beside == preset.beside]
    if not names:
        raise CheckpointError(f"diffusers has no pipeline for a U-Net that reads {preset.beside!r} besides the sample.")
    schedule = write_schedule(preset)
    index: Json = {
        "_class_name": names[0],
        "_diffusers_version": "0.6.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", schedule["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return {
        "model_index.json": index,
        "unet/config.json": UNET.write(preset.unet) | {"sample_size": preset.size // preset.autoencoder.factor},
        "vae/config.json": AUTOENCODER.write(preset.autoencoder) | {"sample_size": preset.size},
        "text_encoder/config.json": TEXT.write(preset.text),
        "scheduler/scheduler_config.json": schedule,
    }


def tokenizers(preset: UNetPreset) -> dict[str, Tokenizer]:
    """The tokenizer of a folder, by the name of its own folder there."""
    return {} if preset.text is None else {"tokenizer": tokenizer_of(preset.text)}
