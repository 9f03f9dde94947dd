"""Properties of results: where they lie, and what of the logits they do not depend on."""

import numpy as np

from tests.fuzz.calls import Facts, flushed, outcome, value
from tests.fuzz.entries import BEYOND_FLOATS, SCALE
from tests.fuzz.properties import Verdict, holds_for
from tests.fuzz.strategies import CAP, Batch, Numbers
from tests.fuzz.tolerance import FARTHEST, LARGEST_CHANGE, differs, tolerance, unequal
from tests.fuzz.traits import QUIET, Traits, entrywise, traits
from tests.reference import Row
from tests.registry import Entry

NOISE_FREE = ("simplex", "log", "scaled", "number")


def open_to_rounding(
    entry: Entry, a: Row, b: Row, x: Row, where: Row, settings: Numbers
) -> tuple[Row, Row]:
    """The rows in which two masks differ: wrongly, and where the reference lets rounding decide.

    Those are few: the reference is asked for them alone.
    """
    wrong, rounding = np.zeros(len(x), bool), np.zeros(len(x), bool)
    rows = np.flatnonzero((a != b).any(-1))
    if rows.size and entry.name not in ORDER_FREE:
        some = {name: number[rows] for name, number in settings.items()}
        must, may = entry.expected(flushed(x[rows]), some, where[rows])
        rounding[rows] = ~((a[rows] != b[rows]) & (must == may)).any(-1)
    wrong[rows] = ~rounding[rows]
    return wrong, rounding


ORDER_FREE = ("top_k_mask", "min_p_mask")
"""Masks that no sum of floats decides: rounding is no excuse."""


