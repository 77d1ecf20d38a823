"""Where networks run when nobody says where."""

import torch


def default_device() -> torch.device:
    """The accelerator that PyTorch finds, a GPU of NVIDIA, AMD, Intel or Apple; else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What a device calls itself, or its type where PyTorch does not know."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
