"""How far two results may be apart that would be equal without rounding.

With eps of the dtype that is computed in, z = (x - max x) / T is rounded by eps abs(z), and a sum
of exponentials by a few eps, relative. Where the logits themselves were rounded before, as in
x + c, z moves by a `change`, of a row: what a result may move by then is its slope times that.

- A probability that is an exponential moves in proportion to itself: small ones have as many
  digits as large ones. One that may be 0 has a slope of at most 1. That of entmax is the 1 /
  kappa-th power of a quantity with such errors, kappa = alpha - 1, and above kappa = 1 has no bound
  at 0: so has its error. Many entries that are about to leave the support move the others, too.
- A logarithm or an x / T: relative to itself, and beside that as the normalizer.
- A number, of size v. Entropy and the losses have a slope of at most 2 (1 + log V + v); that which
  moves with the logits, logsumexp, is rounded relative to the largest of these, and T log V.
  The square in the z-loss moves by twice what it is the square of.
"""

import jax.numpy as jnp
import numpy as np

from tests.compare import eps
from tests.fuzz.calls import Facts
from tests.fuzz.traits import QUIET, Traits
from tests.reference import Row

SMALL = 1e-30
"""Less may be zero: XLA counts denormals as such."""
FARTHEST = 110.0
"""Entries further below the largest have no mass."""
LARGEST_CHANGE = 0.01
"""Where z moves by more there is nothing left to compare."""


def tolerance(traits: Traits, facts: Facts, y: Row, change: Row | float = 0.0) -> Row:
    """The largest difference of results like `y`, per entry or per row."""
    n, length = facts.x.shape
    per_row = np.broadcast_to(change + facts.change, n)
    log = 1 + np.log(length)
    size = np.abs(np.where(np.isfinite(y), y, 0).astype(np.float64))
    rounded: Row | float = 0.0
    if y.dtype.itemsize == 2:
        # Half of what two neighbours are apart, denormal ones too.
        least = float(jnp.finfo(y.dtype).smallest_normal)
        rounded = 0.5 * eps(y.dtype) * np.maximum(size, least)
    if traits.shape == "number":
        return rounded + _of_number(traits, facts, size, per_row, log)
    error = 32 * facts.eps * log + 4 * per_row[:, None]
    if traits.positive:
        z = np.minimum(np.nan_to_num(facts.z), FARTHEST)
        relative = 4 * facts.eps * (8 + z) + 4 * per_row[:, None]
        return rounded + SMALL + relative * size
    if traits.shape == "simplex":
        kappa = facts.settings.get("alpha", np.full(n, 1.5)).astype(np.float64) - 1
        power = 1 / np.maximum(np.nan_to_num(kappa, nan=1.0), 1)
        together = np.where(power < 1, 2, 1)
        return rounded + SMALL + together[:, None] * error ** power[:, None]
    if traits.shape == "log":
        # z of entries without mass is as large as they are.
        return rounded + error * (1 + size)
    return rounded + SMALL + 8 * facts.eps * size


def _of_number(traits: Traits, facts: Facts, size: Row, change: Row, log: float) -> Row:
    error = 32 * facts.eps * log + 4 * change
    if traits.shift == 1:
        scale = np.where(np.isfinite(facts.temperature), facts.temperature, 0)
        large = np.where(np.isfinite(facts.peak), np.abs(facts.peak), 0)
        return SMALL + error * scale * log + 4 * facts.eps * (large + size)
    allowed = error * log * (1 + size)
    if QUIET in facts.settings:
        cold = np.where(facts.temperature == 0, 1, facts.temperature)
        hot = np.where(np.isfinite(facts.peak), np.abs(facts.peak), 0) / cold + log
        quiet = np.nan_to_num(facts.settings[QUIET])
        # Where there is no z-loss, hot * hot may be infinite.
        allowed += np.where(quiet == 0, 0, 2 * quiet * error * hot * hot)
    return allowed


def differs(a: Row, b: Row, allowed: Row | float) -> Row:
    """Where two arrays are further apart; equal infinities and NaN are not. One value a row."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        apart = ~((a == b) | (np.abs(a - b) <= allowed) | (np.isnan(a) & np.isnan(b)))
    return apart.any(-1) if apart.ndim == 2 else apart


def unequal(a: Row, b: Row) -> Row:
    """Where two arrays are not the same; NaN is the same as NaN. One value a row."""
    return differs(a, b, 0.0)
