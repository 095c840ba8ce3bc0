"""A function called on many items in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tqdm
from torch.utils.data import DataLoader, Dataset

from utils.workers import set_up_worker


class _Calls(Dataset):
    def __init__(self, function: Callable[[Any], Any], items: Sequence):
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.function(self.items[i])


def parallel_map(
    function: Callable[[Any], Any], items: Sequence, workers: int, title: str, no_bar: bool | None = None
) -> Iterator[Any]:
    """Yield function(item) of each item, in order, with a progress bar; workers 0: in this process.

    Only indices travel to the workers. no_bar: for tqdm's `disable`; None shows the bar in terminals only.
    """
    loader = DataLoader(
        _Calls(function, items),
        batch_size=None,
        collate_fn=unchanged,
        num_workers=min(workers, len(items)),
        worker_init_fn=set_up_worker,
    )
    yield from tqdm.tqdm(loader, desc=title, unit="img", leave=False, disable=no_bar)


def unchanged(value: Any) -> Any:
    """Return the value: a `collate_fn` that a worker can load."""
    return value
