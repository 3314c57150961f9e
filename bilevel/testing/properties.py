"""Every property that a backend must have, as functions of a backend and a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from bilevel.protocol import Backend
from bilevel.testing import (
    agreement,
    attention,
    bra,
    budget,
    gradients,
    pullbacks,
    purity,
    regions,
    routing,
)
from bilevel.testing.arrays import dtypes_of, home_of
from bilevel.testing.strategies import Case

Property: TypeAlias = Callable[[Backend, Case], None]
"""Raises an AssertionError that says what was expected and what came."""

PROPERTIES: tuple[Property, ...] = (
    regions.merge_inverts_partition,
    regions.partition_follows_the_definition,
    regions.summarize_is_the_mean_of_real_tokens,
    regions.gather_takes_the_routed_regions,
    regions.key_mask_marks_real_tokens,
    routing.scores_are_products_of_means,
    routing.best_first_and_ties_to_the_lower_region,
    routing.nan_scores_come_last,
    attention.out_is_softmax_attention,
    attention.lse_is_the_natural_logsumexp,
    attention.masked_keys_do_not_matter,
    attention.no_mask_is_all_true,
    budget.error_is_within_the_budget,
    bra.topk_of_all_regions_is_dense_attention,
    bra.bra_follows_its_routes,
    bra.given_routes_are_used,
    bra.agrees_with_the_reference,
    bra.permuting_key_regions_permutes_routes,
    bra.permuting_query_regions_permutes_the_output,
    bra.keys_reach_only_queries_routed_to_them,
    bra.queries_reach_only_their_own_output,
    bra.no_images_give_no_output,
    budget.error_of_bra_is_within_the_budget,
    agreement.bra_is_the_primitives_composed,
    agreement.bra_routes_as_route_does,
    agreement.extent_is_right_or_none,
    purity.inputs_are_unchanged,
    purity.same_call_gives_the_same_bits,
    purity.views_give_what_copies_give,
    purity.results_are_of_the_kind_promised,
)

PULLBACK_PROPERTIES: tuple[Property, ...] = (
    pullbacks.pullback_agrees_with_the_reference,
    pullbacks.pullback_of_scores_far_from_zero,
    pullbacks.pullback_matches_finite_differences,
    pullbacks.same_pullback_gives_the_same_bits,
    pullbacks.pullback_passes_by_what_nobody_attends_to,
)
"""For backends that have ``vjp`` or ``bra_vjp``."""

GRADIENT_PROPERTIES: tuple[Property, ...] = (
    gradients.gradients_match_finite_differences,
    gradients.no_gradient_flows_through_routing,
    gradients.same_call_gives_the_same_gradients,
    gradients.gradients_pass_by_what_nobody_attends_to,
)
"""For backends that work on torch tensors."""

EXCHANGE_PROPERTIES: tuple[Property, ...] = (agreement.exchanged_arrays_keep_their_bits,)
"""For backends on the CPU that have ``exchange``: NumPy's arrays can go there and come back."""

_IN_FLOAT64 = (
    pullbacks.pullback_matches_finite_differences,
    gradients.gradients_match_finite_differences,
)


def properties_of(backend: Backend) -> tuple[Property, ...]:
    """The properties that a backend must have, given what it offers."""
    found = list(PROPERTIES)
    if backend.vjp is not None or backend.bra_vjp is not None:
        found += PULLBACK_PROPERTIES
    if backend.library == "torch":
        found += GRADIENT_PROPERTIES
    if backend.exchange is not None and home_of(backend).device == "cpu":
        found += EXCHANGE_PROPERTIES
    if "float64" not in dtypes_of(backend):
        found = [check for check in found if check not in _IN_FLOAT64]
    return tuple(found)
