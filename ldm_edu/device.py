"""Where networks run when nobody says where."""

import torch


def default_device(*, float64: bool = False) -> torch.device:
    """The accelerator that PyTorch finds, a GPU of NVIDIA, AMD, Intel or Apple; else the CPU.

    Parameters
    ----------
    float64
        whether the work needs numbers of 64 bits there, as the levels in a training step; Apple's GPU has none.
    """
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return torch.device("cpu") if float64 and found.type == "mps" else found


def device_name(device: torch.device) -> str:
    """What a device calls itself, or its type where PyTorch does not know."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
