"""One pass through a model, in which each attention says what it was computed of.

Nothing of the model is replaced: for the time of one call, a stand-in takes the place of an
attention, which has all that the attention has but the backend; and the stand-in's backend keeps
the arguments of :func:`bilevel.bra` before it lets the chosen one compute. So what is seen is what
is computed, whatever the padding, the variant and the array library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from bilevel import compose
from bilevel.errors import ArgumentError
from bilevel.exchange import resolve
from bilevel.models import biformer
from bilevel.protocol import Array, Backend, Routed, Routes
from bilevel.registry import describe

Kept = TypeVar("Kept")


class Seen(NamedTuple):
    """What one attention was computed of, in the library of the model."""

    q: Array
    """Queries ``(N, *spatial, M, D)``, on the spatial axes of the grids: with official padding,
    more than there are tokens."""
    k: Array
    """Keys, of the same shape."""
    routed: Routed
    routes: Routes | None
    """None where attention is full; ``routed`` then has one region, routed to itself."""
    tokens: tuple[int, ...]
    """Tokens on each spatial axis, without padding."""
    stride: int
    """Pixels of the image for each token, on an axis."""


def watch(model: Any, images: Array, keep: Callable[[Seen], Kept]) -> list[list[Kept]]:
    """What ``keep`` makes of what was seen of each attention of each stage. Nothing else is held in
    memory.

    Parameters
    ----------
    model
        A BiFormer or a backbone of torch, what :func:`bilevel.models.bind` returns, or one layer,
        which counts as one block of one stage. It stays as it is, and hooks on its blocks and
        attentions do not run; a torch module is in evaluation mode for the time of the call.
    images
        ``(N, C, H, W)``, or the input of the layer.

    Raises
    ------
    ArgumentError
        If it is none of these models.
    ShapeError, ArrayError
        If the images are not what the model takes.
    """
    with _at_rest(model):
        if hasattr(model, "qkv"):
            return [[keep(_attend(1, model, images)[1])]]
        if not (hasattr(model, "stages") and hasattr(model, "downsamples")):
            raise ArgumentError(
                "expected a BiFormer, what bilevel.models.bind returns, or a layer of attention, "
                f"got {type(model).__name__}; give the part of it that is one"
            )
        if hasattr(model, "check"):
            model.check(images)
        biformer.check_images(images)

        def attend(stage: int, attention: Any, x: Array) -> tuple[Array, Kept]:
            out, seen = _attend(4 * 2**stage, attention, x)
            return out, keep(seen)

        return biformer.attentions(model, images, attend)


def itself(seen: Seen) -> Seen:
    """To keep all that was seen."""
    return seen


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """Within it, a torch module is in evaluation mode and torch keeps no graph."""
    if not hasattr(model, "training"):
        yield
        return
    import torch

    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False  # not by eval(), which some modules replace
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _attend(stride: int, attention: Any, x: Array) -> tuple[Array, Seen]:
    """The output of an attention, and what it was computed of."""
    stand_in = _StandIn(attention, x)
    # A torch module's forward, the call of what is bound to arrays: either takes its own ``self``.
    kind = type(attention)
    compute = kind.forward if hasattr(kind, "forward") else kind.__call__
    out, routes = compute(stand_in, x, return_routes=True)
    first = 2 if stand_in.channels_first else 1
    tokens = tuple(map(int, x.shape[first : first + len(x.shape) - 2]))
    return out, Seen(*stand_in.noted, routes, tokens, stride)


class _StandIn:
    """An attention, but for its backend, which notes queries, keys and routes."""

    def __init__(self, attention: Any, x: Array) -> None:
        self._attention = attention
        self.channels_first = getattr(attention, "channels_first", False)
        channels = x.shape[1 if self.channels_first else -1]
        problem = describe(x)._replace(
            head_dim=channels // attention.num_heads, axes=len(x.shape) - 2
        )
        self.noted: tuple[Array, Array, Routed]
        self._chosen = resolve(problem, attention.backend)
        self.backend: Backend = replace(
            self._chosen, library=problem.library, refuses=lambda _: None, bra=self._note
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)

    def _note(self, q: Array, k: Array, v: Array, routed: Routed) -> Array:
        self.noted = q, k, routed
        return compose.bra(self._chosen, q, k, v, routed)
