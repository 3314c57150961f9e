"""The published models: parameters, operations, names."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bilevel import models
from tests.golden.numbers import KEYS

# The official repository's models (parameters exact) and the paper's table 1 and 5 (GMACs at 224).
PARAMETERS = {
    "biformer_tiny": 13_142_760,
    "biformer_small": 25_536_232,
    "biformer_base": 56_804_968,
    "biformer_stl": 28_372_552,
    "biformer_stl_nchw": 28_372_552,
}
GMACS = {"biformer_tiny": 2.2, "biformer_small": 4.5, "biformer_base": 9.8, "biformer_stl": 4.6}


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_parameters_are_counted_exactly(name: str) -> None:
    with torch.device("meta"):
        model = getattr(models, name)()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds_are_the_papers(name: str) -> None:
    with torch.device("meta"):
        model, image = getattr(models, name)().eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(GMACS[name], rel=0.02)


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_state_dict_is_what_parameter_shapes_says(name: str) -> None:
    with torch.device("meta"):
        model = getattr(models, name)()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == models.parameter_shapes(model.config)


@pytest.mark.parametrize("name", models.PUBLISHED)
def test_official_names_and_shapes_are_the_released_ones(name: str) -> None:
    with torch.device("meta"):
        params = getattr(models, name)().state_dict()
    official = models.to_official(params, models.PUBLISHED[name])
    assert {key: list(value.shape) for key, value in official.items()} == KEYS[name]


def test_builders_take_the_fields_of_the_config() -> None:
    model = models.biformer_tiny(
        num_classes=3, in_chans=1, regions=2, drop_path=0.3, padding="official", backend="torch"
    )
    assert model.config == models.BiFormerConfig(
        num_classes=3, in_chans=1, regions=2, drop_path=0.3, padding="official"
    )
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
