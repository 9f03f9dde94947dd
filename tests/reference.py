"""The definitions of DESIGN in plain float64 NumPy: one row at a time, sorted, no cleverness.

Each `*_row` function takes one row, its boolean `where`, and plain numbers. `over_rows` applies one
to a batch whose last axis is the vocabulary. `np.longdouble` input stays so; everything else
becomes float64.

A mask comes as a pair (must, may): the entries that are certainly kept and those that may be kept,
when the comparisons that decide are made in float32. Away from the cut the two are the same.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Row = np.ndarray[Any, np.dtype[Any]]
Bounds = tuple[Row, Row]

EPS = float(np.finfo(np.float32).eps)
MASS_SLACK = 16 * EPS
"""How far the float32 mass of a set may be from its exact mass, for the masks to be called right.
"""


def as_float(x: Any) -> Row:
    """`x` as float64, or unchanged where it is longdouble."""
    x = np.asarray(x)
    return x if x.dtype == np.longdouble else x.astype(np.float64)


def over_rows(
    row_function: Callable[..., Any], x: Any, *settings: Any, where: Any = None, **static: Any
) -> Any:
    """`row_function(row, where_row, *settings_of_the_row, **static)` for every row of `x`."""
    x = as_float(x)
    batch = x.shape[:-1]
    where = np.broadcast_to(True if where is None else np.asarray(where), x.shape)
    # Where nothing is allowed no setting counts, not even NaN.
    some = allowed_row(x, where).any(-1)
    numbers = [np.where(some, as_float(setting), 1) for setting in settings]
    results = [
        row_function(x[i], where[i], *(number[i] for number in numbers), **static)
        for i in np.ndindex(*batch)
    ]
    if isinstance(results[0], tuple):
        return tuple(stack(list(part), batch) for part in zip(*results, strict=True))
    return stack(results, batch)


def stack(results: list[Any], batch: tuple[int, ...]) -> Row:
    """The results of the rows as one array."""
    array = np.asarray(results)
    return array.reshape(batch + array.shape[1:])


# --- which entries count ---------------------------------------------------------------------


def allowed_row(x: Row, where: Row) -> Row:
    """Entries that are allowed: `where` True, and not -inf. A NaN or +inf is allowed (and breaks
    the row)."""
    return where & (x != -np.inf)


def broken_row(x: Row, where: Row) -> bool:
    """Whether an allowed entry is NaN or +inf."""
    return bool(np.any(where & (np.isnan(x) | (x == np.inf))))


def bad_temperature(temperature: float) -> bool:
    """Whether a temperature has no meaning."""
    return bool(np.isnan(temperature) or temperature < 0)


# --- maps and reductions ---------------------------------------------------------------------


def scaled_row(x: Row, where: Row, temperature: float = 1.0) -> Row:
    """(x - max) / T over the allowed entries, -inf elsewhere, with the limits T = 0 and T = inf."""
    live = allowed_row(x, where)
    scaled = np.full_like(x, -np.inf)
    if not live.any():
        return scaled
    top = x[live].max()
    if temperature == 0:
        scaled[live & (x == top)] = 0
    elif temperature == np.inf:
        scaled[live] = 0
    else:
        scaled[live] = (x[live] - top) / temperature
    return scaled


def log_normalizer_row(scaled: Row) -> float:
    """log sum exp of a row whose maximum is 0, right also where the sum is barely above 1."""
    others = np.delete(scaled, np.argmax(scaled))
    return np.log1p(np.sum(np.exp(others)))


def softmax_row(x: Row, where: Row, temperature: float = 1.0) -> Row:
    """exp(x / T) / sum exp(x / T) over the allowed entries; zeros where nothing is allowed."""
    if broken_row(x, where) or bad_temperature(temperature):
        return np.where(where, np.nan, 0.0)
    scaled = scaled_row(x, where, temperature)
    if not np.any(scaled == 0):
        return np.zeros_like(x)
    weights = np.exp(scaled)
    return weights / weights.sum()


def softmax_rows(x: Any) -> Row:
    """`softmax_row` of every row."""
    return over_rows(softmax_row, x)


def log_softmax_row(x: Row, where: Row, temperature: float = 1.0) -> Row:
    """log of `softmax_row`, without the cancellation."""
    if broken_row(x, where) or bad_temperature(temperature):
        return np.where(where, np.nan, -np.inf)
    scaled = scaled_row(x, where, temperature)
    if not np.any(scaled == 0):
        return scaled
    return scaled - log_normalizer_row(scaled)


def logsumexp_row(x: Row, where: Row, temperature: float = 1.0) -> float:
    """T log sum exp(x / T); the maximum at T = 0; +inf at T = inf unless one entry alone is
    allowed."""
    if broken_row(x, where) or bad_temperature(temperature):
        return np.nan
    live = allowed_row(x, where)
    if not live.any():
        return -np.inf
    top = x[live].max()
    if temperature == 0 or live.sum() == 1:
        return top
    return top + temperature * log_normalizer_row(scaled_row(x, where, temperature))


def temperature_scale_row(x: Row, where: Row, temperature: float) -> Row:
    """x / T; at T = 0 and T = inf the limit up to a constant: 0 where mass is left, -inf
    elsewhere."""
    if broken_row(x, where) or bad_temperature(temperature):
        return np.where(where, np.nan, -np.inf)
    live = allowed_row(x, where)
    if temperature in (0, np.inf) or not live.any():
        return scaled_row(x, where, temperature)
    return np.where(live, np.where(live, x, 0.0) / temperature, -np.inf)


def entropy_row(x: Row, where: Row, temperature: float = 1.0) -> float:
    """-sum p log p, in nats; 0 where nothing is allowed."""
    p = softmax_row(x, where, temperature)
    if np.isnan(p).any():
        return np.nan
    log_p = log_softmax_row(x, where, temperature)
    return -np.sum(p[p > 0] * log_p[p > 0]) + 0.0


def bad_alpha(alpha: float) -> bool:
    """Whether an alpha is outside [1, 4], or NaN."""
    return not 1 <= alpha <= 4


def sparsemax_row(x: Row, where: Row, temperature: float = 1.0) -> Row:
    """The projection onto the simplex by a sort: tau from the largest k for which x_k > tau_k."""
    if broken_row(x, where) or bad_temperature(temperature):
        return np.where(where, np.nan, 0.0)
    scaled = scaled_row(x, where, temperature)
    if not np.any(scaled == 0):
        return np.zeros_like(x)
    descending = -np.sort(-scaled[scaled > -np.inf])
    sizes = np.arange(1, descending.size + 1)
    thresholds = (np.cumsum(descending) - 1) / sizes
    tau = thresholds[np.flatnonzero(descending > thresholds)[-1]]
    return np.maximum(scaled - tau, 0)


def entmax_row(x: Row, where: Row, temperature: float = 1.0, alpha: float = 1.5) -> Row:
    """max(M + (alpha - 1) x / T, 0) ** (1 / (alpha - 1)), with M by bisection until the sum is one;
    in longdouble where the row is short."""
    if broken_row(x, where) or bad_temperature(temperature) or bad_alpha(alpha):
        return np.where(where, np.nan, 0.0)
    if alpha == 1:
        return softmax_row(x, where, temperature)
    scaled = scaled_row(x, where, temperature)
    if not np.any(scaled == 0):
        return np.zeros_like(x)
    wide = np.longdouble if x.size < 200 else np.float64
    kappa = wide(alpha) - 1
    base = np.maximum(kappa * scaled.astype(wide), -2)
    low, high = wide(0), wide(1)
    while low < (middle := (low + high) / 2) < high:
        enough = np.sum(np.maximum(base + middle, 0) ** (1 / kappa)) >= 1
        low, high = (low, middle) if enough else (middle, high)
    p = np.maximum(base + high, 0) ** (1 / kappa)
    return (p / p.sum()).astype(x.dtype)


def omega(p: Row, alpha: float) -> float:
    """The regulariser of entmax: (sum p^alpha - p) / (alpha (alpha - 1)), sum p log p at 1."""
    if alpha == 1:
        return np.sum(p[p > 0] * np.log(p[p > 0]))
    alpha = p.dtype.type(alpha)
    return np.sum(p**alpha - p) / (alpha * (alpha - 1))


def fenchel_young_row(
    x: Row, where: Row, temperature: float = 1.0, alpha: float = 1.5, *, y: Row
) -> float:
    """<x, p - y> - Omega(p) + Omega(y), with p the map of x: 0 where nothing is allowed."""
    p = entmax_row(x, where, temperature, alpha).astype(np.longdouble)
    if np.isnan(p).any() or np.isnan(y).any() or (y < 0).any():
        return np.nan
    scaled = scaled_row(x, where, temperature).astype(np.longdouble)
    live = scaled > -np.inf
    if not np.any(scaled == 0):
        return 0.0
    if np.any(y[~live] > 0):
        return np.inf
    y = y.astype(np.longdouble)
    change = np.sum(np.where(live, scaled, 0) * (p - y))
    return float(np.maximum(change - omega(p, alpha) + omega(y, alpha), 0))


def kl_row(x: Row, where: Row, y: Row, temperature: float = 1.0) -> float:
    """sum p (log p - log q) over the entries that have mass in p; inf where one has none in q."""
    if broken_row(x, where) or broken_row(y, where) or bad_temperature(temperature):
        return np.nan
    p, log_p = (f(x, where, temperature) for f in (softmax_row, log_softmax_row))
    log_q = log_softmax_row(y, where, temperature)
    held = log_p > -np.inf
    if np.any(log_q[held] == -np.inf):
        return np.inf
    return np.sum(p[held] * (log_p[held] - log_q[held])) + 0.0


def cross_entropy_row(
    x: Row,
    where: Row,
    target: Row | int,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> float:
    """-sum t log p over the classes with a target, and the squared log-normalizer; 0 where nothing
    is allowed."""
    live = allowed_row(x, where)
    if not live.any():
        return 0.0
    if broken_row(x, where) or bad_temperature(temperature):
        return np.nan
    if not 0 <= smoothing <= 1 or not 0 <= z_loss < np.inf:
        return np.nan
    if np.ndim(target) == 0:
        if not 0 <= target < x.size:
            return np.nan
        target = (np.arange(x.size) == target).astype(float)
    target = (1 - smoothing) * target + smoothing * live / live.sum()
    held = target != 0
    loss = -np.sum(target[held] * log_softmax_row(x, where, temperature)[held])
    if z_loss > 0:
        top = x[live].max()
        if temperature == 0 and top != 0:
            return np.inf
        log_total = log_normalizer_row(scaled_row(x, where, temperature))
        loss += z_loss * ((top / temperature if top else 0.0) + log_total) ** 2
    return loss


# --- calibration: [N, V] arrays, labels [N], all examples pooled ------------------------------


def counting(x: Row, where: Any, weights: Any) -> tuple[Row, Row, Row]:
    """Float64 logits and `where` of the examples that count, and which those are."""
    where = np.broadcast_to(True if where is None else where, x.shape)
    count = allowed_row(x, where).any(-1) & (np.broadcast_to(weights, x.shape[:1]) > 0)
    return as_float(x)[count], where[count], count


def probabilities(
    x: Any, labels: Any, temperature: Any = 1.0, where: Any = None, weights: Any = 1.0
) -> tuple[Row, Row, Row]:
    """The probabilities, labels and weights of the examples that count."""
    kept, allowed, count = counting(x, where, weights)
    numbers = (np.broadcast_to(given, count.shape)[count] for given in (temperature, weights))
    temperature, weights = numbers
    p = over_rows(softmax_row, kept, temperature, where=allowed).reshape(kept.shape)
    return p, np.asarray(labels)[count], as_float(weights)


def mean_nll(
    x: Any, labels: Any, temperature: float = 1.0, where: Any = None, weights: Any = 1.0
) -> float:
    """Weighted mean of -log p of the labels."""
    kept, allowed, count = counting(x, where, weights)
    weights = as_float(np.broadcast_to(weights, count.shape)[count])
    log_p = over_rows(log_softmax_row, kept, temperature, where=allowed)
    at_label = np.take_along_axis(log_p, np.asarray(labels)[count][:, None], -1)[:, 0]
    return float(-(weights * at_label).sum() / weights.sum())


def fit_temperature(x: Any, labels: Any, where: Any = None, weights: Any = 1.0) -> float:
    """Where the derivative of the negative log-likelihood in b = 1 / T is 0, by bisection.

    For data that have such a place, in examples whose labels are allowed.
    """
    kept, allowed, count = counting(x, where, weights)
    weights = as_float(np.broadcast_to(weights, count.shape)[count])
    live = allowed_row(kept, allowed)
    gap = np.where(live, kept.max(-1, keepdims=True, where=live, initial=-np.inf) - kept, np.inf)
    at_label = np.take_along_axis(gap, np.asarray(labels)[count][:, None], -1)[:, 0]
    of_labels = np.sum(weights * at_label)
    low, high = -705.0, 705.0
    for _ in range(200):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            mass = np.exp(-np.exp(middle) * gap)
        finite = np.where(live, gap, 0)
        expected = np.sum(weights * (mass * finite).sum(-1) / mass.sum(-1))
        low, high = (middle, high) if expected > of_labels else (low, middle)
    return float(np.exp(-(low + high) / 2))


def reliability_curve(
    x: Any,
    labels: Any,
    temperature: Any = 1.0,
    where: Any = None,
    weights: Any = 1.0,
    bins: int = 15,
    binning: str = "width",
) -> tuple[Row, Row, Row, Row]:
    """Edges, confidence, accuracy and weight of the bins, one after the other."""
    p, labels, weights = probabilities(x, labels, temperature, where, weights)
    confidence, right = p.max(-1), p.argmax(-1) == labels
    edges = np.arange(bins + 1) / bins
    if binning == "mass":
        order = np.argsort(confidence, kind="stable")
        reached = np.cumsum(weights[order]) / weights.sum()
        # A whisker less, so that a share that is 1 / 3 in exact numbers is reached.
        first = np.searchsorted(reached, edges[1:-1] * (1 - 1e-12))
        edges[1:-1] = confidence[order][first]
    curve = np.full((3, bins), np.nan)
    for i in range(bins):
        inside = (confidence > edges[i]) & (confidence <= edges[i + 1])
        curve[2, i] = weights[inside].sum() / weights.sum()
        if inside.any():
            curve[0, i] = np.average(confidence[inside], weights=weights[inside])
            curve[1, i] = np.average(right[inside], weights=weights[inside])
    return edges, *curve


def brier_score(
    x: Any, labels: Any, temperature: Any = 1.0, where: Any = None, weights: Any = 1.0
) -> float:
    """Weighted mean of the squared distances from the one-hot labels."""
    p, labels, weights = probabilities(x, labels, temperature, where, weights)
    return float(np.average(((p - np.eye(p.shape[1])[labels]) ** 2).sum(-1), weights=weights))


# --- masks -----------------------------------------------------------------------------------


def sums_before(score: Row, weight: Row, ties: str) -> Row:
    """For each entry, the weight of the entries that come before it: higher score (or equal, at a
    lower index)."""
    order = np.argsort(-score, kind="stable")
    total_before = np.concatenate([[0.0], np.cumsum(weight[order])[:-1]])
    result = np.empty_like(total_before)
    if ties == "all":
        ranked = score[order]
        first_of_its_value = np.searchsorted(-ranked, -ranked, side="left")
        total_before = total_before[first_of_its_value]
    result[order] = total_before
    return result


def modes(score: Row, live: Row, ties: str) -> Row:
    """The entries of the highest score: all of them, or the first."""
    best = live & (score == score[live].max())
    if ties == "all":
        return best
    return np.arange(score.size) == np.argmax(best)


def top_k_row(x: Row, where: Row, k: float, ties: str = "all") -> Bounds:
    """Entries with fewer than k entries before them; k <= 0 and k >= V are off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(k) or k <= 0 or k >= x.size or not live.any():
        return live, live
    score = np.where(live, x, -np.inf)
    kept = live & (sums_before(score, live.astype(float), ties) < k)
    return kept, kept


