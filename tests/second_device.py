"""A second device on a machine that has only a CPU: tensors that say they are elsewhere, and refuse to meet the rest.

Its arithmetic is the CPU's, so results can be compared; what it adds are the rules of a GPU. Two tensors of one
operation must be on the same device, but for plain 0-d numbers and for indices; random numbers are drawn there by a
generator that is there; and a number that Python looks at must be fetched, for which a GPU has to finish first: such
waits are counted.

Put it on with `install`, once in a process, since PyTorch cannot forget a device again.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "elsewhere"
GO_BETWEEN = {"copy_", "_to_copy"}  # what carries numbers from one device to another
LOOKS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}  # what waits for the result
READS_INDICES = {"index", "index_put_", "index_put", "_unsafe_index"}


def install() -> None:
    """Make `torch.device(NAME)` known to PyTorch."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    module = getattr(torch, NAME)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    global _autocast  # which changes no type there: numbers can be compared
    _autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    _autocast.fallback(torch.library.fallthrough_kernel)
    torch.inference_mode = torch.no_grad  # under which operators come by in fewer, larger pieces
    save = safetensors.torch.save_file  # which reads a GPU's memory by itself, but not what only looks like one
    safetensors.torch.save_file = lambda tensors, *args, **kwargs: save(
        {name: tensor.cpu() for name, tensor in tensors.items()}, *args, **kwargs
    )


@dataclass(frozen=True)
class Launch:
    """An operator with the CPU's tensors that compute for it."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    out: Any

    def again(self) -> None:
        """Do it again, to what the same tensors hold now, and put the result into the same memory."""
        places = {leaf.untyped_storage().data_ptr() for leaf in tensors_of((self.args, self.kwargs))}
        kept = tensors_of(self.out)
        if self.func._schema.is_mutable:
            self.func(*self.args, **self.kwargs)
        elif not any(leaf.untyped_storage().data_ptr() in places for leaf in kept):  # a view needs no launch
            for place, new in zip(kept, tensors_of(self.func(*self.args, **self.kwargs)), strict=True):
                place.copy_(new)


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in arguments or results of any nesting."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Away(Tensor):
    """A tensor on the second device; ``held`` is the tensor that computes for it."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Away":
        """Wrap a tensor of the CPU's."""
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.held})"

    @property
    def is_cuda(self) -> bool:
        """It is to be treated as a GPU's."""
        return True

    def tolist(self) -> Any:
        """The numbers, fetched."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside of the mode: the same rules, and nothing counted."""
        return compute(func, args, kwargs or {}, SecondDevice())


class SecondDevice(TorchDispatchMode):
    """While it is on, tensors can be made on and moved to the second device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()  # what made the CPU wait for the second device, by the operator's name
        self.float64 = True  # whether it has numbers of 64 bits; Apple's GPU has none
        self.tape: list[Launch] | None = None  # what is launched is written down here, while somebody records

    def __enter__(self) -> "SecondDevice":
        """Put it on; `torch.tensor` makes its tensors on the CPU then, and sends them."""
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Take it off."""
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.before)

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operator of PyTorch comes by here."""
        return compute(func, args, kwargs or {}, self)


def compute(func: Any, args: Any, kwargs: dict[str, Any], mode: SecondDevice) -> Any:
    """One operator: check who takes part, compute on the CPU, and say where the result is."""
    name = func.overloadpacket.__name__
    if name == "_fused_sdp_choice":
        return int(SDPBackend.MATH.value)
    tensors = tensors_of((args, kwargs))
    away = [isinstance(tensor, Away) for tensor in tensors]
    asked = kwargs.get("device")
    target = any(away) if asked is None else torch.device(asked).type == NAME
    if name not in GO_BETWEEN:
        check(func, name, args, tensors, away)
    if kwargs.get("generator") is not None and target:
        raise RuntimeError(f"{name}: a generator of the CPU's cannot draw on {NAME}")
    if any(away) or target:
        note(name, tensors, any(away), target, mode)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map_only(Away, lambda tensor: tensor.held, (args, kwargs))
    out = func(*plain_args, **plain_kwargs)
    if not target:
        return out
    if not mode.float64 and any(tensor.dtype == torch.float64 for tensor in tensors_of(out)):
        raise TypeError(f"{name}: a tensor of float64 on {NAME}, which has none")
    if mode.tape is not None:
        mode.tape.append(Launch(func, plain_args, plain_kwargs, out))
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, Away, out))


def note(name: str, tensors: list[Tensor], source: bool, target: bool, mode: SecondDevice) -> None:
    """Count what a GPU and its CPU have to wait for each other for; `RuntimeError` while launches are recorded."""
    found = None
    if name in LOOKS:
        found = name
    elif name == "_to_copy" and source != target:
        found = "to the CPU" if source else "from the CPU"
    elif name in READS_INDICES and any(tensor.dtype == torch.bool for tensor in tensors[1:]):
        found = "index by a mask"
    if found is not None:
        if mode.tape is not None:
            raise RuntimeError(f"{found}: a GPU cannot do that while its launches are recorded")
        mode.waits[found] += 1


def check(func: Any, name: str, args: Any, tensors: list[Tensor], away: list[bool]) -> None:
    """Raise `RuntimeError` where a GPU would."""
    if not any(away) or all(away):
        return
    here = [tensor for tensor, is_away in zip(tensors, away, strict=True) if not is_away]
    if name in READS_INDICES:
        indices = {id(leaf) for leaf in tree_leaves(args[1])}
        if isinstance(args[0], Away) and all(id(tensor) in indices or not tensor.dim() for tensor in here):
            return
    elif torch.Tag.pointwise in func.tags and not any(tensor.dim() for tensor in here):
        return
    raise RuntimeError(
        f"{name}: tensors on two devices, {[f'{tuple(t.shape)} {t.device}' for t in tensors]}; a GPU refuses that"
    )
