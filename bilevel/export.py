"""Models as files for other runtimes, for images of any number and size, each checked after it is
written: what it computes of random images is compared with the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from bilevel.arguments import choice
from bilevel.errors import ArgumentError, BackendUnavailable, BilevelError, InputError
from bilevel.files import replacing
from bilevel.models.config import BiFormerConfig

Format: TypeAlias = Literal["onnx", "torch", "openvino", "safetensors"]
Run: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""From images ``(N, C, H, W)`` to what a written model makes of them."""

OPSET = 18
OPSETS = range(17, 22)
"""Opsets of ONNX with layer normalisation that torch's exporter writes."""
PER_REGION = 32
"""Pixels of an image for each region on an axis: then a map at stride 16 has two tokens for it."""
SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml", "safetensors": ".safetensors"}


class Exportable(Protocol):
    """A torch module of images ``(N, C, H, W)`` that has the config of its BiFormer: a BiFormer, a
    backbone, the pyramid of a detector, a segmenter."""

    @property
    def config(self) -> BiFormerConfig: ...


class Checked(NamedTuple):
    """How far a written model is from the one that was exported."""

    difference: float
    """The largest of two outputs for the same random images."""
    sizes: list[tuple[int, int, int]]
    """Number, height and width of these images."""
    least: int
    """Height and width from which on images may be of any size."""


def export(
    model: Exportable, out: str | Path, target: Format, *, opset: int = OPSET, int8: bool = False
) -> Checked:
    """Write a model, and compare what was written with it.

    Parameters
    ----------
    model
        In evaluation mode, on the CPU: a BiFormer, or what else has its ``config`` and makes
        tensors of images, as a :class:`bilevel.models.Backbone`, the ``backbone`` of a detector and
        a :class:`bilevel.heads.Segmenter` do. Maps are called ``map_0`` and so on, or ``map_``
        and the names that the model has for them.
    out
        The file: ``.onnx``, ``.pt2`` (``torch.export``), ``.xml`` (OpenVINO, beside it the weights
        as ``.bin``) or ``.safetensors`` (parameters alone).
    target
        Which of them.
    opset
        Of ONNX.
    int8
        Whether weights of linear layers become 8-bit integers, by onnxruntime's dynamic
        quantisation.

    Raises
    ------
    ArgumentError
        If the format, the suffix or the opset is none, or ``int8`` is not for ONNX.
    BackendUnavailable
        If the runtime of the format is not installed.
    InputError
        If the file cannot be written.
    """
    out = Path(out)
    _check(out, target, opset, int8)
    least = PER_REGION * model.config.regions
    sizes = [(2, least, least + 32), (1, least, least), (3, least + 25, least + 70)]
    example = _images(model, sizes[0])
    write: Mapping[Format, Callable[[], Run]] = {
        "onnx": lambda: _onnx(model, example, out, opset, int8),
        "torch": lambda: _torch(model, example, out),
        "openvino": lambda: _openvino(model, example, out, opset),
        "safetensors": lambda: _safetensors(model, out),
    }
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # exporters warn of what they themselves use
            run = write[target]()
            images = [_images(model, size) for size in sizes]
            return Checked(max(_distance(run(x), _outputs(model, x)) for x in images), sizes, least)
    except BilevelError:
        raise
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"{target} needs {error.name}; install it with: python -m pip install {error.name}"
        ) from error
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}") from error


def _check(out: Path, target: Format, opset: int, int8: bool) -> None:
    choice("target", target, get_args(Format))
    if out.suffix != SUFFIX[target]:
        raise ArgumentError(f"expected a file {SUFFIX[target]} for {target}, got {out}")
    if opset not in OPSETS:
        raise ArgumentError(
            f"expected an opset from {OPSETS[0]} to {OPSETS[-1]}, which torch's exporter writes "
            f"and layer normalisation needs, got {opset!r}"
        )
    if int8 and target != "onnx":
        raise ArgumentError(f"expected int8 for onnx alone, got it for {target}")


def _images(model: Any, size: tuple[int, int, int]) -> Tensor:
    n, height, width = size
    draw = torch.Generator().manual_seed(0)
    like = next(model.parameters())
    channels = model.config.in_chans
    return torch.randn(n, channels, height, width, generator=draw, dtype=like.dtype)


def _outputs(model: Any, images: Tensor) -> tuple[Tensor, ...]:
    return tuple(_named(model(images)).values())


def _named(found: Any) -> dict[str, Tensor]:
    """What a model makes of images, each output with its name."""
    if isinstance(found, Tensor):
        return {"logits": found}
    maps = found if isinstance(found, Mapping) else dict(enumerate(found))
    return {f"map_{name}": x for name, x in maps.items()}


def _distance(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def _onnx(model: Any, example: Tensor, out: Path, opset: int, int8: bool) -> Run:
    from onnxruntime import InferenceSession

    axes = {0: "N", 2: "H", 3: "W"}
    outputs = _named(model(example))
    with replacing(out) as partial:
        torch.onnx.export(
            model,
            (example,),
            partial,
            dynamo=False,  # the newer one takes minutes, and finds the same
            opset_version=opset,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={"images": axes, **{name: _free(x, name) for name, x in outputs.items()}},
        )
        if int8:
            _quantise(partial)
    session = InferenceSession(out, providers=["CPUExecutionProvider"])
    return lambda x: tuple(map(torch.from_numpy, session.run(None, {"images": x.numpy()})))


def _free(x: Tensor, name: str) -> dict[int, str]:
    """The axes of an output that are of any size, and their names."""
    return {0: "N"} if x.ndim == 2 else {0: "N", 2: f"H{name}", 3: f"W{name}"}


def _quantise(path: Path) -> None:
    """Weights of matrix products as 8-bit integers, in place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = ["MatMul", "Gemm"]
    with replacing(path) as small:
        quantize_dynamic(path, small, op_types_to_quantize=products, weight_type=QuantType.QInt8)


def _torch(model: Any, example: Tensor, out: Path) -> Run:
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(model, (example,), dynamic_shapes=(free,))
    with replacing(out) as partial:
        torch.export.save(program, partial)
    run = torch.export.load(out).module()
    return lambda x: _outputs(run, x)


def _openvino(model: Any, example: Tensor, out: Path, opset: int) -> Run:
    import openvino

    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        _onnx(model, example, file, opset, int8=False)
        written = file.with_suffix(".xml")
        openvino.save_model(openvino.convert_model(file), written, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the weights first: the other file is read with them
            with replacing(out.with_suffix(suffix)) as partial:
                copyfile(written.with_suffix(suffix), partial)
    # The CPU may compute in bfloat16 where it is faster, unless told otherwise.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(out, "CPU", exact)
    return lambda x: tuple(torch.from_numpy(each) for each in compiled(x.numpy()).values())


def _safetensors(model: Any, out: Path) -> Run:
    from safetensors.torch import load_file, save_file

    weights = {name: x.contiguous() for name, x in model.state_dict().items()}
    with replacing(out) as partial:
        save_file(weights, partial, {"format": "pt"})
    again = deepcopy(model)
    again.load_state_dict(load_file(out))
    return lambda x: _outputs(again, x)
