"""Classification, and that step and evaluation take any other task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from bilevel.train.data import Batch
from bilevel.train.metrics import Sums
from bilevel.train.recipes import DIGITS
from bilevel.train.step import evaluate, initial_state, step
from bilevel.train.tasks import Task, task_of

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 5.0], [3.0, 1.0, 0.0], [0.0, 0.5, 0.0]])
LABELS = torch.tensor([0, 1, 0, 1])
NAMES = ("ant", "bee", "$1_bill")


def test_classification_smooths_the_labels_in_training_alone() -> None:
    task = task_of(replace(DIGITS, label_smoothing=0.2))
    loss, sums = task.loss(LOGITS, LABELS)
    assert loss == cross_entropy(LOGITS, LABELS, label_smoothing=0.2)
    assert {name: float(x) for name, x in sums.items()} == {"loss": float(loss) * 4, "accuracy": 3}
    measured = task.measure(LOGITS, LABELS)
    plain = float(cross_entropy(LOGITS, LABELS))
    assert task.summary(Sums(4, measured)) == {"loss": plain, "accuracy": 0.75}


def test_classification_names_the_best_class_and_its_probability() -> None:
    said = task_of(DIGITS).describe(LOGITS[:2], NAMES)
    expected = LOGITS.softmax(-1).amax(-1).tolist()
    assert said == [f"ant {expected[0]:.4f}", f"$1_bill {expected[1]:.4f}"]


class Same(nn.Module):
    """A model whose images are its logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


@pytest.mark.parametrize("errors", [0, 10, 40])
def test_the_sheet_shows_errors_first_and_at_most_half(errors: int) -> None:
    labels = torch.zeros(60, dtype=torch.int64)
    images = torch.zeros(60, 1, 2, 2)
    images[:, 0, 0, 0] = 1.0
    images[60 - errors :, 0, 0, 1] = 2.0
    batches = [Batch(images[i : i + 7], labels[i : i + 7]) for i in range(0, 60, 7)]
    figure = task_of(DIGITS).draw(Same(), batches, ("a", "b", "c"))
    shown = [(axes.get_title(), axes.title.get_color()) for axes in figure.axes]
    wrong = min(errors, 24)
    right = min(60 - errors, 48 - wrong)
    rest = 48 - wrong - right
    assert shown[:wrong] == [("a → b", "red")] * wrong
    assert shown[wrong : wrong + right] == [("a → a", "black")] * right
    assert [title for title, _ in shown[wrong + right :]] == [""] * rest


class Counter(nn.Module):
    """In training it gives its losses, as detectors do; an auxiliary head gives a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.aux = nn.Linear(1, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        features = self.body(torch.stack([image.mean()[None] for image in images]))
        if not self.training:
            return [{"count": count} for count in self.main(features)]
        expected = torch.stack([target["count"] for target in targets])
        heads = {"main": self.main(features), "aux": self.aux(features)}
        return {name: mse_loss(out, expected) for name, out in heads.items()}


def counting() -> Task:
    from matplotlib.figure import Figure

    def loss(losses: Mapping[str, Tensor], targets: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        sums = {name: part.detach() * len(targets) for name, part in losses.items()}
        return losses["main"] + 0.5 * losses["aux"], sums

    def measure(found: list[Any], targets: list[Any]) -> dict[str, Any]:
        errors = [abs(a["count"] - b["count"]) for a, b in zip(found, targets, strict=True)]
        return {"errors": tuple(float(error) for error in errors), "bias": sum(errors)}

    return Task(
        model=lambda _: Counter(),
        targets=lambda batch: [{"count": count[None].float()} for count in batch.labels],
        outputs=lambda model, images, targets: model(images, targets),
        loss=loss,
        measure=measure,
        summary=lambda sums: {
            "bias": sums.mean("bias"),
            "worst": max(sums.values["errors"]),
        },
        describe=lambda outputs, _: [str(found["count"]) for found in outputs],
        draw=lambda *_: Figure(),
    )


def test_a_task_of_lists_of_images_and_a_dict_of_losses_fits() -> None:
    torch.manual_seed(0)
    task = counting()
    batch = Batch([torch.full((1, i, i + 1), float(i)) for i in range(1, 6)], torch.arange(1, 6))
    config = replace(DIGITS, lr=0.05, epochs=100, warmup_epochs=0)
    state = initial_state(task.model(config.architecture(1, 1)), config, 1)._replace(task=task)
    before = evaluate(task, state.model, [batch])
    for _ in range(60):
        state, sums = step(state, batch)
    assert (sums.images, set(sums.means())) == (5, {"main", "aux"})
    after = evaluate(task, state.model, [batch, batch])
    assert list(after) == ["bias", "worst"]
    assert after["worst"] < before["worst"] / 4
