"""Private names of torch that are used because there is no public equivalent. Tested with torch 2.13.

They serve these purposes. Hooks: a step or a forward without observers may take a shortcut, so hooks must be detected.
Non-persistent buffers: torch exposes them in no other way. Base classes of norms: the public classes are leaves. The
write counter of a tensor: a cache derived from the tensor may be out of date. Parts of layers and losses. Optimisers:
the import of the compiler is avoided. CUDA graphs: a failed capture is cleaned up.
Process groups: the timeout of a group of GPUs that is not the default group.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import wraps
from operator import attrgetter
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, _compile, nn, optim
from torch.autograd import profiler
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as RunningNorm
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from incr_core.errors import IncrError

__all__ = [
    "BatchNorm",
    "RunningNorm",
    "ToldOfChanges",
    "failed_capture_ended",
    "forward_is_hooked",
    "gradient_is_hooked",
    "has_pre_hook",
    "is_persistent",
    "is_stand_in",
    "log_softmax_gradient",
    "module_is_hooked",
    "nccl_group",
    "own_buffers",
    "step_is_watched",
    "tree_flatten",
    "tree_leaves",
    "tree_unflatten",
    "without_forward_hooks",
    "writes",
]

TESTED = "2.13"

writes: Callable[[Tensor], int] = attrgetter("_version")
"""Number of in-place writes to a tensor, as torch counts it for autograd."""

log_softmax_gradient: Callable[[Tensor, Tensor, int, torch.dtype], Tensor] = torch._log_softmax_backward_data
"""Map the gradient with respect to log softmax(x), log softmax(x), its dim and x's dtype to the gradient by x."""


class ToldOfChanges(nn.Module):
    """Base class of modules with caches derived from their tensors, which move, conversion and loading invalidate."""

    def tensors_changed(self) -> None:
        """Discard the derived caches."""

    def _apply(self, function: Any, recurse: bool = True) -> Self:
        self.tensors_changed()
        moved: Self = super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        return moved

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.tensors_changed()
        super()._load_from_state_dict(*arguments)


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own buffers, without those of submodules. The dict is the live one and may be cleared."""
    return module._buffers


def is_stand_in(tensor: Tensor) -> bool:
    """Whether a tensor is a proxy inside torch.func, torch.export and the like, and must not be kept."""
    return type(tensor) is not Tensor or bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def forward_is_hooked(module: nn.Module) -> bool:
    """Whether a module has forward hooks or an instance-level forward.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> handle = layer.register_forward_hook(print)
        >>> forward_is_hooked(layer), forward_is_hooked(nn.Linear(1, 1))
        (True, False)
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def module_is_hooked(module: nn.Module) -> bool:
    """Whether hooks observe the forward or backward of this module or of all modules."""
    everywhere: bool = torch_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return bool(forward_is_hooked(module) or module._backward_hooks or module._backward_pre_hooks or everywhere)


def gradient_is_hooked(weight: Tensor) -> bool:
    """Whether the gradient of a weight has hooks."""
    return bool(weight._backward_hooks or weight._post_accumulate_grad_hooks)


def has_pre_hook(module: nn.Module, hook: Callable[..., Any]) -> bool:
    """Whether this hook is registered before the module's forward."""
    return hook in module._forward_pre_hooks.values()


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Whether a module's own buffer is part of its state, i.e. not registered with `persistent=False`.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> norm.register_buffer("mask", torch.ones(1), persistent=False)
        >>> is_persistent(norm, "running_mean"), is_persistent(norm, "mask")
        (True, False)
    """
    return buffer not in module._non_persistent_buffers_set


@contextmanager
def failed_capture_ended(device: torch.device, pool: Any) -> Iterator[None]:
    """Clean up if the capture of a CUDA graph into a memory pool (`torch.cuda.graph_pool_handle`) fails.

    After a failure torch's generator would stay in capture mode and keep its memory; both are released.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    before = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(before)
        with suppress(RuntimeError):  # it is already released
            torch._C._cuda_endAllocateToPool(index, pool)
        raise


def nccl_group(store: Any, rank: int, size: int, patience: timedelta) -> Any:
    """Return a process group over NCCL with the given timeout, beside the default group."""
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = patience
    return dist.ProcessGroupNCCL(store, rank, size, options)


