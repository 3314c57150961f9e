"""What a training run is made of, as a value that is saved with the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from tyro.conf import Positional

from bilevel.arguments import choice, count, number
from bilevel.models import BiFormerConfig
from bilevel.models.config import MODELS

if TYPE_CHECKING:
    ModelName: TypeAlias = str
else:  # from this the command line has its choices
    ModelName = Literal[tuple(MODELS)]

TaskName: TypeAlias = Literal["classify", "segment"]
SegmentationHead: TypeAlias = Literal["semantic-fpn", "upernet"]
RecipeName: TypeAlias = Literal[
    "basic", "digits", "digit-scenes", "fashion-mnist", "imagenet", "token-labels"
]
Interpolation: TypeAlias = Literal["bicubic", "bilinear", "random"]
Erased: TypeAlias = Literal["pixel", "rand", "const"]
LabelAxes: TypeAlias = Literal["corrected", "official"]
Precision: TypeAlias = Literal["bf16", "fp16"]


SEGMENTATION_REGIONS = 8
"""On each axis, as in the official configs for segmentation."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Names are timm's where it has the same; the defaults are those of the
    recipe ``basic``."""

    data: Positional[str]
    """`digits`, `fashion-mnist`, a name that timm has for data, such as `torch/cifar10` or
    `hfds/OWNER/NAME`, or a folder of images: one folder per class, or such folders in `train` and
    `val` (or `test`), by any of their usual names. Where nothing else is there to test on, a fifth
    of each class is held out."""
    model: ModelName = "biformer_tiny"
    """The model to train."""
    recipe: RecipeName | None = None
    """Where the defaults of all other options come from; by default the recipe of the data, which
    is `basic` for images of your own."""
    image_size: int = 224
    """Height and width of the images, in pixels."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step, of all devices together."""
    grad_accum_steps: int = 1
    """Parts in which a step goes through its images, one after the other: each takes a part of the
    memory."""

    opt: str = "adamw"
    """Optimizer, by its name in timm."""
    opt_eps: float = 1e-8
    """Epsilon of the optimizer, where it has one."""
    momentum: float = 0.9
    """Momentum of optimizers that have one, such as `sgd`; AdamW has none."""
    lr: float = 5e-4
    """Highest learning rate, reached after the warm-up."""
    min_lr: float = 0.0
    """Learning rate at the end, to which it falls as a cosine."""
    warmup_lr: float = 0.0
    """Learning rate at the start, from which it rises linearly in the warm-up."""
    warmup_epochs: float = 5
    """Epochs in which the learning rate rises."""
    weight_decay: float = 0.05
    """Weight decay; none on norms and biases."""
    layer_decay: float | None = None
    """Factor by which learning rates fall from each block to the one below it, to fine-tune."""
    clip_grad: float | None = None
    """Norm to which longer gradients are cut."""
    model_ema_decay: float = 0.0
    """Share that an average of the weights keeps at each step, such as 0.9999. It is tested beside
    the weights themselves; 0 is none."""

    hflip: float = 0.5
    """Probability that an image is mirrored."""
    train_interpolation: Interpolation = "bicubic"
    """Interpolation of the crops to train on; `random` is either of the others, drawn for each."""
    aa: str | None = None
    """RandAugment, AutoAugment or AugMix as timm writes it, such as `rand-m9-mstd0.5-inc1`."""
    reprob: float = 0.0
    """Probability that a random rectangle of an image is erased."""
    remode: Erased = "pixel"
    """What is put there: noise for each pixel, one random color, or the mean color."""
    mixup: float = 0.0
    """Parameter of the beta distribution by which two images are mixed; 0 is no mixup."""
    cutmix: float = 0.0
    """Parameter of the beta distribution for the rectangle that is put into another image; 0 is no
    cutmix."""
    mixup_prob: float = 1.0
    """Probability of mixup or cutmix for a batch, if one of them is on."""
    mixup_switch_prob: float = 0.5
    """Probability of cutmix where both are on."""
    label_maps: Path | None = None
    """File of label maps, by `bilevel label-maps`, to train with token labels, without mixup
    and cutmix."""
    dense_weight: float = 1.0
    """With label maps, weight of the loss of tokens beside that of the image."""
    label_axes: LabelAxes = "corrected"
    """With label maps, `official` takes rows for columns in the boxes of crops, as the code of
    TokenLabeling does."""
    label_smoothing: float = 0.1
    """Probability that the target spreads over all classes."""
    drop_path: float | None = None
    """Probability with which the last block's branches are dropped (stochastic depth); by default
    the model's own, with which it was published."""
    aug_repeats: int = 1
    """How often each image is drawn in a row, each time augmented anew (repeated augmentation); an
    epoch then sees as many images as without, of fewer different ones."""

    amp: Precision | None = None
    """Automatic mixed precision: what need not be in float32 is computed in this type, fp16 with
    scaled gradients."""
    channels_last: bool = False
    """Convolutions with channels last in memory, which GPUs may prefer."""
    compile: bool = False
    """Compile the model by torch.compile."""
    checkpoint_blocks: bool = False
    """Keep only the inputs of blocks and compute the rest again going backward (activation
    checkpointing): less memory, a third more time."""
    sync_bn: bool = False
    """On several devices: normalise batches over all of them."""
    shard: bool = False
    """On several devices: split parameters, gradients and the optimizer's state over them."""
    save_minutes: float = 10
    """Minutes after which a checkpoint is saved, beside that of each epoch."""
    seed: int = 0
    """Of the initial weights, the order of the images and all that is random in training."""
    workers: int = 2
    """Processes that read images."""
    device: str = "cpu"
    """Where to train, as torch calls it: `cpu`, `cuda`."""
    data_dir: Path | None = None
    """Folder in which data of a name lie; by default `data`."""
    dataset_download: bool = False
    """Fetch data of a name, where they are not there and their library can."""
    out: Path | None = None
    """Folder of the run, not there yet; by default a new one in `runs`."""
    task: TaskName = "classify"
    """What to train for: a class for each image, or one for each pixel."""
    head: SegmentationHead = "semantic-fpn"
    """What stands on the model to segment."""

    def __post_init__(self) -> None:
        if self.data_dir is not None:  # of the file of a run, it is a string
            object.__setattr__(self, "data_dir", Path(self.data_dir))
        for name, options in _CHOICES.items():
            choice(name, getattr(self, name), options)
        for name, (rule, least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, rule(name, value, least, most))
        flags = ("channels_last", "compile", "checkpoint_blocks", "dataset_download")
        for name in (*flags, "sync_bn", "shard"):
            choice(name, getattr(self, name), (False, True))
        if self.label_maps is not None:
            object.__setattr__(self, "label_maps", Path(self.label_maps))

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, and labels with them."""
        return bool(self.mixup or self.cutmix) and self.mixup_prob > 0

    def architecture(self, num_classes: int, in_chans: int) -> BiFormerConfig:
        """The model of the run, for classes and channels of its data."""
        model = MODELS[self.model]
        drop_path = model.drop_path if self.drop_path is None else self.drop_path
        official = self.task == "segment" and self.model != "biformer_micro"
        regions = SEGMENTATION_REGIONS if official else model.regions
        return replace(
            model,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_path=drop_path,
            regions=regions,
            token_labels=self.label_maps is not None,
        )


_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "model": tuple(MODELS),
    "recipe": (None, *get_args(RecipeName)),
    "train_interpolation": get_args(Interpolation),
    "remode": get_args(Erased),
    "label_axes": get_args(LabelAxes),
    "amp": (None, *get_args(Precision)),
    "task": get_args(TaskName),
    "head": get_args(SegmentationHead),
}
_RANGES: Mapping[str, tuple[Callable[..., float], float, float]] = {
    "image_size": (count, 32, inf),  # the last stage of a model has a 32nd of it
    "epochs": (count, 1, inf),
    "batch_size": (count, 2, inf),  # batch normalisation needs two
    "grad_accum_steps": (count, 1, inf),
    "opt_eps": (number, 0, 1),
    "momentum": (number, 0, 0.9999),
    "lr": (number, 1e-12, 1e3),
    "min_lr": (number, 0, 1e3),
    "warmup_lr": (number, 0, 1e3),
    "warmup_epochs": (number, 0, inf),
    "weight_decay": (number, 0, 1e3),
    "layer_decay": (number, 1e-3, 1),
    "clip_grad": (number, 1e-12, 1e12),
    "model_ema_decay": (number, 0, 1 - 1e-9),
    "hflip": (number, 0, 1),
    "reprob": (number, 0, 1),
    "mixup": (number, 0, 1e3),
    "cutmix": (number, 0, 1e3),
    "mixup_prob": (number, 0, 1),
    "mixup_switch_prob": (number, 0, 1),
    "dense_weight": (number, 0, 1e3),
    "label_smoothing": (number, 0, 0.99),
    "drop_path": (number, 0, 0.99),
    "aug_repeats": (count, 1, 100),
    "save_minutes": (number, 0, 1e6),
    "seed": (count, 0, 2**31 - 1),
    "workers": (count, 0, 1024),
}
"""The rule for each number, its least and its greatest value."""

_OPTIONAL = ("layer_decay", "clip_grad", "drop_path")
"""Numbers that need not be given."""
