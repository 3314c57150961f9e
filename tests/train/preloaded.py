"""What a run imports as it goes, imported once for all the processes that tests fork from here."""

from __future__ import annotations

import matplotlib.figure
import timm.data
import timm.optim
import torch._dynamo
import torch._inductor.config

from bilevel.train import augment, views
from tests.train import processes

__all__ = ["augment", "matplotlib", "processes", "timm", "torch", "views"]
