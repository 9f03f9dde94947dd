"""The bins of calibration over pools of any floats; and that the properties can fail."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax import _bins
from tests.fuzz import pools
from tests.fuzz.pools import PROPERTIES, STATIC, Measures, Pools, examine, measures


@pytest.mark.parametrize(("bins", "binning"), STATIC)
def test_pools(bins: int, binning: str) -> None:
    for seed in range(2):
        for name, count, told in examine(seed, bins, binning):
            assert count.wrong == 0, (name, told)


def test_pools_are_of_every_kind() -> None:
    given = [pools.pools(seed) for seed in range(4)]
    some = np.concatenate([of.counts.any(-1) for of in given])
    assert 0.5 < some.mean() < 1
    exact = np.concatenate([of.exact for of in given])
    assert 0.3 < exact[some].mean() < 0.8
    share = np.concatenate([of.right[of.counts] for of in given]).mean()
    assert 0.5 < share < 0.9


def the_bin_above(given: Pools, bins: int, binning: str) -> Measures:
    """As if an edge were in the bin above: all but the last bin give a thousandth of theirs on."""
    got = measures(given, bins, binning)
    moved = got.weight * np.where(np.arange(bins) < bins - 1, 1e-3, 0)
    return got._replace(weight=got.weight - moved + np.roll(moved, 1, -1))


def in_order_of_place(given: Pools, bins: int, binning: str) -> Measures:
    """As if the first example counted a little more."""
    weights = given.weights.copy()
    weights[:, 0] *= np.float32(1.01)
    return measures(given.with_examples(weights=weights), bins, binning)


def looking_at_what_is_ignored(given: Pools, bins: int, binning: str) -> Measures:
    """As if an example of weight 0 had a little."""
    weights = np.where(given.weights == 0, np.float32(1e-3), given.weights)
    sound = given.with_examples(x=np.nan_to_num(given.x, nan=0, posinf=1), weights=weights)
    return measures(sound, bins, binning)


def of_absolute_weights(given: Pools, bins: int, binning: str) -> Measures:
    """As if weights below 1e-3 did not count."""
    weights = np.where(given.weights < 1e-3, 0, given.weights)
    return measures(given.with_examples(weights=weights), bins, binning)


def of_squared_weights(given: Pools, bins: int, binning: str) -> Measures:
    """As if two examples of half the weight were less than one."""
    return measures(
        given.with_examples(weights=np.square(np.minimum(given.weights, 9))), bins, binning
    )


def without_errors(given: Pools, bins: int, binning: str) -> Measures:
    """As if an error spoilt nothing."""
    got = measures(given, bins, binning)
    return got._replace(expected=np.nan_to_num(got.expected))


def with_an_edge_moved(given: Pools, bins: int, binning: str) -> Measures:
    """As if an edge were the next confidence but one."""
    got = measures(given, bins, binning)
    edges = got.edges.copy()
    edges[:, 1:-1] = edges[:, 2:]
    return got._replace(edges=edges)


def of_the_worst_bin(given: Pools, bins: int, binning: str) -> Measures:
    """As if the mean error were the largest."""
    got = measures(given, bins, binning)
    return got._replace(expected=got.maximum)


@pytest.mark.parametrize(
    ("fault", "found_by"),
    [
        (the_bin_above, "bins_hold_their_examples"),
        (in_order_of_place, "order_changes_no_bin"),
        (looking_at_what_is_ignored, "ignored_examples_hold_anything"),
        (of_absolute_weights, "scale_of_the_weights_is_none"),
        (of_absolute_weights, "bins_divide_all"),
        (of_squared_weights, "weights_are_repeats"),
        (without_errors, "an_error_spoils_its_pool"),
        (with_an_edge_moved, "edges_are_quantiles"),
        (with_an_edge_moved, "bins_hold_their_examples"),
        (of_the_worst_bin, "errors_are_those_of_the_curve"),
        (without_errors, "errors_are_those_of_the_curve"),
    ],
)
def test_properties_can_fail(
    fault: Callable[..., Measures], found_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "measures", fault)
    found = {
        name for seed in range(3) for name, count, _ in examine(seed, 4, "mass") if count.wrong
    }
    assert found_by in found


def in_the_bin_above(x: jax.Array, edges: jax.Array) -> jax.Array:
    """As if an edge were in the bin above it."""
    return jnp.sum(x[:, None] >= edges[None, 1:-1], axis=1, dtype=jnp.int32)


def first_above(targets: jax.Array, ascending: jax.Array) -> jax.Array:
    """As if a share had to be exceeded."""
    return jnp.sum(ascending[:, None] <= targets[None], axis=0, dtype=jnp.int32)


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    def forget() -> None:
        pools.compiled.cache_clear()
        jax.clear_caches()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize(
    ("part", "fault"), [("bin_of", in_the_bin_above), ("_first_at_least", first_above)]
)
def test_ties_decide(
    part: str, fault: Callable[..., jax.Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bins, part, fault)
    found = {
        name for seed in range(4) for name, count, _ in examine(seed, 4, "mass") if count.wrong
    }
    assert "edges_are_quantiles" in found


def test_every_property_says_what_it_asks() -> None:
    assert all(holds.__doc__ for holds in PROPERTIES)
