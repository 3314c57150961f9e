"""A BiFormer without torch: a config, a flat dict of arrays, images."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from bilevel.errors import ArrayError
from bilevel.models.config import BiFormerConfig
from bilevel.models.tree import check_parameters, parameter_shapes
from bilevel.protocol import Array, Backend
from bilevel.registry import describe

if TYPE_CHECKING:
    from bilevel.models.array_layers import ArrayModel

LIBRARIES = ("numpy", "cupy")
"""The libraries that layers are written for, besides torch."""


def bind(
    config: BiFormerConfig,
    params: Mapping[str, Array],
    *,
    backend: str | Backend | None = None,
    batch_stats: bool = False,
) -> ArrayModel:
    """A model over NumPy or CuPy arrays: a callable from images ``(N, C, H, W)`` to logits
    ``(N, classes)``, to call many times.

    It gives the same numbers as the torch module in inference, up to rounding. The parameters are
    not copied. Its call raises ArrayError if the images are not of the library of the parameters,
    and ShapeError if they are not ``(N, in_chans, H, W)``.

    Parameters
    ----------
    config
        The model.
    params
        Every array of :func:`parameter_shapes`, such as the ``state_dict`` of a torch module with
        its values made arrays of NumPy or CuPy.
    backend
        What computes the attention; see :func:`bilevel.bra`.
    batch_stats
        Normalise by the statistics of each batch, as training does, not by the running ones.

    Raises
    ------
    WeightsError
        If a parameter is missing, left over or of another shape; the message lists them.
    ArrayError
        If the parameters are no arrays of NumPy or CuPy, or are not all of one library.

    Examples
    --------
    >>> import numpy as np
    >>> config = BiFormerConfig((1, 1), (8, 16), head_dim=8, topk=(1, None), num_classes=5)
    >>> shapes = parameter_shapes(config)
    >>> model = bind(config, {name: np.ones(shape) for name, shape in shapes.items()})
    >>> model(np.ones((2, 3, 32, 32))).shape
    (2, 5)
    """
    check_parameters(parameter_shapes(config), params, str(config))
    libraries = {name: describe(x).library for name, x in params.items()}
    library = next(iter(libraries.values()))
    _check_library("parameters", library)
    for name, found in libraries.items():
        if found != library:
            raise ArrayError(
                f"expected {name} to be a {library} array, as the parameters before it are, got "
                f"{found}; convert it"
            )
    from bilevel.models.array_layers import build  # imports NumPy, which bilevel.models does not

    return build(import_module(library), config, params, backend, batch_stats)


def apply(
    config: BiFormerConfig,
    params: Mapping[str, Array],
    images: Array,
    *,
    backend: str | Backend | None = None,
    batch_stats: bool = False,
) -> Array:
    """Logits ``(N, classes)`` of images ``(N, C, H, W)``: :func:`bind`, and one call.

    ``images`` is a floating-point NumPy or CuPy array, of the library and dtype of the parameters;
    all else is as for :func:`bind`.
    """
    _check_library("images", describe(images).library)
    return bind(config, params, backend=backend, batch_stats=batch_stats)(images)


def _check_library(what: str, library: str) -> None:
    if library not in LIBRARIES:
        raise ArrayError(
            f"expected {what} of {' or '.join(LIBRARIES)}, got {library}; for torch use "
            "bilevel.models.BiFormer(config)"
        )
