"""Which kind of number a processor multiplies fastest: 16 bits where it has instructions for them, else 32."""

import functools

import torch

IN_HARDWARE = ("avx512_bf16", "amx_bf16", "bf16")  # what processors call it: Intel and AMD, Intel, ARM


@functools.cache
def quick_bfloat16(device_type: str = "cpu") -> bool:
    """Whether networks run faster in bfloat16 than in float32 on such a device.

    Every GPU that PyTorch supports is taken to. A CPU without instructions for it imitates them: the training step of
    the ``emoji`` U-Net takes 3.6 times as long then as in float32 (an Intel Xeon with AVX-512 and no more).
    """
    if device_type != "cpu":
        return True
    find = getattr(torch.cpu, "get_capabilities", None)  # newer than torch 2.11
    known = find() if find else {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    return torch.backends.mkldnn.is_available() and any(known.get(name, False) for name in IN_HARDWARE)


def autocast(device: torch.device | str) -> torch.autocast:
    """The context in which the heavy parts of a network compute in bfloat16, where that is quicker.

    Never in float16: its range needs loss scaling.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=quick_bfloat16(kind))