def top_p_row(x: Row, where: Row, p: float, ties: str = "all", slack: float = MASS_SLACK) -> Bounds:
    """Entries before which lies a mass below p; the mode always; p >= 1 is off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(p) or p >= 1 or not live.any():
        return live, live
    score = np.where(live, x, -np.inf)
    return by_mass(score, softmax_row(x, where), live, p, ties, slack)


def by_mass(score: Row, mass: Row, live: Row, p: float, ties: str, slack: float) -> Bounds:
    """Entries before which lies a mass below p, and the mode, with `slack` on the mass."""
    mass_before = sums_before(score, mass, ties)
    mode = modes(score, live, ties)
    if p <= 0:
        return mode, mode
    return live & (mode | (mass_before < p - slack)), live & (mode | (mass_before < p + slack))


def by_threshold(score: Row, threshold: float, tolerance: Row, live: Row, x: Row) -> Bounds:
    """Entries whose score reaches the threshold, within the tolerance, and the modes."""
    mode = modes(np.where(live, x, -np.inf), live, "all")
    return live & (mode | (score >= threshold + tolerance)), live & (
        mode | (score >= threshold - tolerance)
    )


def magnitude(x: Row, live: Row) -> Row:
    """What float32 rounding in x - max is proportional to, for each entry."""
    return 8 * EPS * (1 + np.abs(np.where(live, x, 0.0)) + abs(x[live].max()))


def log_number(number: float) -> float:
    """log, with log 0 = -inf."""
    return -np.inf if number <= 0 else float(np.log(number))


def min_p_row(x: Row, where: Row, min_p: float) -> Bounds:
    """p_i >= min_p * max p; 0 is off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(min_p) or min_p <= 0 or not live.any():
        return live, live
    return by_threshold(scaled_row(x, where), log_number(min_p), magnitude(x, live), live, x)


