"""What a file of weights is that holds no model which is read here: by its name, so that a reader can act on it."""

from collections.abc import Mapping

from ldm_edu.config import Preset
from ldm_edu.weights.mapped import Stored

_MARKS = {  # part of a name: what has such names; the first that fits decides
    "lora_": "a LoRA, which changes a model and is none",
    ".lora": "a LoRA, which changes a model and is none",
    "conditioner.embedders.1.": "Stable Diffusion XL",
    "conditioner.": "Stable Diffusion XL, or its refiner (it has conditioner.embedders)",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "FLUX",
    "cond_stage_model.model.": "Stable Diffusion 2.x",
    "model.diffusion_model.label_emb.": "Stable Diffusion XL",
    "control_model.": "a ControlNet",
    "controlnet_cond_embedding.": "a ControlNet",
}
_NETWORKS = {  # a tensor that only this network has
    "down_blocks.0.resnets.0.time_emb_proj.weight": "diffusers' U-Net",
    "encoder.down_blocks.0.resnets.0.conv1.weight": "diffusers' autoencoder",
    "text_model.embeddings.token_embedding.weight": "the text encoder",
    "embeddings.token_embedding.weight": "the text encoder",
    "down.0.stages.0.res.conv1.weight": "our U-Net",
}


def kind_of(tensors: Mapping[str, Stored], known: Preset | None = None) -> str | None:
    """What a file holds, by names that only one kind of model has."""
    for mark, kind in _MARKS.items():
        if any(mark in name for name in tensors):
            return kind
    for name, network in _NETWORKS.items():
        if name in tensors:
            return f"a single network, {network}; give the folder of the whole model"
    if known is not None:
        return None
    first = min(tensors, default="nothing")
    return f"{len(tensors)} tensors of a layout that is not known here, the first of them {first}"
