"""A BiFormer without torch: a config, a flat dict of arrays, images."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from bilevel.errors import ArrayError, ShapeError
from bilevel.models.config import BiFormerConfig
from bilevel.models.parameters import check_parameters, parameter_shapes
from bilevel.protocol import Array, Backend
from bilevel.registry import describe

LIBRARIES = ("numpy", "cupy")
"""The libraries that layers are written for, besides torch."""


def apply(
    config: BiFormerConfig,
    params: Mapping[str, Array],
    images: Array,
    *,
    backend: str | Backend | None = None,
    batch_stats: bool = False,
) -> Array:
    """Logits ``(N, classes)`` of images ``(N, C, H, W)``, computed with NumPy or CuPy.

    The same numbers as the torch module gives in inference, up to rounding.

    Parameters
    ----------
    config
        The model.
    params
        Every array of :func:`parameter_shapes`, such as the ``state_dict`` of a torch module with
        its values made arrays of the library of the images.
    images
        Floating-point NumPy or CuPy array, of the dtype of the parameters.
    backend
        Who computes the attention; see :func:`bilevel.bra`.
    batch_stats
        Normalise by the statistics of this batch, as training does, not by the running ones.

    Raises
    ------
    WeightsError
        If a parameter is missing, left over or of another shape; the message lists them.
    ArrayError
        If the images are no array of NumPy or CuPy, or a parameter is not of the same library.
    ShapeError
        If the images are not ``(N, in_chans, H, W)``.
    """
    library = describe(images).library
    if library not in LIBRARIES:
        raise ArrayError(
            f"expected images to be a {' or '.join(LIBRARIES)} array, got {library}; for torch use "
            "bilevel.models.BiFormer(config)"
        )
    if len(images.shape) != 4 or images.shape[1] != config.in_chans:
        raise ShapeError(f"expected images (N, {config.in_chans}, H, W), got {tuple(images.shape)}")
    check_parameters(parameter_shapes(config), params, str(config))
    for name, x in params.items():
        if (found := describe(x).library) != library:
            raise ArrayError(
                f"expected {name} to be a {library} array, as the images are, got {found}; "
                "convert the parameters or the images"
            )
    from bilevel.models.layers import build  # imports NumPy, which bilevel.models does not

    xp = import_module(library)
    return build(xp, config, params, backend, batch_stats)(xp.moveaxis(images, 1, -1))
