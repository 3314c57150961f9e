"""The named models as entries of timm's registry.

Parameters have our names, or the official ones: those are recognised wherever timm loads a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from bilevel.errors import ArgumentError, InputError, WeightsError
from bilevel.models import BiFormerConfig, from_official
from bilevel.models.config import MODELS
from bilevel.models.model import BiFormer
from bilevel.models.official_names import STEM
from bilevel.models.tree import check_parameters
from bilevel.protocol import Backend

STRIDE = 32
"""By how much the last map is smaller than the image."""
FIELDS = {field.name: field.name for field in fields(BiFormerConfig)} | {
    "drop_path": "drop_path_rate"
}
"""Fields of a config, and the arguments by which ``timm.create_model`` takes them."""
HEADS = {False: "head", True: ("head", "aux_head")}
"""What timm makes new for other classes, without and with token labels."""


def pretrained_cfg(config: BiFormerConfig, size: int) -> dict[str, Any]:
    """What timm knows of a model besides its architecture, for images of ``size`` pixels: the
    channels and the normalisation of ImageNet, and names of its ends."""
    return {
        "input_size": (config.in_chans, size, size),
        "pool_size": (size // STRIDE, size // STRIDE),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "num_classes": config.num_classes,
        "first_conv": f"downsamples.0.{'conv1' if config.layout == 'biformer' else 'conv'}",
        "classifier": HEADS[config.token_labels],
        "license": "mit",
        "paper_ids": "arXiv:2303.08810",
        "paper_name": "BiFormer: Vision Transformer with Bi-Level Routing Attention",
        "origin_url": "https://github.com/rayleizhu/BiFormer",
    }


class TimmBiFormer(BiFormer):
    """A BiFormer that loads official parameters as its own, and says of those of another model in
    one line what does not fit, where torch would have a line for each."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As torch's. Raises WeightsError if the parameters are of another model; if not
        ``strict``, then only where none of them is of this one, or one is of another shape."""
        if STEM in state_dict:
            state_dict = from_official(state_dict, self.config)
        else:
            self._check(state_dict, strict)
        return super().load_state_dict(state_dict, strict, assign)

    def _check(self, given: Mapping[str, Any], strict: bool) -> None:
        shapes = {name: tuple(x.shape) for name, x in self.state_dict().items()}
        common = {name: shape for name, shape in shapes.items() if name in given}
        if not strict and common:
            shapes, given = common, {name: given[name] for name in common}
        check_parameters(shapes, given, f"the {self.config}")


def build(
    cfg: BiFormerConfig,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    backend: str | Backend | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **changes: Any,
) -> TimmBiFormer:
    """The model of a config, with changes of its fields by the names that timm has for them.

    Raises ArgumentError if a change is of no field.
    """
    known = {argument: field for field, argument in FIELDS.items()}
    if unknown := [name for name in changes if name not in known]:
        size = "; images may have any size" if "img_size" in unknown else ""
        raise ArgumentError(
            f"expected arguments of a BiFormer, {', '.join(known)}, got {', '.join(unknown)}{size}"
        )
    config = replace(cfg, **{known[name]: value for name, value in changes.items()})
    model = TimmBiFormer(config, backend, drop_rate)
    model.reset_classifier(config.num_classes, global_pool)
    return model.to(device=device, dtype=dtype)


def _renamed(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Parameters by our names, from either; they may be of another head or stem."""
    if STEM not in state_dict:
        return state_dict
    config = getattr(model, "config", None)
    assert isinstance(config, BiFormerConfig)
    width = state_dict[STEM].shape[1]
    head = state_dict.get("head.weight")
    classes = 0 if head is None else len(head)
    return from_official(state_dict, replace(config, in_chans=width, num_classes=classes))


def _entry(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls for a name."""

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            _check_source(name, options)
        if options.get("features_only"):
            options |= {"num_classes": 0, "global_pool": ""}  # there is no head
        stride = options.pop("output_stride", STRIDE)
        if stride != STRIDE:
            raise ArgumentError(
                f"expected output_stride {STRIDE}, the only one of a BiFormer, got {stride!r}"
            )
        if options.get("token_labels"):
            given = options.get("pretrained_cfg_overlay") or {}
            options["pretrained_cfg_overlay"] = {"classifier": HEADS[True], **given}
        features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        try:
            return build_model_with_cfg(
                build,
                name,
                pretrained,
                model_cfg=MODELS[name],
                feature_cfg=features,
                pretrained_filter_fn=_renamed,
                **options,
            )
        except OSError as error:  # the Hub's are among them
            reason = " ".join(str(error).split())
            raise InputError(f"cannot read the weights of {name}: {reason}") from error

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"``timm.create_model({name!r}, ...)``."
    return create


def _check_source(name: str, options: Mapping[str, Any]) -> None:
    """Raise WeightsError unless it was said where weights are: none are hosted."""
    given = (options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay"))
    source = resolve_pretrained_cfg(name, *given)
    if source.has_weights or source.state_dict:
        return
    raise WeightsError(
        f"no weights of {name} are hosted; give an official file as checkpoint_path=..., or name a "
        "repository instead: 'local-dir:FOLDER' or 'hf-hub:OWNER/NAME'"
    )


SIZES = dict.fromkeys(MODELS, 224) | {"biformer_micro": 64}
"""Images that models are meant for, in pixels."""
default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k" if name != "biformer_micro" else name: pretrained_cfg(config, SIZES[name])
        for name, config in MODELS.items()
    }
)
for _name in MODELS:
    register_model(_entry(_name))
