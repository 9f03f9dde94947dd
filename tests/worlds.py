"""Stricter settings of jax for a whole run (`--world NAME`), and what cannot be asked in them.

Where a test fails because the library does, that is a bug to mend, and has no place here.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jsoftmax

WORLDS: dict[str, dict[str, bool]] = {
    "x64": {"jax_enable_x64": True},
    "debug-nans": {"jax_debug_nans": True},
    "leaks": {"jax_check_tracer_leaks": True},
    "no-jit": {"jax_disable_jit": True},
    "no-transfers": {},
}
"""Rank promotion, dtype promotion and warnings are errors in every run. Nothing can be prepared
under `jax_transfer_guard="disallow"` (jnp.zeros fails): "no-transfers" guards each call instead."""

SHARD_MAP_GRADIENTS = (
    "fenchel_young::test_equals_dense_over_shards",
    "linear::TestMesh",
    "online::test_across_devices",
    "sharded::test_gradients_equal_dense",
    "sharded::test_what_crosses_of_half_precision_is_wide",
)
ALL_SHARDS = (*SHARD_MAP_GRADIENTS, "sharded", "calibration::TestContract::test_split_over_devices")

EXCEPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "x64": {},
    "debug-nans": {
        "a result is NaN, on purpose": (
            "calibration::TestContract::test_errors_upstream_are_shown",
            "contracts::test_a_mask_keeps_all_of_a_long_row_with_a_nan",
            "contracts::test_no_where_and_full_where_agree",
            "contracts::test_one_bad_logit_in_a_long_row_is_not_overlooked",
            "contracts::test_traced_nan_setting_breaks_its_row_alone",
            "distrax::test_a_draw_from_an_invalid_row",
            "distrax::test_a_value_outside_the_domain",
            "engine::test_the_largest_has_the_dtype_of_the_row",
            "entmax::test_an_alpha_outside_one_to_four",
            "fenchel_young::test_edges",
            "fenchel_young::test_labels_out_of_range",
            "jax::test_plus_infinity_is_an_error_upstream",
            "linear::TestEdges::test_errors",
            "linear::TestEdges::test_labels",
            "linear::TestEdges::test_nan_stays_in_its_row",
            "linear::TestMesh",
            "losses::TestLabels::test_settings_out_of_range",
            "losses::TestLabels::test_traced_labels_out_of_range",
            "losses::TestLabels::test_wide_labels",
            "losses::TestLabels::test_wide_labels_that_are_static",
            "losses::test_a_broken_row_is_nan_also_where_its_label_costs_inf",
            "losses::test_a_distribution_that_is_none",
            "online::test_extreme_and_broken_logits",
            "optax::test_a_label_out_of_range_is_nan",
            "relaxed::test_edges",
            "sample::test_broken_rows_give_a_token_in_range_and_a_nan",
            "select::test_a_broken_row_keeps_every_allowed_entry",
            "sharded::test_equals_dense",
            "sharded::test_gradients_equal_dense",
            "sparse::test_alpha_out_of_range",
            "torch::test_a_label_out_of_range_is_no_label",
            "torch::test_all_ignored",
            "torch::test_an_empty_batch",
        ),
        "an empty bin is NaN, and so is a measure of no examples": (
            "calibration::TestMeasures::test_bins_of_equal_mass_hold_equal_mass",
            "calibration::TestMeasures::test_by_hand",
            "calibration::TestMeasures::test_edges_belong_to_the_bin_below",
            "calibration::TestMeasures::test_equal_confidences_share_a_bin",
            "calibration::TestMeasures::test_nothing",
            "calibration::TestMeasures::test_reference",
            "calibration::TestMeasures::test_the_order_of_the_examples_changes_no_bin",
            "calibration::test_family_of_rows_is_finite",
        ),
        "jax refuses the NaN of the host that is given, masked or not": (
            "calibration::TestContract::test_what_is_ignored_reaches_nothing",
            "contracts::test_mask_logits_broadcasts_promotes_and_differentiates",
            "contracts::test_masked_entries_are_as_if_absent",
            "gradients::test_absent_entries_to_third_order",
            "gradients::test_gradients_are_zero_and_finite_when_nothing_is_allowed",
            "losses::TestLabels::test_a_row_is_ignored_by_where",
            "losses::TestLabels::test_an_ignored_distribution_may_hold_nan",
            "losses::TestValues::test_gradients_beside_impossible_classes",
            "losses::test_the_weight_of_an_absent_class_need_be_no_number",
            "sample::test_a_row_does_not_depend_on_what_the_others_hold",
            "sparse::test_holes_and_empty_rows_have_zero_derivatives",
        ),
        "without jit as well, jax refuses the constant NaN of jnp.where": (
            "contracts::test_no_leaked_tracers_and_no_jit",
        ),
        "jax raises where it meets the NaN, before `checked` names what is behind it": (
            "checked::test_hidden_states_weight_and_bias",
            "checked::test_in_other_worlds",
            "checked::test_logits_rows_and_settings_of_every_function",
            "checked::test_under_every_transformation",
        ),
    },
    "leaks": {
        "jax leaves tracers behind where it differentiates shard_map, of jnp alone too": (
            *SHARD_MAP_GRADIENTS,
        ),
    },
    "no-jit": {
        "nothing is traced: a setting or label out of range is known, and raises": (
            "contracts::test_traced_nan_setting_breaks_its_row_alone",
            "distrax::test_a_value_outside_the_domain",
            "entmax::test_an_alpha_outside_one_to_four",
            "fenchel_young::test_labels_out_of_range",
            "optax::test_a_label_out_of_range_is_nan",
            "relaxed::test_edges",
            "torch::test_a_label_out_of_range_is_no_label",
        ),
        "with debug_nans as well, jax refuses the constant NaN of jnp.where": (
            "calibration::TestContract::test_debug_nans",
            "contracts::test_debug_nans",
            "linear::TestEdges::test_nan_stays_in_its_row",
        ),
        "there is no program to count the traces of, or to measure": (
            "contracts::test_settings_never_retrace",
            "linear::TestMemory::test_a_tenth_of_the_plain_computation",
        ),
        "what is asked is that of programs": ("plain_jit",),
        "outside of a program a constant lies on no mesh": (
            "calibration::test_a_batch_of_two_axes_on_an_explicit_mesh",
            "calibration::test_vmap_over_an_axis_that_an_explicit_mesh_splits",
        ),
        "shard_map operation by operation, on every device, takes minutes": ALL_SHARDS,
    },
    "no-transfers": {
        "settings are arrays there: what is out of range is known at run time, and gives NaN": (
            "calibration::TestContract::test_errors_name_function_argument_value_and_what_is_allowed",
            "distrax::test_a_value_outside_the_domain",
            "entmax::test_an_alpha_outside_one_to_four",
            "fenchel_young::test_labels_out_of_range",
            "losses::TestLabels::test_settings_out_of_range",
            "losses::TestLabels::test_static_labels_out_of_range",
            "losses::TestLabels::test_wide_labels_that_are_static",
            "losses::test_minus_one_is_not_off",
            "relaxed::test_errors",
            "sparse::test_alpha_out_of_range",
            "torch::test_labels_that_are_an_error",
            "truncate::test_a_large_static_k_is_off_and_not_wrapped",
        ),
        "a setting or a key that lies on one device has to go to all of a mesh": (
            "plain_jit::test_settings_of_eager_calls_without_a_mesh_around_them",
            "sharded::test_draws_of_half_precision_over_some_axes_of_a_mesh",
        ),
        "without jit as well, every constant is a transfer": (
            "checked::test_in_other_worlds",
            "contracts::test_no_leaked_tracers_and_no_jit",
            "jax::test_logsumexp_of_few",
        ),
    },
}
"""For each world: a reason, and the tests that have it, by module, class and test."""

STATIC = {
    "allow_empty_rows",
    "axis",
    "bins",
    "block_size",
    "function",
    "hard",
    "keepdims",
    "per_class",
}
"""Arguments that are numbers of Python, or anything at all, and no settings."""


def enter(world: str) -> None:
    """Set jax up, before a module of tests is imported."""
    for name, value in WORLDS[world].items():
        jax.config.update(name, value)
    if world == "no-transfers":
        for module in (jsoftmax, jsoftmax.calibration):
            for name in module.__all__:
                if inspect.isroutine(function := getattr(module, name)):
                    setattr(module, name, guarded(function))


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on arrays that are on the device already, where it may bring nothing there."""

    @functools.wraps(function)
    def call(*data: Any, **keywords: Any) -> Any:
        leaves = jax.tree.leaves((data, keywords))
        try:
            given = inspect.signature(function).bind(*data, **keywords)
        except TypeError:
            return function(*data, **keywords)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return function(*data, **keywords)
        for name, x in given.arguments.items():
            if name not in STATIC:
                given.arguments[name] = on_device(x)
        with jax.transfer_guard("disallow"):
            return function(*given.args, **given.kwargs)

    return call


def on_device(x: Any) -> Any:
    """Numbers and arrays of the host as arrays of the device, the rest as it is."""
    host = np.ndarray | np.generic | float | int
    return jax.device_put(x) if isinstance(x, host) else x


def declared(world: str) -> dict[str, str]:
    """The tests that are left out of a world, each with its reason."""
    return {test: reason for reason, tests in EXCEPTIONS[world].items() for test in tests}


def is_declared(node: str, names: Iterable[str]) -> bool:
    """Whether a test, its class or its module is among the names."""
    path, _, test = node.partition("[")[0].partition("::")
    parts = [Path(path).stem.removeprefix("test_"), *test.split("::")]
    return any("::".join(parts[: i + 1]) in names for i in range(len(parts)))
