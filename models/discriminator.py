"""The discriminator of the warm-up stage: tells source from target by a map of class probabilities."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FCDiscriminator(nn.Module):
    """Class probabilities (B, K, H, W) → domain scores (B, 1, H/16, W/16); source is 0, target 1."""

    def __init__(self, num_classes: int, width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(num_classes, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width * 2, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(width * 2, width * 4, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(width * 4, width * 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(width * 8, 1, 1)

    def forward(self, probs: Tensor) -> Tensor:
        x = F.relu(self.conv1(probs))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.leaky_relu(self.conv4(x), 0.2)
        return self.classifier(x)
