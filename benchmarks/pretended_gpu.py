"""A GPU that is only pretended: what runs on it, and where the host would wait for it, without any GPU.

Tensors of cuda are fake (shape, type, device, no content), those of the CPU are real. An operation that mixes
both raises, and so does all that needs a value of the device: the host would have to wait for it.
Used by tests/stages/test_pretended_gpu.py and benchmarks/count.py; torch must be a CUDA build.
"""

from __future__ import annotations

import heapq
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import GraphExecGroup

aten = torch.ops.aten
ROOT = str(Path(__file__).parents[1]) + "/"
_OTHERS = (".venv/", "benchmarks/pretended_gpu.py")
_JOINING = (aten.cat.default, aten.stack.default)  # take no number of the CPU, which others do
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class GPUFault(AssertionError):
    """The host waits for the device, or tensors of both meet in an operation."""


class Wait(NamedTuple):
    """One wait of the host: for which operation, called from which function of the project."""

    operation: str
    place: str


def places() -> Iterator[str]:
    """Functions of the project that are running, as "file:function", the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        file = code.co_filename.removeprefix(ROOT)
        if file != code.co_filename and not file.startswith(_OTHERS):
            yield f"{file}:{code.co_qualname}"
        frame = frame.f_back


class PretendedGPU(TorchDispatchMode):
    """Receives the operations; enter it by `pretended_gpu`.

    may_wait: waits are listed in `waits` instead of raised; a copy to the host then holds zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.backward = Backward()
        self.may_wait = False
        self.waits: list[Wait] = []
        self.messages: Counter[str] = Counter()  # collectives, by name
        self._pinned: set[int] = set()  # storages in page-locked memory

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which the host may wait, as it does when a run is set up or its results are read."""
        before, self.may_wait = self.may_wait, True
        try:
            yield
        finally:
            self.may_wait = before

    def ran(self, func: Any, args: Sequence, kwargs: dict, out: Any) -> None:
        """Called after every operation on the device."""

    def wait(self, operation: str) -> None:
        """List a wait, or raise it."""
        place = next(places(), "")
        if not self.may_wait:
            raise GPUFault(f"the host waits for {operation} in {place}")
        self.waits.append(Wait(operation, place))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten._pin_memory.default:
            return self._pin(args[0])
        if func is aten.is_pinned.default:
            return self._is_pinned(args[0])
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = any(isinstance(x, FakeTensor) for x in tensors)
        if func.namespace == "c10d":
            self._send(func, args, tensors)
        if not on_gpu and torch.device(kwargs.get("device") or "cpu").type != "cuda":
            return func(*args, **kwargs)
        if func in (aten._to_copy.default, aten.copy_.default):
            if (copied := self._copied_to_host(func, args, kwargs)) is not None:
                return copied
        elif any(not isinstance(x, FakeTensor) and x.ndim > 0 for x in tensors) or (
            func in _JOINING and len({x.device.type for x in tensors}) > 1
        ):
            raise GPUFault(f"{func} mixes tensors of the CPU and the GPU in {next(places(), '')}")
        if func in _INDEXING and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self.wait(f"{func} by a mask")
        out = self._run(func, args, kwargs)
        if func.namespace != "prim":
            self.ran(func, args, kwargs, out)
        return out

    def _run(self, func: Any, args: Sequence, kwargs: dict) -> Any:
        with self.fake:
            try:
                if stand_in := _STAND_INS.get(func._schema.name):
                    return stand_in(*args)
                return func(*args, **kwargs)
            except DataDependentOutputException:
                self.wait(str(func))
                return 0
            except DynamicOutputShapeException:
                raise GPUFault(f"the host waits for {func} in {next(places(), '')}") from None

    def _pin(self, x: Tensor) -> Tensor:
        pinned = x.clone()
        storage = pinned.untyped_storage()
        self._pinned.add(storage._cdata)
        weakref.finalize(storage, self._pinned.discard, storage._cdata)
        return pinned

    def _send(self, func: Any, args: Sequence, tensors: Sequence[Tensor]) -> None:
        """Count a message between the GPUs of several processes; others go between CPUs."""
        boxed = [x for x in args if isinstance(x, torch.ScriptObject) and "ProcessGroup" in str(x._type())]
        if dist.ProcessGroup.unbox(boxed[0]).group_name != dist.group.WORLD.group_name:
            return
        if not all(isinstance(x, FakeTensor) for x in tensors):
            raise GPUFault(f"{func} of a tensor of the CPU between GPUs in {next(places(), '')}")
        self.messages[func._schema.name.removeprefix("c10d::")] += 1

    def _is_pinned(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._pinned

    def _copied_to_host(self, func: Any, args: Sequence, kwargs: dict) -> Tensor | None:
        """The result of a copy that ends on the host; None for all others. Either may be a wait."""
        source = args[1] if func is aten.copy_.default else args[0]
        if func is aten.copy_.default:
            target, non_blocking = args[0].device.type, args[2] if len(args) > 2 else False
        else:
            target = torch.device(kwargs.get("device") or source.device).type
            non_blocking = kwargs.get("non_blocking", False)
        if target == source.device.type:
            return None
        if target == "cpu":
            self.wait(f"{func} to the host")
            dtype = kwargs.get("dtype") or source.dtype
            return args[0] if func is aten.copy_.default else torch.zeros(source.shape, dtype=dtype)
        if not (non_blocking and self._is_pinned(source)):
            self.wait(f"{func} to the device, which is not pinned and non_blocking")
        return None


def _channel_statistics(x: Tensor, count: int) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(count))


# torch's kernels that have no form for fake tensors: of SyncBatchNorm, and SGD, which writes in place.
_STAND_INS = {
    "aten::batch_norm_stats": lambda x, *_: _channel_statistics(x, 2),
    "aten::batch_norm_gather_stats_with_counts": lambda x, *_: _channel_statistics(x, 2),
    "aten::batch_norm_elemt": lambda x, *_: torch.empty_like(x),
    "aten::batch_norm_backward_reduce": lambda _, x, *__: _channel_statistics(x, 4),
    "aten::batch_norm_backward_elemt": lambda _, x, *__: torch.empty_like(x),
    "aten::_fused_sgd_": lambda *_: None,
}


class _Saved:
    """A tensor kept for the backward pass, which lets go of it as autograd's own engine does."""

    def __init__(self, tensor: Tensor):
        self.tensor: Tensor | None = tensor


