"""Softmax-weighted sums of values, met block by block: the parts of rows, and how they merge.

A block is known by its largest logit m, s = sum exp(x - m) and sum exp(x - m) v. Two blocks merge
into one of the same kind; m is a constant of the derivative, since no result depends on it.
"""

from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from jsoftmax._checks import (
    broadcast,
    check_axis_name,
    check_kind,
    check_logits,
    check_rows,
    check_size,
)
from jsoftmax._dtypes import common_dtype, compute_dtype
from jsoftmax._exp import exp
from jsoftmax._reduce import row_max, row_sum, shard_sum
from jsoftmax._shift import shift
from jsoftmax._typing import Along, AxisName


class OnlineSoftmax(NamedTuple):
    r"""A softmax-weighted mean of values whose logits come in blocks, as attention's do.

    .. math:: \mathrm{softmax}(x) \, v = \frac{\sum_b e^{m_b - m} \sum_{i \in b} e^{x_i - m_b} v_i}
       {\sum_b e^{m_b - m} \sum_{i \in b} e^{x_i - m_b}}, \quad m = \max_b m_b

    The state is a pytree of three arrays and merging is associative, with `empty` as its identity:
    it can be carried by ``jax.lax.scan``, reduced by ``jax.lax.associative_scan``, and merged
    `across` devices. Every method is pure, and works under ``jit``, ``vmap`` and ``grad``.

    Begin with `of` or `empty`; `finish` gives the weighted mean, `logsumexp` the logarithm of the
    normalizer.

    Edge cases: a row with nothing allowed finishes as 0, with gradient 0. A -inf or disallowed
    entry has weight 0 and gradient 0; its value is still multiplied by that 0, so values must be
    finite, and so must their weighted sum, which is taken before the division. A NaN or +inf logit
    makes its row NaN. A sink, a logit that takes mass and gives nothing, is a block of one entry
    whose value is 0.

    Source: Milakov and Gimelshein (2018), Online normalizer calculation for softmax; Rabe and
    Staats (2021), Self-attention does not need O(n^2) memory.

    Examples:
      >>> import jax.numpy as jnp
      >>> import jsoftmax
      >>> x, v = jnp.array([0.0, 1.0, 2.0, -jnp.inf]), jnp.eye(4)
      >>> state = jsoftmax.OnlineSoftmax.of(x[:2], v[:2]).update(x[2:], v[2:])
      >>> with jnp.printoptions(precision=4):
      ...     print(state.finish(), jsoftmax.softmax(x))
      [0.09   0.2447 0.6652 0.    ] [0.09   0.2447 0.6652 0.    ]
    """

    peak: Array
    """The largest logit so far, [..., 1]: -inf where nothing was allowed yet."""
    total: Array
    """The sum of exp(logit - peak), [..., 1]."""
    values: Array
    """The sum of exp(logit - peak) times the values, [..., F]."""

    @classmethod
    def empty(
        cls, batch: tuple[int, ...], features: int, dtype: DTypeLike = "float32"
    ) -> "OnlineSoftmax":
        """The state of no entries at all, for rows of shape `batch` and values of size `features`.

        Inside ``jax.shard_map`` begin a scan with the state `of` a block instead: a constant is not
        marked as varying over the mesh.

        Raises:
          TypeError: batch is no tuple or list of integers, features is no integer, or dtype is
            neither float32 nor float64 (float32 too, without ``jax_enable_x64``).
          ValueError: a size below 0.
        """
        name = "OnlineSoftmax.empty"
        check_kind(name, "batch", batch, tuple, list)
        sizes = [check_size(name, "batch", size) for size in batch]
        count = check_size(name, "features", features)
        allowed = np.dtype(np.float32), np.dtype(np.float64)
        given = cast("object", dtype)
        # NumPy takes None for float64.
        if given is None or given not in allowed:
            raise TypeError(f"{name}: dtype must be float32 or float64, got {dtype}")
        return cls(*_empty(tuple(sizes), count, np.dtype(dtype)))

    @classmethod
    def of(
        cls, logits: ArrayLike, values: ArrayLike, *, where: ArrayLike | None = None
    ) -> "OnlineSoftmax":
        """The state of one block.

        Args:
          logits: real numbers of shape [..., K].
          values: real numbers that ``jnp.matmul(logits, values)`` accepts, [..., K, F]: for
            attention, logits [..., queries, keys] and values [..., keys, F].
          where: boolean, broadcasts to the logits' shape: True where an entry is allowed.

        Returns:
          A state of float32 (float64 if an input is). The weights are multiplied with the values in
          the dtype both have, else in float32, and accumulated in float32.

        Raises:
          TypeError: logits or values are not real numbers, or `where` is not boolean.
          ValueError: shapes that do not fit together.
        """
        return cls._checked("OnlineSoftmax.of", logits, values, where)

    @classmethod
    def _checked(
        cls, name: str, logits: ArrayLike, values: ArrayLike, where: ArrayLike | None
    ) -> "OnlineSoftmax":
        rows = check_rows(name, logits, -1, where, None)
        v = check_logits(name, values, "values")
        x = rows.logits
        if (
            v.ndim < 2
            or v.shape[-2] != x.shape[-1]
            or broadcast(x.shape[:-2], v.shape[:-2]) is None
        ):
            raise ValueError(
                f"{name}: values must have shape [..., K, F] for logits [..., K], and batch "
                f"axes that broadcast with theirs, got {v.shape} for {x.shape}"
            )
        return cls(*_of(x, v, rows.along))

    def update(
        self, logits: ArrayLike, values: ArrayLike, *, where: ArrayLike | None = None
    ) -> "OnlineSoftmax":
        """The state with another block in it; arguments and errors as `of` and `merge`."""
        return self.merge(self._checked("OnlineSoftmax.update", logits, values, where))

    def merge(self, other: "OnlineSoftmax") -> "OnlineSoftmax":
        """The state of the entries of both, whose batch shapes broadcast to each other.

        Raises:
          TypeError: other is no state.
          ValueError: batch shapes that do not, or values of another size.
        """
        check_kind("OnlineSoftmax.merge", "other", other, OnlineSoftmax)
        one, two = self.values.shape, other.values.shape
        if one[-1] != two[-1] or broadcast(one[:-1], two[:-1]) is None:
            raise ValueError(
                "OnlineSoftmax.merge: other must have values of the same size, and a batch shape "
                f"that broadcasts with this one's, got [..., F] = {two} for {one}"
            )
        return _merge(self, other)

    def across(self, axis_name: AxisName) -> "OnlineSoftmax":
        """The state of the entries of all shards, inside ``jax.shard_map``: an all-reduce of it.

        Raises:
          ValueError: no mesh axis of that name is in scope.
        """
        names = check_axis_name("OnlineSoftmax.across", axis_name)
        along = Along(self.peak.ndim - 1, names)
        peak = row_max(self.peak, along)
        scaled = _at(self, peak)
        return OnlineSoftmax(peak, shard_sum(scaled.total, along), shard_sum(scaled.values, along))

    def finish(self) -> Array:
        """The weighted mean, [..., F]: 0 where nothing was allowed."""
        return _finish(self)

    def logsumexp(self) -> Array:
        """Logarithm of the sum of exp(logit), [...]: -inf where nothing was allowed.

        To within an eps of the sum: what one entry holds all of but for less, it does not tell, as
        `jsoftmax.logsumexp` does.
        """
        return _logsumexp(self)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _empty(batch: tuple[int, ...], features: int, dtype: np.dtype) -> tuple[Array, Array, Array]:
    peak = jnp.full((*batch, 1), -jnp.inf, dtype)
    return peak, jnp.zeros((*batch, 1), dtype), jnp.zeros((*batch, features), dtype)


