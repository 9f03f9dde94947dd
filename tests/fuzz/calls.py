"""A function on a batch: each form is compiled once a shape, and serves every property."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.fuzz.strategies import CAP, Batch, Numbers, bad, capped
from tests.fuzz.traits import entrywise, traits
from tests.layouts import Layout
from tests.reference import Row
from tests.registry import Entry

KEY = 7


def leaves(entry: Entry, result: Any) -> list[Any]:
    """One array, or a token and its log-probability."""
    return list(result) if entry.pair else [result]


def _outcome(entry: Entry, result: Any) -> list[Row]:
    """The results as NumPy arrays, half precision as it is."""
    return [np.asarray(leaf) for leaf in leaves(entry, result)]


@functools.cache
def _compiled(entry: Entry, static: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def call(x: jax.Array, where: jax.Array | None, settings: Any) -> Any:
        key = jax.random.key(KEY)
        return entry(x, key=key, where=where, **settings, **dict(static))

    return jax.jit(call)


def outcome(entry: Entry, x: Row, where: Row | None, settings: Numbers, **static: Any) -> list[Row]:
    """What it returns, compiled: a list of one array, or of a token and its log-probability."""
    compiled = _compiled(entry, tuple(static.items()))
    return _outcome(entry, compiled(x, where, settings))


def value(entry: Entry, x: Row, where: Row, settings: Numbers, **static: Any) -> Row:
    """Its first result."""
    return outcome(entry, x, where, settings, **static)[0]


def eager(entry: Entry, x: Row, where: Row, settings: Numbers) -> list[Row]:
    """What it returns where the caller compiles nothing."""
    result = entry(
        jnp.asarray(x),
        key=jax.random.key(KEY),
        where=jnp.asarray(where),
        **{name: jnp.asarray(number) for name, number in settings.items()},
    )
    return _outcome(entry, result)


@functools.cache
def _differentiated(entry: Entry) -> Callable[..., Any]:
    heated = "temperature" in entry.settings

    def call(
        x: jax.Array, where: jax.Array, settings: Any, along: Any, cotangent: jax.Array
    ) -> Any:
        def function(x: jax.Array, temperature: jax.Array | None) -> jax.Array:
            numbers = settings | ({"temperature": temperature} if heated else {})
            # Of a draw that is the log-probability: the token is a constant.
            *_, y = leaves(entry, entry(x, key=jax.random.key(KEY), where=where, **numbers))
            # What is infinite is a constant, and would meet 0 * inf here.
            return jnp.where(jnp.isfinite(y), y, 0)

        primals = x, settings["temperature"] if heated else None
        tangents = along[0], along[1] if heated else None
        y, back = jax.vjp(function, *primals)
        ahead = jax.jvp(function, primals, tangents)[1] if traits(entry).forward else y * 0
        of_x, of_temperature = back(cotangent)
        if of_temperature is None:
            of_temperature = of_x[:, 0] * 0
        return ahead, of_x, of_temperature

    return jax.jit(call)


def derivatives(entry: Entry, batch: Batch, settings: Numbers) -> tuple[Row, Row, Row, Row]:
    """The cotangent, the tangent of the result, and the gradients by the logits and by T."""
    cotangent = batch.cotangent
    if not entrywise(traits(entry)):
        cotangent = cotangent[:, 0]
    along = batch.tangent, batch.slope
    found = _differentiated(entry)(batch.x, batch.where, settings, along, cotangent)
    return cotangent, *map(np.asarray, found)


@functools.cache
def _split(entry: Entry, layout: Layout) -> Callable[..., Any]:
    shape = traits(entry).shape
    out = P(layout.batch) if shape in ("number", "token") else layout.rows
    numbers = dict.fromkeys(entry.settings, P(layout.batch))

    def call(x: jax.Array, where: jax.Array, settings: Any) -> Any:
        key = jax.random.key(KEY)
        return entry(x, key=key, where=where, axis_name=layout.vocabulary, **settings)

    mapped = jax.shard_map(
        call,
        mesh=layout.mesh,
        in_specs=(layout.rows, layout.rows, numbers),
        out_specs=(out, out) if entry.pair else out,
        check_vma=layout.check_vma,
    )
    return jax.jit(mapped)


def padded(batch: Batch) -> tuple[Row, Row]:
    """Rows filled up to a multiple of 16 with NaN, which is masked."""
    wide = [(0, 0), (0, -batch.length % 16)]
    x = np.pad(batch.x, wide, constant_values=np.nan)
    return x, np.pad(batch.where, wide, constant_values=False)


def on_shards(entry: Entry, layout: Layout, batch: Batch, settings: Numbers) -> list[Row]:
    """What it returns inside `shard_map`: rows are filled up to a multiple of 16 with NaN, masked.

    So every one of eight shards has two entries at least.
    """
    x, where = padded(batch)
    numbers = {
        name: jax.device_put(number, NamedSharding(layout.mesh, P(layout.batch)))
        for name, number in settings.items()
    }
    result = _split(entry, layout)(layout.put(x), layout.put(where), numbers)
    found = _outcome(entry, result)
    return [y[:, : batch.length] if y.ndim == 2 else y for y in found]


# --- what is known of the rows ---------------------------------------------------------------


def flushed(x: Row) -> Row:
    """As the compiled programs see it: on CPUs a denormal counts as zero."""
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    return np.where(np.abs(wide) < np.finfo(wide.dtype).tiny, np.copysign(0, wide), wide)


class Facts:
    """Rows under their settings, in float64."""

    def __init__(self, x: Row, where: Row, settings: Numbers) -> None:
        given = self.x = flushed(x).astype(np.float64)
        if CAP in settings:
            self.x = capped(given, settings[CAP].astype(np.float64)[:, None])
        self.where = where
        self.settings = settings
        self.wide = np.float64 if x.dtype == np.float64 else np.float32
        self.eps = float(np.finfo(self.wide).eps)
        """Of the dtype in which it is computed."""
        self.live = where & (self.x != -np.inf)
        self.nothing = ~self.live.any(-1)
        spoilt = (where & ~(self.x < np.inf)).any(-1)
        illegal = bad(settings, len(x))
        self.sound = ~spoilt & ~illegal
        self.broken = spoilt | (illegal & ~self.nothing)
        """Not the rows with nothing allowed and a wrong setting: functions differ there."""
        self.temperature = np.float64(settings.get("temperature", np.ones(len(x))))
        self.peak = np.max(self.x, -1, where=self.live, initial=-np.inf)
        with np.errstate(all="ignore"):
            gap = np.where(self.live, self.peak[:, None] - self.x, 0)
            self.z = gap / np.where(self.temperature == 0, 1, self.temperature)[:, None]
            """(max x - x) / T; at T = 0 as at one."""
            near = self.live & (self.z < 110)
            tiny = float(np.finfo(self.wide).tiny)
            small = ((gap > 0) & (gap < 4 * tiny)) | ((self.x != 0) & (np.abs(self.x) < 4 * tiny))
            self.denormal = (small & self.live).any(-1)
            self.flushes = self.denormal & (self.temperature < 2.0**30 * tiny)
            """A difference of logits, or of their halves, may be a denormal, which counts as zero;
            and a T this small, or zero, makes much of it."""
            self.farthest = np.max(self.z, -1, where=self.live, initial=0)
        if "label_smoothing" in settings:
            # Their mean is a summand: rounding decides whether that is a float.
            with np.errstate(all="ignore"):
                mean = self.z.sum(-1) / np.maximum(self.live.sum(-1), 1)
            self.sound &= ~(np.abs(mean / np.finfo(self.wide).max - 1) < 1e-4)
        self.magnitude = np.max(np.abs(self.x), -1, where=near, initial=0)
        """Of the entries that have mass."""
        self.change: Row | float = 0.0
        """By how much rounding moves z before there are logits: that of a cap does."""
        if CAP in settings:
            rounded = 8 * self.eps * self.magnitude
            with np.errstate(all="ignore"):
                self.change = np.where(self.temperature == 0, 0, rounded / self.temperature)
            # At T = 0 rounding decides whether entries tie that were not equal before.
            level = np.max(given, -1, where=self.live, initial=-np.inf)[:, None]
            near = self.live & (given < level) & (gap <= rounded[:, None])
            self.sound &= ~(near.any(-1) & (self.temperature == 0))

    @property
    def some(self) -> Row:
        """Sound rows with something allowed."""
        return self.sound & ~self.nothing
