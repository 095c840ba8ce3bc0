"""Predict one image from several views: scaled images, and mirrored ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import Compute
from stages.stage import PLAIN, resize_bilinear

SHORTEST_SIDE = 8  # pixels, the network's stride


@dataclass(frozen=True)
class Views:
    """scales: multiples of the image's size; mirror: each scale mirrored too."""

    scales: Sequence[float] = (1.0,)
    mirror: bool = False

    @property
    def is_one(self) -> bool:
        """True for the image alone, as it is."""
        return not self.mirror and tuple(self.scales) == (1.0,)

    def __str__(self) -> str:
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        return f"mean of the probabilities at scale {scales}" + self.mirror * ", each mirrored too"

    def sizes(self, size: Sequence[int], name: str) -> list[tuple[int, int]]:
        """Return the (h, w) of each scale of an image (H, W); ValueError if one is too small."""
        height, width = size
        sizes = [(round(height * scale), round(width * scale)) for scale in self.scales]
        smallest = min(sizes)
        if min(smallest) < SHORTEST_SIDE:
            raise ValueError(
                f"{name}: {smallest[1]}×{smallest[0]} pixels are too few, a side needs {SHORTEST_SIDE}; "
                "give --img_size W,H or larger --scales"
            )
        return sizes

    @torch.no_grad()
    def scores(
        self,
        network: nn.Module,
        image: Tensor,
        size: Sequence[int],
        name: str,
        compute: Compute = PLAIN,
        known: Tensor | None = None,
    ) -> Tensor:
        """Scores (1, K, *size) of an image (1, 3, H, W), whose largest gives the class.

        They are the logits where the only view is the image itself, else the mean of the views'
        probabilities. known: logits that the network gave for the image.
        """
        own = tuple(image.shape[2:])
        sizes = self.sizes(own, name)

        def views() -> Iterator[tuple[Tensor, bool]]:  # one by one to save memory
            for each in sizes:
                scaled = image if each == own else resize_bilinear(image, each)
                given = known is not None and each == own
                yield known if given else compute(network, scaled).logits, False
                if self.mirror:
                    yield compute(network, scaled.flip(3)).logits, True

        if not self.mirror and sizes == [own]:
            return resize_bilinear(next(views())[0], size)
        return mean_probabilities(views(), size)


AS_IT_IS = Views()  # the image alone


def mean_probabilities(views: Iterable[tuple[Tensor, bool]], size: Sequence[int]) -> Tensor:
    """Mean probabilities (1, K, H, W) over several predictions of one image, each resized to `size` (H, W).

    views: logits (1, K, h, w), and True if they are of the mirrored image.
    """
    total, count = None, 0
    for logits, mirrored in views:
        probs = resize_bilinear(logits.softmax(dim=1), size)
        probs = probs.flip(3) if mirrored else probs
        total, count = probs if total is None else total + probs, count + 1
    return total / count
