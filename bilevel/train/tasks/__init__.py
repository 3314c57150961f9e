"""The tasks that a model can be trained for; a new one is a file here, and a line in ``TASKS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bilevel.train.config import TaskName, TrainConfig
from bilevel.train.tasks.classification import classification
from bilevel.train.tasks.segmentation import segmentation
from bilevel.train.tasks.task import Task
from bilevel.train.tasks.token_labels import with_token_labels

__all__ = ["TASKS", "Task", "task_of"]

TASKS: Mapping[TaskName, Callable[[TrainConfig], Task]] = {
    "classify": classification,
    "segment": segmentation,
}
"""From the name of a task to what makes it of a config."""


def task_of(config: TrainConfig) -> Task:
    """The task of a run."""
    if config.task == "classify" and config.label_maps is not None:
        return with_token_labels(config)
    return TASKS[config.task](config)
