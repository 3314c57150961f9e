"""The loss of training with token labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from bilevel.errors import ShapeError
from bilevel.models.token_labels import TokenLogits
from bilevel.train.token_labels.targets import Targets

AGREED, DIFFERENT = 0.5, 0.9
"""Weight of the teacher beside the label: where both name one class, and where they do not."""


def loss(
    logits: TokenLogits,
    targets: Targets,
    exchanged: Tensor | None = None,
    *,
    dense_weight: float = 1.0,
    with_labels: bool = False,
) -> Tensor:
    """Cross entropy of the pooled logits, plus ``dense_weight`` times that of each token's; a
    scalar.

    Parameters
    ----------
    logits
        What the model makes of a batch that was mixed by ``exchanged``, tokens exchanged back.
    targets
        Of the batch before it was mixed. Those of the image as a whole are mixed here, by the share
        of places that were exchanged; those of tokens never are, as each belongs to its image.
    exchanged
        The places that MixToken exchanged, boolean ``(size, size)``; None is none.
    dense_weight
        0.5 in VOLO and WaveViT, 1 in TokenLabeling and UniFormer.
    with_labels
        Whether the target of the image is its label too, not the teacher alone: an option of
        TokenLabeling and VOLO, off there by default.

    Raises
    ------
    ShapeError
        If logits and targets differ in shape.
    """
    for name, found, wanted in (
        ("pooled", logits.pooled, targets.pooled),
        ("dense", logits.dense, targets.dense),
    ):
        if found.shape != wanted.shape:
            raise ShapeError(
                f"expected {name} logits of the shape of their targets, {tuple(wanted.shape)}, got "
                f"{tuple(found.shape)}"
            )
    image = _with_label(targets) if with_labels else targets.pooled
    if exchanged is not None:
        other = exchanged.to(image.dtype).mean()
        image = (1 - other) * image + other * image.flip(0)
    dense = cross_entropy(logits.dense.flatten(0, 2), targets.dense.flatten(0, 2))
    return cross_entropy(logits.pooled, image) + dense_weight * dense


def _with_label(targets: Targets) -> Tensor:
    agreed = targets.pooled.argmax(1, keepdim=True) == targets.label.argmax(1, keepdim=True)
    weight = DIFFERENT - (DIFFERENT - AGREED) * agreed.to(targets.pooled.dtype)
    return weight * targets.pooled + (1 - weight) * targets.label
