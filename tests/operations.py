"""Counts the operations that a block launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts operations by name, but for those that launch nothing: views, empty memory, questions."""

    def __init__(self):
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None):
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        quiet = views or func.namespace == "prim" or any(x in str(func) for x in ("empty", "detach"))
        if not quiet:
            self.names[str(func)] += 1
        if func is torch.ops.aten._fused_sgd_.default and args[0][0].is_meta:  # has no form for these
            return None
        return func(*args, **(kwargs or {}))