class Backward:
    """autograd's engine in Python: its own wants a CUDA context for tensors of cuda."""

    def __init__(self) -> None:
        self.node: Any = None  # that is running
        self._opened: list[_Saved] = []  # by it

    def kept(self) -> torch.autograd.graph.saved_tensors_hooks:
        """The context in which forward passes run."""

        def unpack(saved: _Saved) -> Tensor:
            self._opened.append(saved)
            return saved.tensor

        return torch.autograd.graph.saved_tensors_hooks(_Saved, unpack)

    @torch.no_grad()
    def __call__(self, tensors: Any, grad_tensors: Any = None, *_: Any, **__: Any) -> None:
        """In the place of torch.autograd.backward."""
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        given = [grad_tensors] if isinstance(grad_tensors, Tensor) else grad_tensors or [None] * len(roots)
        arrived: dict[Any, list[Tensor | None]] = {}
        awaited = _awaited([root.grad_fn for root in roots])
        for root, gradient in zip(roots, given, strict=True):
            gradient = torch.ones_like(root) if gradient is None else gradient
            _add(arrived, root.grad_fn, root.output_nr, gradient)
        ready = [(-node._sequence_nr(), id(node), node) for node in arrived if not awaited[node]]
        heapq.heapify(ready)
        with GraphExecGroup():
            while ready:
                node = heapq.heappop(ready)[2]
                if node in arrived:
                    self._differentiate(node, arrived)
                for child, _ in node.next_functions:
                    if child is None:
                        continue
                    awaited[child] -= 1
                    if awaited[child]:
                        continue
                    if not hasattr(child, "variable"):
                        heapq.heappush(ready, (-child._sequence_nr(), id(child), child))
                    elif child in arrived:
                        _accumulate(child, arrived)
                self.node = None

    def _differentiate(self, node: Any, arrived: dict) -> None:
        """Run a node and hand its results on."""
        gradients = arrived.pop(node)
        self.node = node
        results = node(*gradients) if callable(node) else node.apply(*gradients)
        del gradients
        for saved in self._opened:
            saved.tensor = None
        self._opened.clear()
        results = list(results) if isinstance(results, tuple) else [results]
        for i, (child, position) in enumerate(node.next_functions):
            if child is not None and results[i] is not None:
                _add(arrived, child, position, results[i])
            results[i] = None


