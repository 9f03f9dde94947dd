"""A row at its temperature, and what its truncation keeps: shared by the masks and the samplers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._blocks import block_sum
from jsoftmax._dtypes import upcast
from jsoftmax._loop import stored_on_cpus
from jsoftmax._normalizer import depth_sum, log_sum_exp
from jsoftmax._reduce import row_max, row_sum, row_sweep, shard_count, vary_alike
from jsoftmax._select import Selection, Weights, select, step_down
from jsoftmax._settings import Settings
from jsoftmax._sweep import fused_block_sum
from jsoftmax._typing import Along


class Scale(NamedTuple):
    """What takes logits to z = (x - max x) / T: with a unit that keeps what 1 / T alone would lose.

    A quarter, at T > 1, keeps every difference a float. At T = inf the unit leaves no finite
    difference that counts, and -inf as it is; at T = 0 it makes the least difference count.
    """

    unit: Array
    rate: Array
    temperature: Array


class Row(NamedTuple):
    """Rows at their temperature, the axis last: what truncation and sampling look at.

    The distribution has the weight exp((x - max x) / T) at every entry, 0 at -inf. The sums over a
    set of entries are always taken by `sweep`, and all of them by blocks, so that a mask and a draw
    agree to the last bit on what is kept.
    """

    logits: Array
    """-inf where disallowed. In their own dtype: what loops hold is stored and read so."""
    peak: Array
    scale: Scale | None
    """None is T = 1."""
    stored_weights: Array | None
    """The weights, where several passes need them: see `weights`."""
    floor: Array
    """Entries above it are considered: those above -inf, and at T = 0 only the largest."""
    min_p: Array | None
    invalid: Array
    """NaN or +inf among the logits, or a setting that is NaN."""
    along: Along

    @property
    def x(self) -> Array:
        """The logits in the compute dtype. They order the entries."""
        return self.widened(self.logits)

    def widened(self, logits: Array) -> Array:
        """These logits in the compute dtype."""
        return logits.astype(self.peak.dtype)

    def at(self, logits: Array) -> "Row":
        """The row with its logits taken from here, where they are tied to a round of a loop."""
        return self._replace(logits=logits)

    def z(self, x: Array) -> Array:
        """(x - max x) / T of these entries."""
        return _z(x, self.peak, self.scale)

    def weights(self, logits: Array) -> Array:
        """The weights of all entries, whose logits these are."""

        def computed(logits: Array) -> Array:
            return jnp.exp(self.z(self.widened(logits)))

        if self.stored_weights is None:
            return computed(logits)
        return stored_on_cpus(self.stored_weights, computed, logits)

    def weight(self, x: Array, floor: Array) -> Array:
        """The weights of these entries, 0 where they are not above the floor."""
        return jnp.where(x > floor, jnp.exp(self.z(x)), 0)

    def keeps(self, x: Array, floor: Array) -> Array:
        """Whether these entries are above the floor, and min-p keeps them."""
        if self.min_p is None:
            return x > floor
        return (x > floor) & (self.z(x) >= log_threshold(self.min_p))

    def kept_weight(self, x: Array, floor: Array) -> Array:
        """The weights of these entries, 0 where they are not kept."""
        return jnp.where(self.keeps(x, floor), jnp.exp(self.z(x)), 0)

    def mask(self, floor: Array) -> Array:
        """What is kept of the row."""
        return self.unless_invalid(self.keeps(self.x, floor))

    def unless_invalid(self, mask: Array) -> Array:
        """The mask, but every allowed entry, NaN and +inf too, in a row that is invalid."""
        return jnp.where(self.invalid, ~(self.x == -jnp.inf), mask)

    def blocks(self) -> Array:
        """Weight of every block."""
        return self._block_sum(lambda _, weights: weights, block_sum)

    def blocks_kept(self, floor: Array) -> Array:
        """Weight of every block, of its entries that are kept."""

        def of(x: Array, weights: Array) -> Array:
            return jnp.where(self.keeps(x, floor), weights, 0)

        return self._block_sum(of, fused_block_sum)

    def _block_sum(
        self, of: Callable[[Array, Array], Array], of_stored: Callable[[Array, int], Array]
    ) -> Array:
        """Sum over every block of a function of the logits and their weights.

        CPUs take the sums so, where the weights are stored.
        """
        shards = shard_count(self.along)

        def computed(logits: Array) -> Array:
            def of_piece(piece: Array) -> Array:
                x = self.widened(piece)
                return of(x, jnp.exp(self.z(x)))

            return block_sum(logits, shards, of=of_piece)

        if self.stored_weights is None:
            sums = computed(self.logits)
        else:
            sums = lax.platform_dependent(
                self.logits,
                self.stored_weights,
                cpu=lambda logits, mass: of_stored(of(self.widened(logits), mass), shards),
                default=lambda logits, _: computed(logits),
            )
        # A sum of these is then no other sum over the row, whatever else is computed of them.
        return lax.optimization_barrier(sums)

    def total(self) -> Array:
        """Weight of the row."""
        return row_sum(self.blocks(), self.along)

    def masses_above(self, pivots: Sequence[Array]) -> list[Array]:
        """Weight of the entries above each pivot, as the cut of top-p is found by."""
        weights = self.weights(self.logits)
        return row_sweep(
            self.along, sums=[jnp.where(self.x > pivot, weights, 0) for pivot in pivots], reads=2
        )

    def select(
        self,
        weights: Weights,
        target: Array,
        total: Array,
        depth: Array | float,
        floor: Array,
        wanted: Array,
    ) -> Selection:
        """The largest entries above the floor whose weight, of this total, reaches the target.

        In units of the temperature, the least of them is guessed to be `depth` below the largest.
        """
        return select(
            self.logits,
            self.widened,
            weights,
            target,
            total=total,
            floor=floor,
            peak=self.peak,
            depth=depth if self.scale is None else depth * self.scale.temperature,
            wanted=wanted & ~self.invalid,
            along=self.along,
        )


def _z(x: Array, peak: Array, scale: Scale | None) -> Array:
    """As `_shift.shift`, without its derivative: no division and no select in each sweep."""
    peak = jnp.maximum(peak, -jnp.finfo(x.dtype).max)
    if scale is None:
        return x - peak
    return (x * scale.unit - peak * scale.unit) * scale.rate


def _scale(temperature: Array, peak: Array) -> Scale:
    info = jnp.finfo(temperature.dtype)
    one = jnp.ones_like(temperature)
    # Not two factors for a limit: a compiler may multiply them first.
    unit = jnp.where(temperature > 1, 0.25, one)
    unit = jnp.where(temperature == jnp.inf, 2.0**-100, unit)
    unit = jnp.where((temperature == 0) & (jnp.abs(peak) < 1), 2.0**60, unit)
    rate = jnp.clip(1 / (temperature * unit), float(info.tiny), float(info.max))
    return Scale(unit, rate, temperature)


def row_of(
    logits: Array, settings: Settings, along: Along, *, weighed: bool = False
) -> tuple[Row, Settings]:
    """Take the logits to their temperature, with the axis last. No gradient flows.

    The settings come back with the axis last, and with those that have no effect turned off. The
    weights are kept for top-p, or where they are weighed once more; not with top-k, whose window
    answers most.
    """
    logits, settings = vary_alike((logits, settings), besides=along.axis_name)
    # The barrier keeps a compiler from computing the logits anew for each comparison with a cut,
    # and from rounding them differently.
    logits = lax.optimization_barrier(lax.stop_gradient(logits))
    settings = lax.stop_gradient(settings)
    logits, settings = jax.tree.map(lambda x: jnp.moveaxis(x, along.axis, -1), (logits, settings))
    along = along.last
    x = upcast(logits)
    peak = row_max(x, along)
    temperature, top_k, top_p, min_p = settings
    invalid = jnp.isnan(peak)
    for setting in settings:
        if setting is not None:
            invalid |= jnp.isnan(setting)
    scale, floor = None, jnp.full_like(peak, -jnp.inf)
    if temperature is not None:
        scale = _scale(temperature, peak)
        floor = jnp.where(temperature == 0, step_down(peak), floor)
        # At T = inf the entries tie: what keeps one keeps all.
        uniform = temperature == jnp.inf
        top_k = None if top_k is None else jnp.where(uniform, 0, top_k)
        top_p = None if top_p is None else jnp.where(uniform, 1, top_p)
        min_p = None if min_p is None else jnp.where(uniform, 0, min_p)
    # Nothing in an invalid row is above its floor: it disturbs no loop.
    floor = jnp.where(invalid, jnp.inf, floor)
    weights = None
    if (weighed or top_p is not None) and top_k is None:
        weights = lax.optimization_barrier(jnp.exp(_z(x, peak, scale)))
    row = Row(logits, peak, scale, weights, floor, min_p, invalid, along)
    return row, Settings(temperature, top_k, top_p, min_p)


def row_and_number(
    logits: Array, number: Array, along: Along, *, weighed: bool = False
) -> tuple[Row, Array]:
    """The rows of a mask that has one setting, and the setting, with the axis last."""
    logits, number = vary_alike((logits, number), besides=along.axis_name)
    row, _ = row_of(logits, Settings(), along, weighed=weighed)
    number = jnp.moveaxis(lax.stop_gradient(number), along.axis, -1)
    invalid = row.invalid | jnp.isnan(number)
    floor = jnp.where(invalid, jnp.inf, row.floor)
    return row._replace(invalid=invalid, floor=floor), number


def log_threshold(ratio: Array) -> Array:
    """log(ratio) for a threshold on z: at most 0, which keeps the mode, and -inf for ratio <= 0."""
    return jnp.minimum(jnp.log(jnp.clip(ratio, 0, 1)), 0)


def surprise(row: Row) -> tuple[Callable[[Array], Array], Array]:
    """-log p of entries with these logits (inf where p is 0), and the entropy of the row."""
    z = row.z(row.x)
    total, log_total = log_sum_exp(row.x, row.z, row.along)
    # H = sum p (log s - z) = log s - sum exp(z) z / s
    entropy = log_total + depth_sum(z, row.along) / jnp.where(total == 0, 1, total)
    return lambda x: log_total - row.z(x), entropy
