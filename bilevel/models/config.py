"""The shape of a BiFormer, as a value; the published models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias, get_args

from bilevel.arguments import choice, count, number
from bilevel.errors import ArgumentError, InputError, ShapeError
from bilevel.official_padding import Padding, Variant

Layout: TypeAlias = Literal["biformer", "stl"]

FULL_ATTENTION_HEADS = 8
"""Heads of full attention, whatever the width (official code; the paper does not say)."""
LEVEL_NORM_EPS = 1e-6
"""Added to the variance by the norms of a backbone's maps, as in the official code."""


@dataclass(frozen=True)
class BiFormerConfig:
    """A BiFormer (paper: section 4, table 1). One entry per stage where a field is a tuple.

    Raises
    ------
    ShapeError
        If the tuples differ in length or hold other than positive integers, or if widths and heads
        do not divide.
    ArgumentError
        If another field has no meaning.
    """

    depths: tuple[int, ...] = (2, 2, 8, 2)
    """Blocks of each stage."""
    embed_dims: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of each stage."""
    mlp_ratio: int = 3
    """Hidden channels of the MLP per channel."""
    head_dim: int = 32
    """Channels per head of the routed stages; full attention has 8 heads of any width."""
    topk: tuple[int | None, ...] = (1, 4, 16, None)
    """Key regions that each query region attends to; None is full attention."""
    regions: int = 7
    """Regions on each spatial axis (S in the paper). Where a feature map has fewer tokens on an
    axis, there are as many regions as tokens, and topk is at most the number of regions."""
    layout: Layout = "biformer"
    """How maps are made smaller, and how tokens know their position.
    ``"biformer"``: overlapping 3 x 3 convolutions between stages, then normalisation, and a
    convolution for the position in each block. ``"stl"``, the layout of Swin-T: patches of 4 x 4,
    normalisation, then merging of 2 x 2, and no position convolution."""
    variant: Variant = "legacy"
    """Which of the two official implementations the weights come from. They differ in where LCE
    acts in full attention (``"legacy"``: on the normalised input of the block, ``"nchw"``: on the
    values), in the epsilon of layer normalisation, and in what ``padding="official"`` means."""
    padding: Padding = "masked"
    """What is done with feature maps that regions do not divide.
    ``"masked"``: regions differ by one token, and padding takes part in nothing.
    ``"official"``: zeros are added as the official implementation does, and attended to; for
    parity with numbers made that way."""
    num_classes: int = 1000
    """Outputs of the head; 0 for none."""
    in_chans: int = 3
    """Channels of the image."""
    drop_path: float = 0.0
    """Probability with which training drops the last block's branches (stochastic depth); it
    rises linearly from 0 at the first block."""
    token_labels: bool = False
    """Whether tokens have a head of their own besides that of the image, ``aux_head``, as models
    have that learned token labels (BiFormer-S* and -B*): half of each class's largest logit of all
    tokens is added to its logit."""

    def __post_init__(self) -> None:
        choice("layout", self.layout, get_args(Layout))
        choice("variant", self.variant, get_args(Variant))
        choice("padding", self.padding, get_args(Padding))
        for name, least in _LEAST.items():
            object.__setattr__(self, name, count(name, getattr(self, name), least))
        choice("token_labels", self.token_labels, (False, True))
        object.__setattr__(self, "token_labels", bool(self.token_labels))
        rate = number("drop_path", self.drop_path, 0, 1)
        if rate == 1:
            raise ArgumentError(f"expected drop_path below 1, got {self.drop_path!r}")
        object.__setattr__(self, "drop_path", rate)
        for name in _PER_STAGE:
            object.__setattr__(self, name, _per_stage(name, getattr(self, name)))
        self._check_stages()

    def _check_stages(self) -> None:
        if not len(self.depths) == len(self.embed_dims) == len(self.topk) >= 1:
            raise ShapeError(
                "expected depths, embed_dims and topk to have one entry per stage, "
                f"got {self.depths}, {self.embed_dims} and {self.topk}"
            )
        for dim, topk in zip(self.embed_dims, self.topk, strict=True):
            unit = FULL_ATTENTION_HEADS if topk is None else self.head_dim
            if dim % unit:
                raise ShapeError(f"expected embed_dims to be multiples of {unit}, got {dim}")
        if self.layout == "biformer" and self.embed_dims[0] % 2:
            raise ShapeError(f"expected an even first width, got {self.embed_dims[0]}")

    def to_dict(self) -> dict[str, Any]:
        """All fields, as types that JSON has.

        >>> BiFormerConfig().to_dict()["topk"]
        [1, 4, 16, None]
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that :meth:`to_dict` made this of.

        Raises
        ------
        InputError
            If a field is missing or unknown, so that no default of today stands for a value of
            then.
        ArgumentError
            As the constructor does.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"expected the fields of a {cls.__name__}, got {values!r}")
        names = {field.name for field in fields(cls)}
        values = {**_LATER, **values}
        wrong = [f"missing {name}" for name in sorted(names - set(values))]
        wrong += [f"unknown {name}" for name in values if name not in names]
        if wrong:
            raise InputError(
                f"expected exactly the fields of a {cls.__name__}, got {', '.join(wrong)}"
            )
        return cls(**values)

    @property
    def layer_norm_eps(self) -> float:
        """Added to the variance by layer normalisation, as in the official code."""
        return 1e-6 if self.variant == "legacy" else 1e-5

    @property
    def stages(self) -> int:
        """How many stages are there."""
        return len(self.depths)

    def last_map(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the last stage's map, for images of a height and width.

        >>> BiFormerConfig().last_map(224, 200)
        (7, 7)
        """
        stride = 4 * 2 ** (self.stages - 1)
        if self.layout == "stl":  # patches, of which what fills none is left out
            return height // stride, width // stride
        return -(-height // stride), -(-width // stride)

    def drop_path_rates(self) -> Iterator[float]:
        """One rate per block, from 0 to ``drop_path``."""
        last = max(1, sum(self.depths) - 1)
        return (self.drop_path * i / last for i in range(sum(self.depths)))


@dataclass(frozen=True)
class BackboneConfig(BiFormerConfig):
    """A BiFormer that gives maps of several stages in place of logits; all fields are those of
    :class:`BiFormerConfig`, and one more.

    Raises
    ------
    ArgumentError
        If ``out_indices`` are no stages, or there is a head.
    """

    num_classes: int = 0
    """0: there is no head."""
    out_indices: tuple[int, ...] = (0, 1, 2, 3)
    """The stages that maps are given of, ascending; those after the last one are not there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given, last = self.out_indices, len(self.depths) - 1
        values = given if isinstance(given, (list, tuple)) else ()
        taken = tuple(count(f"out_indices[{i}]", x, 0, last) for i, x in enumerate(values))
        if not taken or list(taken) != sorted(set(taken)):
            raise ArgumentError(
                f"expected out_indices to be stages from 0 to {last}, ascending, got {given!r}"
            )
        if self.num_classes:
            raise ArgumentError(f"expected a backbone without classes, got {self.num_classes}")
        object.__setattr__(self, "out_indices", taken)

    @property
    def stages(self) -> int:
        """How many stages are there: none after the last one that is taken."""
        return self.out_indices[-1] + 1

    @classmethod
    def of(cls, config: BiFormerConfig, out_indices: Sequence[int] | None = None) -> BackboneConfig:
        """The backbone of a model, without its head; None for ``out_indices`` is all stages."""
        values = {field.name: getattr(config, field.name) for field in fields(BiFormerConfig)}
        taken = range(len(config.depths)) if out_indices is None else out_indices
        heads = {"num_classes": 0, "token_labels": False}
        return cls(**values | heads | {"out_indices": tuple(taken)})

    def whole(self) -> BackboneConfig:
        """The same with maps of all stages."""
        return BackboneConfig.of(self)

    def classifier(self) -> BiFormerConfig:
        """The model that this is the backbone of, without classes."""
        return BiFormerConfig(**{f.name: getattr(self, f.name) for f in fields(BiFormerConfig)})


def _per_stage(name: str, values: Any) -> tuple[int | None, ...]:
    """A list or tuple of positive integers as a tuple of int; ``topk`` may hold None."""
    if not isinstance(values, (list, tuple)):
        raise ArgumentError(
            f"expected {name} to be a tuple of integers, one per stage, got {values!r}"
        )
    return tuple(
        None if value is None and name == "topk" else count(f"{name}[{i}]", value, error=ShapeError)
        for i, value in enumerate(values)
    )


_PER_STAGE = ("depths", "embed_dims", "topk")
_LATER = {"token_labels": False}
"""Fields that configs were first saved without, and what they stood for then."""
_LEAST = {"mlp_ratio": 1, "head_dim": 1, "regions": 1, "num_classes": 0, "in_chans": 1}
"""The least value of each count."""

PUBLISHED = {
    "biformer_tiny": BiFormerConfig(drop_path=0.1),
    "biformer_small": BiFormerConfig(depths=(4, 4, 18, 4), drop_path=0.15),
    "biformer_base": BiFormerConfig(
        depths=(4, 4, 18, 4), embed_dims=(96, 192, 384, 768), drop_path=0.4
    ),
    "biformer_stl": BiFormerConfig(
        depths=(2, 2, 6, 2),
        embed_dims=(96, 192, 384, 768),
        mlp_ratio=4,
        layout="stl",
        drop_path=0.1,
    ),
}
"""The published models by name; drop path as they were trained on ImageNet."""
PUBLISHED["biformer_stl_nchw"] = replace(PUBLISHED["biformer_stl"], variant="nchw")

MODELS = PUBLISHED | {
    "biformer_micro": BiFormerConfig(
        depths=(1, 1, 2, 1),
        embed_dims=(32, 64, 128, 256),
        regions=4,
        topk=(2, 4, 8, None),
        drop_path=0.05,
    )
}
"""The models that have names; the micro one learns small images on a CPU."""