def epsilon_row(x: Row, where: Row, epsilon: float) -> Bounds:
    """p_i >= epsilon; 0 is off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(epsilon) or epsilon <= 0 or not live.any():
        return live, live
    return by_threshold(log_softmax_row(x, where), log_number(epsilon), magnitude(x, live), live, x)


def eta_row(x: Row, where: Row, epsilon: float) -> Bounds:
    """p_i >= min(epsilon, sqrt(epsilon) exp(-H)); 0 is off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(epsilon) or epsilon <= 0 or not live.any():
        return live, live
    threshold = min(log_number(epsilon), log_number(epsilon) / 2 - entropy_row(x, where))
    return by_threshold(log_softmax_row(x, where), threshold, 4 * magnitude(x, live), live, x)


def top_n_sigma_row(x: Row, where: Row, n: float) -> Bounds:
    """x_i >= max x - n std(x), population deviation over the allowed entries; n <= 0 is off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(n) or n <= 0 or n == np.inf or not live.any():
        return live, live
    threshold = x[live].max() - n * np.std(x[live])
    tolerance = (1 + n) * magnitude(x, live) + 8 * EPS * n * np.std(x[live])
    # In units of the row's range, what would be a denormal counts as zero.
    tolerance = tolerance + 4 * float(np.finfo(np.float32).tiny) * np.ptp(x[live])
    return by_threshold(x, threshold, tolerance, live, x)


def typical_row(
    x: Row, where: Row, mass: float, ties: str = "all", slack: float = MASS_SLACK
) -> Bounds:
    """Entries of smallest |-log p - H| until their mass reaches `mass`; the first always; >= 1 is
    off."""
    live = allowed_row(x, where)
    if broken_row(x, where) or np.isnan(mass) or mass >= 1 or not live.any():
        return live, live
    logits = np.where(live, x, -np.inf)
    p = softmax_row(x, where)
    surprise = -log_softmax_row(x, where)[live] - entropy_row(x, where)
    score = np.full_like(logits, -np.inf)
    score[live] = -np.abs(surprise)
    tolerance = 2 * magnitude(x, live)
    surely, perhaps = bounds_before(logits, score, p, tolerance, ties)
    fewest, most = bounds_before(logits, score, live.astype(float), tolerance, ties)
    must = live & ((most < 0.5) | (perhaps < mass - slack))
    may = live & ((fewest < 0.5) | ((surely < mass + slack) & (mass > 0)))
    return must, may


def bounds_before(
    logits: Row, score: Row, weight: Row, tolerance: Row, ties: str
) -> tuple[Row, Row]:
    """Least and greatest weight before each entry, when scores are known up to `tolerance`.

    Equal logits have equal scores, exactly, whatever the rounding.
    """
    order = np.argsort(-score, kind="stable")
    ranked = -score[order]
    running = np.concatenate([[0.0], np.cumsum(weight[order])])
    surely = running[np.searchsorted(ranked, -score - tolerance, side="left")]
    perhaps = running[np.searchsorted(ranked, -score + tolerance, side="right")]
    _, value = np.unique(logits, return_inverse=True)
    tied = np.bincount(value.ravel(), weights=weight.astype(float))[value.ravel()]
    if ties == "all":
        return surely, perhaps - tied
    earlier = sums_before(logits, weight, "first") - sums_before(logits, weight, "all")
    return surely + earlier, perhaps - tied + earlier


def truncation_row(
    x: Row,
    where: Row,
    temperature: float = 1.0,
    top_k: float = 0.0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    slack: float = MASS_SLACK,
) -> Bounds:
    """Temperature, then top-k, then top-p on the renormalised survivors, then min-p."""
    live = allowed_row(x, where)
    bad = bad_temperature(temperature) or np.isnan([top_k, top_p, min_p]).any()
    if broken_row(x, where) or bad or not live.any():
        return live, live
    scaled = scaled_row(x, where, temperature)
    if temperature == 0:
        live = scaled == 0
    score = np.where(live, 0.0 if temperature == np.inf else x, -np.inf)
    kept, _ = top_k_row(score, live, top_k)
    survivors = np.where(kept, np.exp(scaled), 0.0)
    must, may = kept, kept
    if top_p < 1:
        must, may = by_mass(
            np.where(kept, score, -np.inf), survivors / survivors.sum(), kept, top_p, "all", slack
        )
    if min_p > 0:
        tolerance = magnitude(x, live) / (temperature if 0 < temperature < 1 else 1.0)
        at_least, at_most = by_threshold(scaled, log_number(min_p), tolerance, live, score)
        must, may = must & at_least, may & at_most
    return must, may


def sampled_row(
    x: Row,
    where: Row,
    temperature: float = 1.0,
    top_k: float = 0.0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Row:
    """The exact distribution `sample` draws from: the softmax at T, truncated and renormalised."""
    must, may = truncation_row(x, where, temperature, top_k, top_p, min_p)
    if np.any(must != may):
        raise ValueError(
            "the cut lies within rounding of an entry: choose another row for this test"
        )
    return softmax_row(x, must, temperature)