@holds_for(lambda _, traits: traits.shape in ("simplex", "log"))
def on_the_simplex(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Non-negative, one in sum, exactly 0 at what is not allowed; all 0 where nothing is."""
    facts = Facts(batch.x, batch.where, settings)
    y = value(entry, batch.x, batch.where, settings)
    p = y.astype(np.float64)
    if traits(entry).shape == "log":
        p = np.exp(p)
    total = p.sum(-1)
    slack = 16 * facts.eps * (1 + np.log(batch.length))
    if "alpha" in settings:
        # An entry that is about to leave the support is the root of a difference that was rounded.
        steep = np.maximum(np.nan_to_num(settings["alpha"].astype(np.float64), nan=2.0), 2) - 1
        slack = slack + np.where(steep > 1, facts.eps ** (1 / steep), 0)
    wrong = np.abs(total - np.where(facts.nothing, 0, 1)) > slack
    wrong |= (p < 0).any(-1) | ((p != 0) & ~facts.live).any(-1)
    return Verdict(facts.sound, wrong)


@holds_for(lambda *_: True)
def broken_rows_stand_alone(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """NaN or +inf, or a wrong setting, makes its own row NaN, and moves no bit of the others."""
    facts = Facts(batch.x, batch.where, settings)
    mended = {name: number.copy() for name, number in settings.items()}
    for name, number in mended.items():
        number[~facts.sound] = entry.settings[name][0]
    x = np.where(facts.sound[:, None], batch.x, np.zeros_like(batch.x))
    first, *more = outcome(entry, batch.x, batch.where, settings)
    others = outcome(entry, x, batch.where, mended)
    disturbed = np.zeros(len(x), bool)
    for got, alone in zip([first, *more], others, strict=True):
        disturbed |= unequal(got, alone)
    shape = traits(entry).shape
    if shape == "mask":
        hidden = unequal(first, facts.live)
    elif shape == "token":
        hidden = (first < 0) | (first >= batch.length)
        for log_prob in more:
            hidden |= ~np.isnan(log_prob)
    elif shape == "number":
        hidden = ~np.isnan(first)
    else:
        hidden = unequal(np.isnan(first), batch.where)
    return Verdict(facts.sound | facts.broken, np.where(facts.sound, disturbed, hidden))


@holds_for(lambda *_: True)
def masked_equals_filled(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Behind a mask may stand anything: as if it were -inf and allowed, to the bit."""
    facts = Facts(batch.x, batch.where, settings)
    got = outcome(entry, batch.x, batch.where, settings)
    everywhere = np.ones_like(batch.where)
    filled = np.where(batch.where, batch.x, np.asarray(-np.inf, batch.x.dtype))
    other = batch.random("behind").permutation(batch.x.ravel()).reshape(batch.x.shape)
    wrong = np.zeros(len(batch.x), bool)
    for x, where in ((filled, everywhere), (np.where(batch.where, batch.x, other), batch.where)):
        for a, b in zip(got, outcome(entry, x, where, settings), strict=True):
            if a.ndim == 2:
                # A row that is NaN is so where it is allowed.
                seen = batch.where | facts.sound[:, None]
                a, b = (np.where(seen, y, np.zeros_like(y)) for y in (a, b))
            wrong |= unequal(a, b)
    return Verdict(np.ones(len(wrong), bool), wrong)


@holds_for(
    lambda entry, traits: not entry.keyed and (entrywise(traits) or traits.shape == "number"),
    light=False,
)
def masked_equals_removed(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Columns that are masked, and columns that are not there."""
    keep = batch.kept
    where = batch.where & np.isin(np.arange(batch.length), keep)
    facts = Facts(batch.x, where, settings)
    masked = value(entry, batch.x, where, settings)
    removed = value(entry, batch.x[:, keep], where[:, keep], settings)
    masked = masked[:, keep] if entrywise(traits(entry)) else masked
    short = Facts(batch.x[:, keep], where[:, keep], settings)
    if traits(entry).shape == "mask":
        return Verdict(
            facts.sound,
            *open_to_rounding(entry, masked, removed, batch.x[:, keep], where[:, keep], settings),
        )
    return Verdict(facts.sound, differs(masked, removed, tolerance(traits(entry), short, removed)))


def labelled(entry: Entry, length: int) -> list[int]:
    """The columns that are a label, where there are others."""
    return [column for column in entry.labelled if length > 1]


@holds_for(lambda entry, traits: not entry.keyed and traits.shape != "token")
def permuted_alike(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Entries in another order have the same results, in that order."""
    movable = np.arange(batch.length)
    movable = np.delete(movable, labelled(entry, batch.length))
    order = np.arange(batch.length)
    order[movable] = batch.random("order").permutation(movable)
    x, where = batch.x[:, order], batch.where[:, order]
    facts = Facts(x, where, settings)
    plain = value(entry, batch.x, batch.where, settings)
    got = value(entry, x, where, settings)
    plain = plain[:, order] if entrywise(traits(entry)) else plain
    if traits(entry).shape == "mask":
        return Verdict(facts.sound, *open_to_rounding(entry, plain, got, x, where, settings))
    return Verdict(facts.sound, differs(plain, got, tolerance(traits(entry), facts, got)))


def by_size(entry: Entry, batch: Batch, settings: Numbers) -> tuple[Facts, Row, Row, Row]:
    """The rows in the order of their logits: whether allowed, the logits, and the results."""
    facts = Facts(batch.x, batch.where, settings)
    y = value(entry, batch.x, batch.where, settings)
    order = np.argsort(np.where(facts.live, facts.x, -np.inf), axis=-1)
    live, x, y = (np.take_along_axis(of, order, -1) for of in (facts.live, facts.x, y))
    return facts, live, x, y.astype(np.float64)


@holds_for(lambda entry, traits: entrywise(traits) and not entry.keyed and entry.alike)
def equal_entries_alike(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Entries that tie have one result, to the bit."""
    facts, live, x, y = by_size(entry, batch, settings)
    tied = live[:, 1:] & live[:, :-1] & (x[:, 1:] == x[:, :-1])
    return Verdict(facts.sound, (tied & (y[:, 1:] != y[:, :-1])).any(-1))


@holds_for(
    lambda entry, traits: (
        entrywise(traits) and not entry.keyed and (traits.upward or traits.shape != "mask")
    )
)
def larger_entries_get_more(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """A larger logit has no smaller result; a mask that keeps one keeps all that are larger."""
    facts, live, x, y = by_size(entry, batch, settings)
    steps = np.where(live[:, 1:] & live[:, :-1], y[:, 1:] - y[:, :-1], 0)
    # The same operations on each: a step back can only be that of an exponential, or a root.
    allowed = 0.0 if traits(entry).shape == "mask" else 8 * facts.eps * np.abs(y[:, 1:])
    if not entry.alike:
        allowed = allowed * (1 + np.minimum(np.nan_to_num(x[:, -1:] - x[:, 1:]), FARTHEST))
    return Verdict(facts.sound, (np.nan_to_num(steps) < -allowed).any(-1))


@holds_for(lambda entry, traits: traits.shift is not None and not entry.keyed)
def shifted_alike(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """x + c has the result of x, or that moved by c. A mask to the bit, where x + c is exact."""
    settings = settings | ({QUIET: settings[QUIET] * 0} if QUIET in settings else {})
    of = traits(entry)
    c = batch.shift[:, None]
    moved = (batch.x + c).astype(batch.x.dtype)
    facts, after = (Facts(x, batch.where, settings) for x in (batch.x, moved))
    exactly = (moved.astype(np.float64) - c == facts.x) | ~facts.live
    exactly = exactly.all(-1)
    plain = value(entry, batch.x, batch.where, settings)
    got = value(entry, moved, batch.where, settings)
    if of.shape == "mask":
        return Verdict(facts.sound & exactly, unequal(plain, got), settings=settings)
    large = np.maximum(facts.magnitude, after.magnitude)
    change = 2 * facts.eps * large / np.where(facts.temperature == 0, 1, facts.temperature)
    # At T = 0 what counts is which entries tie: rounding makes ties.
    change = np.where(exactly, 0, change)
    small = (change < LARGEST_CHANGE) & (facts.temperature > 0) & (not of.scale_free)
    checked = facts.sound & (exactly | small)
    want, allowed = plain.astype(np.float64), tolerance(of, after, got, change)
    if of.shift:
        want = want + np.where(facts.nothing, 0, of.shift * batch.shift)
        allowed = allowed + tolerance(of, facts, plain)
    return Verdict(checked, differs(got, want, allowed), settings=settings)


def is_divided_by_t(entry: Entry, _: Traits) -> bool:
    return "temperature" in entry.settings and entry.kind != "relaxed" and CAP not in entry.settings


@holds_for(is_divided_by_t)
def temperatures_compose(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """T of x / S is T S of x: to the bit of a mask or a draw, where S is a power of two."""
    scale, t = batch.factor, settings["temperature"]
    cooled = settings | {"temperature": t * scale}
    divided = value(SCALE, batch.x, batch.where, {"temperature": scale})
    facts = Facts(batch.x, batch.where, cooled)
    after = Facts(divided, batch.where, settings)
    power = np.exp2(np.round(np.log2(scale))) == scale
    tiny, most = np.finfo(facts.wide).tiny * 4096, np.finfo(facts.wide).max / 4096
    normal = (np.abs(flushed(divided)) >= tiny / 4096) | (facts.x == 0) | ~facts.live
    inside = (t > tiny) & (t * scale > tiny) & (t < most) & (t * scale < most)
    checked = facts.sound & after.sound & inside & normal.all(-1)
    # Of two denormals one may be zero, and tie with the largest.
    checked &= in_range(facts) & in_range(after) & ~facts.denormal & ~after.denormal
    checked &= (np.isfinite(after.x) | ~facts.live).all(-1)
    got = outcome(entry, divided, batch.where, settings)
    want = outcome(entry, batch.x, batch.where, cooled)
    of = traits(entry)
    if of.shape in ("mask", "token"):
        wrong = unequal(got[0], want[0])
        if entry.pair:
            wrong |= differs(got[1], want[1], 32 * facts.eps * (2 + np.abs(want[1])))
        return Verdict(checked & power, wrong, settings=cooled)
    change = np.where(power, 0, 4 * facts.eps * after.magnitude / t)
    result = got[0] * np.where(of.shift == 1, scale, 1) if of.shape == "number" else got[0]
    allowed = tolerance(of, facts, want[0], change)
    return Verdict(
        checked & (change < LARGEST_CHANGE), differs(result, want[0], allowed), settings=cooled
    )


@holds_for(lambda entry, _: bool(entry.off) and not entry.required and not entry.keyed, light=False)
def off_is_not_given(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Settings at the values that turn them off, and settings that are not given."""
    off = {name: np.full_like(settings[name], number) for name, number in entry.off.items()}
    facts = Facts(batch.x, batch.where, off)
    got = value(entry, batch.x, batch.where, off)
    plain = value(entry, batch.x, batch.where, {})
    if traits(entry).shape == "mask":
        return Verdict(facts.sound, unequal(got, plain), settings=off)
    allowed = tolerance(traits(entry), facts, plain)
    return Verdict(facts.sound, differs(got, plain, allowed), settings=off)


@holds_for(lambda entry, traits: traits.shape in (*NOISE_FREE, "mask") and not entry.keyed)
def as_the_reference_says(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """What plain float64 NumPy computes, a row at a time."""
    facts = Facts(batch.x, batch.where, settings)
    got = value(entry, batch.x, batch.where, settings)
    x = flushed(batch.x)
    if traits(entry).shape == "mask":
        # At 1 and above, only the mode: what ties with it but for a denormal does so here.
        clipped = {"min_p": np.minimum(settings["min_p"], 1)} if "min_p" in settings else {}
        must, may = entry.expected(x, settings | clipped, batch.where)
        checked = facts.sound & has_room(facts, power=2)
        return Verdict(checked, ((must & ~got) | (got & ~may)).any(-1))
    want = entry.expected(x, settings, batch.where)
    most = float(np.finfo(facts.wide).max)
    want = np.where(np.abs(want) > most, np.copysign(np.inf, want), want)
    of = traits(entry)
    allowed = tolerance(of, facts, got)
    # Where the temperature is small if the logits are, what is lost of a denormal counts.
    checked = facts.sound & in_range(facts) & ~(facts.denormal & of.scale_free)
    if entry.name in BEYOND_FLOATS:
        checked &= facts.farthest < most / 2
    return Verdict(checked, differs(got, want.astype(np.float64), allowed))


def has_room(facts: Facts, power: int = 1) -> Row:
    """Rows of which the reference, in float64, can sum the logits, or their squares."""
    largest = np.max(np.abs(facts.x), -1, where=facts.live, initial=0)
    return largest < room(facts) ** (1 / power)


def room(facts: Facts) -> float:
    """As many numbers as a row has, up to this, have a sum in float64."""
    return float(np.finfo(np.float64).max) / (4 * facts.x.shape[-1])


def in_range(facts: Facts, most: float | None = None) -> Row:
    """Rows of which max x / T is a float, and its square and every z where a loss asks for them;
    and in which no small T meets a denormal."""
    most = float(np.finfo(facts.wide).max) if most is None else most
    cold = np.where(facts.temperature == 0, 1, facts.temperature)
    hot = np.where(facts.nothing, 0, np.abs(facts.peak) / cold)
    fits = (hot < most) & has_room(facts)
    if facts.wide == np.float64:
        fits &= facts.farthest < room(facts)
    if QUIET in facts.settings:
        fits &= (hot * hot < most) & (facts.farthest < most / 2)
    return fits & ~facts.flushes
