"""A row at its temperature, and what its truncation keeps: shared by the masks and the samplers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._blocks import block_sum
from jsoftmax._checks import Rows, check_setting, check_temperature, compute_dtype
from jsoftmax._reduce import row_max, row_sweep
from jsoftmax._select import Selection, Weights, select, step_down
from jsoftmax._typing import Along, Setting


class Settings(NamedTuple):
    """Checked settings of a truncation, in the compute dtype; None is off."""

    temperature: Array | None
    top_k: Array | None
    top_p: Array | None
    min_p: Array | None


def check_settings(
    function: str,
    temperature: Setting,
    top_k: Setting | None,
    top_p: Setting | None,
    min_p: Setting | None,
    rows: Rows,
) -> Settings:
    """Check the settings that `truncation_mask` and the samplers share."""

    def check(argument: str, value: Setting | None) -> Array | None:
        return None if value is None else check_setting(function, argument, value, rows)

    return Settings(
        check_temperature(function, temperature, rows),
        check("top_k", top_k),
        check("top_p", top_p),
        check("min_p", min_p),
    )


class Row(NamedTuple):
    """Rows at their temperature, the axis last: what truncation and sampling look at.

    The distribution has the weight exp((x - max x) / T) at the entries above the floor. The sums
    over a set of entries are always taken by `sweep`, so that a mask and a draw agree to the
    last bit on what is kept.
    """

    x: Array
    """The logits in the compute dtype, -inf where disallowed. They order the entries."""
    peak: Array
    rate: Array | None
    """1 / T."""
    floor: Array
    """Entries above it are considered: those above -inf, and at T = 0 only the largest."""
    invalid: Array
    """NaN or +inf among the logits, or a setting that is NaN."""
    along: Along

    def z(self, x: Array) -> Array:
        """(x - max x) / T of these entries."""
        difference = x - jnp.where(self.peak == -jnp.inf, 0, self.peak)
        if self.rate is None:
            return difference
        # Bounded, so that no difference that overflows meets the rate 0 of T = inf.
        return jnp.maximum(difference, -jnp.finfo(x.dtype).max) * self.rate

    def weight(self, x: Array, above: Array) -> Array:
        """exp((x - max x) / T) of these entries, 0 where they are not above the pivot."""
        return jnp.where(x > above, jnp.exp(self.z(x)), 0)

    def blocks_above(self, pivot: Array) -> Array:
        """Weight of every block, of its entries above the pivot."""
        return block_sum(self.weight(self.x, pivot))

    def masses_above(self, pivots: Sequence[Array]) -> list[Array]:
        """Weight of the entries above each pivot, as the cut of top-p is found by."""
        return row_sweep(self.along, sums=[self.weight(self.x, pivot) for pivot in pivots])

    def select(
        self, weights: Weights, target: Callable[[Array], Array], floor: Array, wanted: Array
    ) -> Selection:
        """The largest entries above the floor whose weight reaches the target."""
        return select(
            self.x,
            weights,
            target,
            floor=floor,
            peak=self.peak,
            spread=1.0 if self.rate is None else 1 / self.rate,
            wanted=wanted & ~self.invalid,
            along=self.along,
        )

    def passes_min_p(self, x: Array, min_p: Array) -> Array:
        """Whether these entries are at least min_p times as probable as the largest."""
        return self.z(x) >= log_ratio(min_p)

    def min_p_floor(self, min_p: Array) -> Array:
        """A pivot below all that min-p keeps, and close to it."""
        reach = log_ratio(min_p) if self.rate is None else log_ratio(min_p) / self.rate
        slack = 8 * jnp.finfo(self.x.dtype).eps * (jnp.abs(self.peak) + jnp.abs(reach))
        floor = self.peak + reach - slack
        floor = jnp.minimum(floor, step_down(self.peak))
        return jnp.where(jnp.isnan(floor), -jnp.inf, floor)

    def everything(self) -> Array:
        """The mask that keeps every allowed entry: NaN and +inf too, in a row that is invalid."""
        return jnp.where(self.invalid, ~(self.x == -jnp.inf), self.x > self.floor)


def row_of(logits: Array, settings: Settings, along: Along) -> tuple[Row, Settings]:
    """Take the logits to their temperature, with the axis last. No gradient flows.

    The settings come back with the axis last, and with those that have no effect turned off.
    """
    # The barrier keeps a compiler from computing the logits anew for each comparison with a cut,
    # and from rounding them differently.
    logits = lax.optimization_barrier(lax.stop_gradient(logits))
    settings = lax.stop_gradient(settings)
    logits, settings = jax.tree.map(lambda x: jnp.moveaxis(x, along.axis, -1), (logits, settings))
    along = along.last
    x = logits.astype(compute_dtype(logits.dtype))
    peak = row_max(x, along)
    temperature, top_k, top_p, min_p = settings
    invalid = jnp.isnan(peak)
    for setting in settings:
        if setting is not None:
            invalid |= jnp.isnan(setting)
    rate, floor = None, jnp.full_like(peak, -jnp.inf)
    if temperature is not None:
        rate = jnp.minimum(1 / temperature, jnp.finfo(x.dtype).max)
        floor = jnp.where(temperature == 0, step_down(peak), floor)
        # At T = inf the entries tie: what keeps one keeps all.
        uniform = temperature == jnp.inf
        top_k = None if top_k is None else jnp.where(uniform, 0, top_k)
        top_p = None if top_p is None else jnp.where(uniform, 1, top_p)
    # Nothing in an invalid row is above its floor: it has no weight, and disturbs no loop.
    floor = jnp.where(invalid, jnp.inf, floor)
    return Row(x, peak, rate, floor, invalid, along), Settings(temperature, top_k, top_p, min_p)


def row_and_number(logits: Array, number: Array, along: Along) -> tuple[Row, Array]:
    """The rows of a mask that has one setting, and the setting, with the axis last."""
    row, _ = row_of(logits, Settings(None, None, number, None), along)
    return row, jnp.moveaxis(lax.stop_gradient(number), along.axis, -1)


def log_ratio(ratio: Array) -> Array:
    """log(ratio) for a threshold on z: at most 0, which keeps the mode, and -inf for ratio <= 0."""
    return jnp.log(jnp.clip(ratio, 0, 1))
