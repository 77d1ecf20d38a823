"""Many processes around a model that knows of none: wrapped from outside, so the networks stay as they are read.

Two ways. **DDP** keeps the whole model in every process and averages the gradients (Li et al. 2020). **FSDP2** keeps a
share of every tensor in each process and gathers a stage's weights only while it computes (Zhao et al. 2023; ZeRO stage
3 of Rajbhandari et al. 2020): for models, or GPUs, where weights, moments and averages do not fit. Both give the same
numbers as one process with the whole batch, to rounding.
"""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ldm_edu.models.unet import UNet
from ldm_edu.nn.attention import SpatialTransformer
from ldm_edu.nn.resnet import ResBlock

Way = Literal["ddp", "fsdp"]
Precision = Literal["bf16", "fp32"]


def parallelize(
    model: nn.Module, way: Way, device: torch.device, precision: Precision, *, per_node: int = 1
) -> nn.Module:
    """The model as it is to be called by each process; the model itself where there is only one.

    Parameters
    ----------
    way
        "ddp" or "fsdp". The second changes the parameters of ``model`` in place: make the optimizer afterwards.
    precision
        under "fsdp" the weights are gathered in bfloat16 for "bf16": half the traffic. The shares, and the sums of the
        gradients, stay float32.
    per_node
        processes on one machine. With several machines FSDP shards within each and repeats across them: what is
        gathered in every stage stays on the machine's own fast links.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    if way == "ddp":
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    if not isinstance(model, UNet):
        raise ValueError(f"--parallel fsdp shares out U-Nets only, not a {type(model).__name__}; take --parallel ddp")
    shard(model, _mesh(device, per_node), precision)
    return model


def shard(model: UNet, mesh: DeviceMesh, precision: Precision) -> None:
    """Share a U-Net out over a mesh, in place; a unit is what is gathered at once.

    The first unit is what the forward pass computes before the levels: time embeddings and the keys and values of the
    text. They are parts of the stages, but are called outside them, so they stand by themselves and stay gathered.

    What the model is called with stays as it is: in bfloat16 the times 997 and 999 would be the same number.
    """
    dtype = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    before: list[nn.Module] = [model.time_mlp, *([model.vector_mlp] if model.vector_mlp is not None else [])]
    for stage in model.stages():
        if stage.res.time_proj is not None:
            before.append(stage.res.time_proj)
        for layer in stage.transformer.layers if stage.transformer is not None else ():
            if layer.cross_attention is not None:
                before += [layer.cross_attention.to_k, layer.cross_attention.to_v]  # type: ignore[list-item, union-attr]
    fully_shard(before, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for stage in model.stages():
        fully_shard(stage, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=dataclasses.replace(policy, cast_forward_inputs=False))


def _mesh(device: torch.device, per_node: int) -> DeviceMesh:
    world = dist.get_world_size()
    if per_node in (1, world) or world % per_node:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (world // per_node, per_node), mesh_dim_names=("repeat", "shard"))


def gathering_gradients(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Backward passes under it add to the gradients; only the ``last`` of a step exchanges them between processes."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def checkpoint_blocks(model: nn.Module) -> None:
    """Compute the inside of every residual block and transformer a second time in the backward pass (Chen et al. 2016).

    Only each block's input is kept: about a third more computing for a fraction of the memory, and the same gradients.
    Names and weights of the model do not change.
    """
    for block in model.modules():
        if isinstance(block, ResBlock | SpatialTransformer):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def local(tensor: Tensor) -> Tensor:
    """This process's share of a sharded tensor; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def total(values: Tensor) -> Tensor:
    """The sum over all processes, known to each."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def wait() -> None:
    """Until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def patient_wait() -> Callable[[], None]:
    """A `wait` for work of hours, such as filling a cache; all processes make it together, before that work.

    Other waits end in an error after minutes, so that a run whose processes have lost one another does not hang.
    """
    if not dist.is_initialized():
        return lambda: None
    group = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    return lambda: dist.barrier(group=group)


def is_main() -> bool:
    """Whether this process writes what only one may write."""
    return not dist.is_initialized() or dist.get_rank() == 0
