"""A function called on many items in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tqdm
from torch.utils.data import DataLoader, Dataset

from utils.workers import set_up_worker


class _Called(Dataset):
    def __init__(self, function: Callable[[Any], Any], items: Sequence):
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.function(self.items[i])


def parallel_map(
    function: Callable[[Any], Any], items: Sequence, workers: int, title: str, no_bar: bool | None = None
) -> Iterator[Any]:
    """function(item) of each item, in their order, with a bar of progress; workers 0: in this process.

    no_bar: for tqdm's `disable`; None leaves the bar out where no terminal is.
    """
    loader = DataLoader(
        _Called(function, items),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(items)),
        worker_init_fn=_begin_worker,
    )
    yield from tqdm.tqdm(loader, desc=title, unit="img", leave=False, disable=no_bar)


def _begin_worker(_worker: int) -> None:
    set_up_worker()


def _as_it_is(value: Any) -> Any:
    return value