def _awaited(roots: Sequence) -> Counter:
    """Count the gradients that each node of a graph receives."""
    found, seen, left = Counter(), set(roots), list(roots)
    while left:
        for child, _ in left.pop().next_functions:
            if child is not None:
                found[child] += 1
                if child not in seen:
                    seen.add(child)
                    left.append(child)
    return found


def _add(arrived: dict, node: Any, position: int, gradient: Tensor) -> None:
    """To what a node has received, in the shape and type that it wants."""
    wanted = node._input_metadata
    gradients = arrived.setdefault(node, [None] * len(wanted))
    shape = tuple(wanted[position].shape)
    if gradient.shape != shape:
        gradient = gradient.sum_to_size(shape)
    gradient = gradient.to(wanted[position].dtype)
    before = gradients[position]
    gradients[position] = gradient if before is None else before + gradient


def _accumulate(node: Any, arrived: dict) -> None:
    """Into the gradient of a leaf, which takes the tensor over where its strides fit."""
    (gradient,), leaf = arrived.pop(node), node.variable
    if leaf.grad is not None:
        leaf.grad.add_(gradient)
        return
    strides = zip(leaf.shape, gradient.stride(), leaf.stride(), strict=True)
    fit = all(own == wanted for size, own, wanted in strides if size > 1)
    leaf.grad = gradient if fit else torch.empty_like(leaf).copy_(gradient)


def _convolution_layout(image: Tensor, weight: Tensor, _: Any) -> torch.memory_format:
    """As cudnn chooses it."""
    formats = (
        x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() for x in (image, weight)
    )
    return torch.channels_last if any(formats) else torch.contiguous_format


def _module_to(module: nn.Module, to: Callable, *args: Any, **named: Any) -> nn.Module:
    """A memory format by new parameters: the content of a fake one cannot be exchanged."""
    layout = named.get("memory_format")
    if layout is None:
        return to(module, *args, **named)
    for part in module.modules():
        for name, own in list(part.named_parameters(recurse=False)):
            if own.ndim == 4:
                setattr(
                    part, name, nn.Parameter(own.detach().contiguous(memory_format=layout), own.requires_grad)
                )
    return module


@contextmanager
def pretended_gpu(gpu: PretendedGPU | None = None, everywhere: bool = False) -> Iterator[PretendedGPU]:
    """torch as on a machine with one GPU, on which nothing is ever computed.

    everywhere: tensors of the CPU are differentiated by `Backward` too.
    """
    gpu, real_backward = gpu or PretendedGPU(), torch.autograd.backward

    def differentiate(tensors: Any, *args: Any, **named: Any) -> None:
        first = tensors if isinstance(tensors, Tensor) else tensors[0]
        (gpu.backward if everywhere or first.is_cuda else real_backward)(tensors, *args, **named)

    lifting = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for owner, name, value in (
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "get_device_capability", lambda *_: (8, 0)),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (torch.cuda, "manual_seed_all", lambda _: None),
            (torch.cuda, "synchronize", lambda *_: gpu.wait("torch.cuda.synchronize")),
            (torch.accelerator, "is_available", lambda: True),
            (torch.autograd, "backward", differentiate),
            (nn.Module, "to", partialmethod(_module_to, nn.Module.to)),
            (FakeTensorMode, "avoid_device_init", property(lambda _: True)),
            (torch._C, "_select_conv_backend", lambda *_, **__: torch._C._ConvBackend.Cudnn),
            (torch._C, "_conv_determine_backend_memory_format", _convolution_layout),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device="cuda")` is a copy from the host
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifting)
        torch._C._ensureCUDADeviceGuardSet()  # torch's own stand-in where there is no GPU
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by copy.deepcopy
        stack.enter_context(gpu.backward.kept())
        stack.enter_context(gpu)
        yield gpu
