"""Backends broken on purpose, the way real ones break, and the properties that notice.

A mutation takes a backend and returns one that is wrong. Where it can it uses only what NumPy and
torch have in common.
"""

from __future__ import annotations

from tests.testing.mutations.attention import (
    lse_in_base_two,
    mask_is_ignored,
    masked_by_a_large_number,
    nan_becomes_zero,
    no_mask_hides_the_last_key,
    scale_is_always_the_default,
    scale_is_dropped,
    softmax_in_half_precision,
    softmax_without_the_largest,
    sums_in_the_dtype_of_the_input,
)
from tests.testing.mutations.common import Mutation
from tests.testing.mutations.gathering import (
    attends_to_all_regions,
    gathers_by_one_hot_products,
    gathers_by_remembered_routes,
    gathers_by_the_first_image,
    gathers_the_next_region,
    key_mask_hides_nothing,
)
from tests.testing.mutations.gradients import (
    all_regions_get_a_little,
    gradient_changes_from_call_to_call,
    gradient_flows_through_routing,
    gradients_are_rounded_at_random,
    gradients_stay_wide,
    one_route_wins,
    padding_is_weighed_in_the_gradient,
    scale_is_missing_from_the_gradient,
    values_are_detached,
)
from tests.testing.mutations.regions import (
    merge_transposes_axes,
    padding_counts_in_the_mean,
    padding_repeats_the_last_token,
    regions_in_column_major_order,
    regions_of_fixed_size,
)
from tests.testing.mutations.routing import (
    a_route_comes_twice,
    nan_first,
    one_row_routes_for_all,
    routes_to_neighbours,
    routes_to_the_worst,
    routes_worst_first,
    routing_scores_are_scaled,
    ties_to_the_higher_region,
)
from tests.testing.mutations.whole import (
    exchange_loses_digits,
    extent_of_the_first_column,
    fused_in_half_precision,
    fused_routes_break_ties_upward,
    fused_with_another_scale,
    images_one_by_one,
    output_stays_wide,
    queries_are_scaled_in_place,
    queries_leak_within_their_region,
    routes_are_sorted_in_place,
    strides_are_ignored,
    sums_in_random_order,
)

__all__ = ["MUTATIONS", "Mutation"]

BOTH = ("numpy", "torch")
NUMPY = ("numpy",)
TORCH = ("torch",)

