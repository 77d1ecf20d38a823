"""What a file of weights is that holds no model which is read here: by its name, so that a reader can act on it."""

from collections.abc import Mapping

from ldm_edu.weights.errors import printable
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


def kind_of(tensors: Mapping[str, Stored]) -> str:
    """What a file holds, by names that only one kind of model has."""
    for mark, kind in _MARKS.items():
        if any(mark in name for name in tensors):
            return kind
    for name, network in _NETWORKS.items():
        if name in tensors:
            return f"a single network, {network}; give the folder of the whole model"
    conv_in = tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    widths = {stored.shape[-1] for name, stored in tensors.items() if name.endswith("attn2.to_k.weight")}
    if conv_in is not None and len(conv_in.shape) == 4:
        texts = f" and text states of width {max(widths)}" if widths else ""
        return f"a U-Net that reads {conv_in.shape[1]} channels{texts}, which no model that is known here does"
    if widths:
        return f"a U-Net for text states of width {max(widths)}, which no model that is known here has"
    first = printable(min(tensors, default="nothing"))
    return f"{len(tensors)} tensors of a layout that is not known here, the first of them {first}"