@partial(jax.jit, static_argnums=2)
def _of(x: Array, v: Array, along: Along) -> tuple[Array, Array, Array]:
    dtype = common_dtype(x, v)
    wide = compute_dtype(dtype)
    peak = row_max(x.astype(wide), along)
    mass = exp(shift(x, None, peak))
    weighted = jnp.matmul(mass.astype(dtype), v.astype(dtype), preferred_element_type=wide)
    return peak, row_sum(mass, along), weighted


@jax.jit
def _merge(one: OnlineSoftmax, two: OnlineSoftmax) -> OnlineSoftmax:
    dtype = np.promote_types(one.peak.dtype, two.peak.dtype)
    ranks = [max(x.ndim, y.ndim) for x, y in zip(one, two, strict=True)]
    one, two = (
        OnlineSoftmax(*(_of_rank(x.astype(dtype), n) for x, n in zip(state, ranks, strict=True)))
        for state in (one, two)
    )
    peak = lax.stop_gradient(jnp.maximum(one.peak, two.peak))
    one, two = _at(one, peak), _at(two, peak)
    return OnlineSoftmax(peak, one.total + two.total, one.values + two.values)


def _of_rank(x: Array, rank: int) -> Array:
    """The array with axes of size one in front, where it has fewer."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


@jax.jit
def _finish(state: OnlineSoftmax) -> Array:
    # The values' batch may have axes that the logits' has not.
    total = _of_rank(state.total, state.values.ndim)
    return state.values / jnp.where(total == 0, 1, total)


@jax.jit
def _logsumexp(state: OnlineSoftmax) -> Array:
    nothing = state.total == 0
    log_total = jnp.log(jnp.where(nothing, 1, state.total))
    return jnp.where(nothing, -jnp.inf, state.peak + log_total)[..., 0]


def _at(state: OnlineSoftmax, peak: Array) -> OnlineSoftmax:
    """The same state with its sums relative to another peak."""
    scale = jnp.exp(shift(lax.stop_gradient(state.peak), None, peak))
    of_values = _of_rank(scale, state.values.ndim)
    return OnlineSoftmax(peak, scale * state.total, of_values * state.values)