MUTATIONS: tuple[tuple[Mutation, tuple[str, ...], tuple[str, ...]], ...] = (
    (regions_of_fixed_size, BOTH, ("partition_follows_the_definition", "merge_inverts_partition")),
    (padding_repeats_the_last_token, BOTH, ("partition_follows_the_definition",)),
    (
        regions_in_column_major_order,
        BOTH,
        ("partition_follows_the_definition", "bra_follows_its_routes"),
    ),
    (merge_transposes_axes, BOTH, ("merge_inverts_partition", "bra_follows_its_routes")),
    (
        padding_counts_in_the_mean,
        BOTH,
        ("summarize_is_the_mean_of_real_tokens", "agrees_with_the_reference"),
    ),
    (
        routes_to_the_worst,
        BOTH,
        (
            "scores_are_products_of_means",
            "best_first_and_ties_to_the_lower_region",
            "bra_follows_its_routes",
            "agrees_with_the_reference",
        ),
    ),
    (routes_worst_first, BOTH, ("scores_are_products_of_means", "nan_scores_come_last")),
    (ties_to_the_higher_region, BOTH, ("best_first_and_ties_to_the_lower_region",)),
    (nan_first, BOTH, ("nan_scores_come_last",)),
    (
        routes_to_neighbours,
        BOTH,
        ("permuting_key_regions_permutes_routes", "bra_follows_its_routes"),
    ),
    (
        one_row_routes_for_all,
        BOTH,
        ("permuting_query_regions_permutes_the_output", "bra_follows_its_routes"),
    ),
    (
        a_route_comes_twice,
        BOTH,
        ("topk_of_all_regions_is_dense_attention", "scores_are_products_of_means"),
    ),
    (routing_scores_are_scaled, BOTH, ("scores_are_products_of_means",)),
    (
        attends_to_all_regions,
        BOTH,
        (
            "bra_follows_its_routes",
            "given_routes_are_used",
            "agrees_with_the_reference",
            "keys_reach_only_queries_routed_to_them",
        ),
    ),
    (gathers_the_next_region, BOTH, ("gather_takes_the_routed_regions", "bra_follows_its_routes")),
    (
        gathers_by_the_first_image,
        BOTH,
        ("gather_takes_the_routed_regions", "given_routes_are_used"),
    ),
    (gathers_by_one_hot_products, BOTH, ("keys_reach_only_queries_routed_to_them",)),
    (
        gathers_by_one_hot_products,
        TORCH,
        ("gradients_pass_by_what_nobody_attends_to",),
    ),
    (gathers_by_remembered_routes, BOTH, ("given_routes_are_used",)),
    (
        key_mask_hides_nothing,
        BOTH,
        ("key_mask_marks_real_tokens", "topk_of_all_regions_is_dense_attention"),
    ),
    (
        scale_is_dropped,
        BOTH,
        ("out_is_softmax_attention", "bra_follows_its_routes", "agrees_with_the_reference"),
    ),
    (scale_is_always_the_default, BOTH, ("out_is_softmax_attention",)),
    (
        mask_is_ignored,
        BOTH,
        (
            "out_is_softmax_attention",
            "masked_keys_do_not_matter",
            "topk_of_all_regions_is_dense_attention",
        ),
    ),
    (no_mask_hides_the_last_key, BOTH, ("no_mask_is_all_true",)),
    (lse_in_base_two, BOTH, ("lse_is_the_natural_logsumexp",)),
    (nan_becomes_zero, BOTH, ("keys_reach_only_queries_routed_to_them",)),
    (masked_by_a_large_number, BOTH, ("masked_keys_do_not_matter",)),
    (softmax_without_the_largest, BOTH, ("out_is_softmax_attention",)),
    (
        softmax_in_half_precision,
        BOTH,
        ("out_is_softmax_attention", "error_is_within_the_budget", "lse_is_the_natural_logsumexp"),
    ),
    (sums_in_the_dtype_of_the_input, BOTH, ("out_is_softmax_attention",)),
    (fused_with_another_scale, BOTH, ("bra_is_the_primitives_composed",)),
    (fused_in_half_precision, BOTH, ("error_of_bra_is_within_the_budget",)),
    (fused_routes_break_ties_upward, BOTH, ("bra_routes_as_route_does",)),
    (extent_of_the_first_column, BOTH, ("extent_is_right_or_none",)),
    (exchange_loses_digits, BOTH, ("exchanged_arrays_keep_their_bits",)),
    (queries_are_scaled_in_place, BOTH, ("inputs_are_unchanged",)),
    (routes_are_sorted_in_place, BOTH, ("inputs_are_unchanged",)),
    (sums_in_random_order, BOTH, ("same_call_gives_the_same_bits",)),
    (strides_are_ignored, BOTH, ("views_give_what_copies_give",)),
    (images_one_by_one, BOTH, ("no_images_give_no_output",)),
    (output_stays_wide, BOTH, ("results_are_of_the_kind_promised",)),
    (queries_leak_within_their_region, BOTH, ("queries_reach_only_their_own_output",)),
    (
        one_route_wins,
        NUMPY,
        ("pullback_matches_finite_differences", "pullback_agrees_with_the_reference"),
    ),
    (padding_is_weighed_in_the_gradient, NUMPY, ("pullback_of_scores_far_from_zero",)),
    (gradients_stay_wide, NUMPY, ("same_pullback_gives_the_same_bits",)),
    (gradients_are_rounded_at_random, NUMPY, ("same_pullback_gives_the_same_bits",)),
    (all_regions_get_a_little, NUMPY, ("pullback_passes_by_what_nobody_attends_to",)),
    (
        values_are_detached,
        TORCH,
        (
            "gradients_match_finite_differences",
            "pullback_matches_finite_differences",
            "pullback_agrees_with_the_reference",
        ),
    ),
    (
        scale_is_missing_from_the_gradient,
        TORCH,
        ("gradients_match_finite_differences", "pullback_matches_finite_differences"),
    ),
    (gradient_flows_through_routing, TORCH, ("no_gradient_flows_through_routing",)),
    (gradient_changes_from_call_to_call, TORCH, ("same_call_gives_the_same_gradients",)),
)