def step_is_watched(optimizer: Optimizer) -> bool:
    """Whether a profiler runs, or a hook is registered on the steps of this optimiser or of all optimisers."""
    return bool(
        profiler._is_profiler_enabled
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )


@contextmanager
def without_forward_hooks(parts: Sequence[nn.Module], owner: str) -> Iterator[None]:
    """Disable the forward hooks of these modules that are defined in modules whose name begins with `owner`."""
    kept = [(part._forward_pre_hooks, part._forward_hooks) for part in parts]

    def others(hooks: Any) -> Any:
        return OrderedDict((key, hook) for key, hook in hooks.items() if not hook.__module__.startswith(owner))

    try:
        for part in parts:
            part._forward_pre_hooks, part._forward_hooks = map(others, (part._forward_pre_hooks, part._forward_hooks))
        yield
    finally:
        for part, (before, after) in zip(parts, kept, strict=True):
            part._forward_pre_hooks, part._forward_hooks = before, after


def _spare_compiler() -> None:
    """Avoid the import of torch's compiler by optimisers while it is not imported.

    Torch excludes some optimiser methods from compilation, and imports the compiler for that at the first call. This
    takes over a second in every process that learns, thus in every Ray worker and for every message of a Flower client.
    As long as the compiler is not imported, nothing is compiled and the exclusion is unnecessary. Once it is imported,
    torch's own methods run. If a version of torch implements the exclusion differently, its methods are left unchanged.
    """
    keeps_out = _compile._disable_dynamo(lambda: None).__code__
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        method = vars(Optimizer)[name]
        if method.__code__ is keeps_out:
            setattr(Optimizer, name, _spared(method, method.__wrapped__))
    steps = torch_optimizer._use_grad_for_differentiable(lambda: None).__code__
    for kind in vars(optim).values():
        step = vars(kind).get("step") if isinstance(kind, type) and issubclass(kind, Optimizer) else None
        if step is not None and step.__code__ is steps:
            kind.step = _spared(step, _without_gradient(step.__wrapped__))


def _spared(method: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a wrapper that calls `plain` while the compiler is not imported, and `method` afterwards."""

    @wraps(plain)
    def call(*arguments: Any, **named: Any) -> Any:
        return (method if "torch._dynamo" in sys.modules else plain)(*arguments, **named)

    return call


def _without_gradient(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimiser step without gradient tracking, unless the optimiser is differentiable."""

    @wraps(step)
    def call(optimizer: Optimizer, *arguments: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer, *arguments, **named)

    return call


def _check() -> None:
    """Raise an IncrError if this version of torch lacks a private name that is used here."""
    layer = nn.BatchNorm1d(1)
    needed: list[tuple[object, str]] = [
        (layer, "_forward_hooks"),
        (layer, "_forward_pre_hooks"),
        (layer, "_backward_hooks"),
        (layer, "_backward_pre_hooks"),
        (layer, "_non_persistent_buffers_set"),
        (layer, "_buffers"),
        (layer, "_apply"),
        (layer, "_load_from_state_dict"),
        (nn.Conv2d, "_conv_forward"),
        (torch, "_log_softmax_backward_data"),
        (torch._C._functorch, "is_functorch_wrapped_tensor"),
        (torch.zeros(1), "_version"),
        (torch_module, "_has_any_global_hook"),
        (torch.zeros(1), "_backward_hooks"),
        (torch.zeros(1), "_post_accumulate_grad_hooks"),
        (profiler, "_is_profiler_enabled"),
        (torch_optimizer, "_global_optimizer_pre_hooks"),
        (torch_optimizer, "_global_optimizer_post_hooks"),
        (torch_optimizer, "_use_grad_for_differentiable"),
        (_compile, "_disable_dynamo"),
    ]
    if dist.is_nccl_available():
        needed.append((dist.ProcessGroupNCCL.Options, "_timeout"))
    missing = [name for holder, name in needed if not hasattr(holder, name)]
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    missing += [name for name in hooks if name not in Optimizer.__annotations__]
    if missing:
        raise IncrError(
            f"torch {torch.__version__}: expected its private names {', '.join(missing)}, found none; "
            f"incr was tested with torch {TESTED}: pip install 'torch=={TESTED}.*'"
        )


_check()
_spare_compiler()
