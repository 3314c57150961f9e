"""Images with labels, found by their numbers: through a view, with label maps, or as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bilevel.train.named import Named


class Viewed(Dataset[tuple[Tensor, Any]]):
    """Images, or what a view makes images of, with their labels."""

    def __init__(self, images: Any, labels: Any, view: Any) -> None:
        self.images, self.labels, self.view = images, labels, view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.view(self.images[index]), int(self.labels[index])

    def original(self, index: int) -> tuple[Tensor, int]:
        """The image as it is, uint8 ``(C, H, W)``, and its label."""
        from bilevel.train import views

        image = self.images[index]
        pixels = views.read_rgb(image) if isinstance(image, str) else torch.from_numpy(image)[None]
        return pixels, int(self.labels[index])


class OfTimm(Dataset[tuple[Tensor, Any]]):
    """What a view makes of the images of a data set of timm, with their labels."""

    def __init__(self, found: Named, view: Any) -> None:
        self._found, self._view = found, view

    def __len__(self) -> int:
        return len(self._found.found)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.original(index)
        return self._view(image), label

    def original(self, index: int) -> tuple[Tensor, int]:
        """The image as it is, uint8 ``(C, H, W)``, and its label."""
        return self._found.labelled(index)


class WithMaps(Dataset[tuple[Tensor, Any]]):
    """The images of a training set with label maps, as a view makes them inputs and labels."""

    def __init__(self, train: Viewed | OfTimm, maps: Any, view: Any) -> None:
        self._train, self._maps, self._view = train, maps, view

    def __len__(self) -> int:
        return len(self._train)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self._train.original(index)
        return self._view(image, self._maps[index], label)


class Unviewed(Dataset[Tensor]):
    """The images of a training set without its view."""

    def __init__(self, train: Viewed | OfTimm) -> None:
        self._train = train

    def __len__(self) -> int:
        return len(self._train)

    def __getitem__(self, index: int) -> Tensor:
        return self._train.original(index)[0]
