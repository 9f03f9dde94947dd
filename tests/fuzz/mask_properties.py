"""Properties of masks and draws: what a setting does to them."""

import numpy as np

from tests.fuzz.calls import Facts, outcome, value
from tests.fuzz.entries import LOG_SOFTMAX
from tests.fuzz.properties import Verdict, holds_for
from tests.fuzz.strategies import Batch, Numbers, numbers
from tests.fuzz.tolerance import SMALL, differs, unequal
from tests.fuzz.traits import Traits, traits
from tests.fuzz.value_properties import open_to_rounding
from tests.reference import Row
from tests.registry import MASKS, REGISTRY, Entry


def is_mask(_: Entry, traits: Traits) -> bool:
    return traits.shape == "mask"


@holds_for(is_mask)
def keeps_some_of_the_allowed(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Never an entry that is not allowed, never nothing where some are; all in a broken row."""
    facts = Facts(batch.x, batch.where, settings)
    mask = value(entry, batch.x, batch.where, settings)
    outside = (mask & ~facts.live).any(-1)
    mode = facts.live & (facts.x == facts.peak[:, None])
    lost = ~(mask | ~mode).all(-1) if traits(entry).upward else ~mask.any(-1)
    return Verdict(np.ones(len(mask), bool), outside | (facts.some & lost))


@holds_for(lambda _, traits: bool(traits.growing))
def monotone(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """A larger p, k, ... never drops an entry; a larger min_p, ... never adds one."""
    second = numbers(entry, batch, first=4)
    n = len(batch.x)
    checked, wrong, rounding = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
    last = settings
    for name, grows in traits(entry).growing.items():
        low = settings | {name: np.minimum(settings[name], second[name])}
        high = settings | {name: np.maximum(settings[name], second[name])}
        facts = Facts(batch.x, batch.where, low)
        less, more = (value(entry, batch.x, batch.where, each) for each in (low, high))
        if not grows:
            less, more = more, less
        # At 0 and below most are off; a mass is off from one on.
        on = (low[name] > 0) | (entry.off[name] == 1)
        checked |= facts.sound & on & ~np.isnan(high[name])
        union = less | more
        dropped, close = open_to_rounding(
            entry, union, more, batch.x, batch.where, high if grows else low
        )
        wrong |= facts.sound & on & ~np.isnan(high[name]) & dropped
        rounding |= close
        last = high
    return Verdict(checked, wrong, rounding, last)


@holds_for(is_mask)
def off_keeps_all(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Each setting at the value that turns it off, and beyond: every allowed entry is kept."""
    n, further = len(batch.x), batch.random("off").random(len(batch.x)) < 0.5
    off = {}
    for name, number in entry.off.items():
        beyond = number + 0.5 if number == 1 else -0.5
        beyond = number if name == "temperature" else beyond
        off[name] = np.where(further, beyond, number).astype(batch.x.dtype)
    facts = Facts(batch.x, batch.where, off)
    mask = value(entry, batch.x, batch.where, off)
    del settings
    return Verdict(np.ones(n, bool), unequal(mask, facts.live), settings=off)


@holds_for(lambda _, traits: bool(traits.idempotent))
def idempotent(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Among what it keeps it keeps all; top-p, eta and the like, relative to a sum, do not."""
    again = set(traits(entry).idempotent) | {"temperature"}
    settings = {
        name: number if name in again else np.full_like(number, entry.off[name])
        for name, number in settings.items()
    }
    facts = Facts(batch.x, batch.where, settings)
    once = value(entry, batch.x, batch.where, settings)
    twice = value(entry, batch.x, once, settings)
    wrong, rounding = open_to_rounding(entry, once, twice, batch.x, once, settings)
    return Verdict(facts.sound, wrong, rounding, settings)


ALIKE = {"k": "top_k", "p": "top_p", "min_p": "min_p"}
"""The setting of a mask, and what `truncation_mask` calls it."""
(COMPOSED,) = (entry for entry in REGISTRY if entry.name == "truncation_mask")


@holds_for(lambda entry, traits: is_mask(entry, traits) and set(entry.settings) <= set(ALIKE))
def as_a_part_of_the_composition(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """The mask is `truncation_mask` with the others off."""
    facts = Facts(batch.x, batch.where, settings)
    n = len(batch.x)
    others = {name: np.full(n, off, batch.x.dtype) for name, off in COMPOSED.off.items()}
    composed = others | {ALIKE[name]: number for name, number in settings.items()}
    mask = value(entry, batch.x, batch.where, settings)
    got = value(COMPOSED, batch.x, batch.where, composed)
    return Verdict(
        facts.sound | facts.broken,
        *open_to_rounding(entry, mask, got, batch.x, batch.where, settings),
    )


@holds_for(lambda entry, _: entry.ties, light=False)
def first_of_ties(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """ties="first" keeps a part: of one set of equal entries the first."""
    facts = Facts(batch.x, batch.where, settings)
    every = value(entry, batch.x, batch.where, settings)
    first = value(entry, batch.x, batch.where, settings, ties="first")
    dropped = every & ~first
    wrong = (first & ~every).any(-1) | (facts.some & ~first.any(-1))
    # Those that are dropped hold the least logit, or are as typical; none that is kept and equal to
    # them comes behind.
    least = np.min(facts.x, -1, where=dropped, initial=np.inf, keepdims=True)
    cut = facts.live & (facts.x == least)
    kept_behind = np.flip(np.cumsum(np.flip(first & cut, -1), -1), -1)
    wrong |= (dropped & cut & (kept_behind > 0)).any(-1)
    if traits(entry).upward:
        wrong |= (dropped & ~cut).any(-1)
    number = settings.get("k")
    if number is not None:
        k = np.where((number > 0) & (number < batch.length), np.ceil(number), batch.length)
        wrong |= first.sum(-1) != np.minimum(k, facts.live.sum(-1))
    return Verdict(facts.sound, wrong)


def mask_beside(entry: Entry) -> Entry:
    """The mask with the settings of a sampler."""
    (mask,) = (mask for mask in MASKS if mask.settings.keys() == entry.settings.keys())
    return mask


@holds_for(lambda entry, _: entry.kind == "token")
def drawn_from_the_mask(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """A draw is kept by the mask of the same settings, its log-probability that among the kept."""
    facts = Facts(batch.x, batch.where, settings)
    token, *more = outcome(entry, batch.x, batch.where, settings)
    mask = value(mask_beside(entry), batch.x, batch.where, settings)
    wrong = facts.some & ~np.take_along_axis(mask, token[:, None], -1)[:, 0]
    wrong |= facts.nothing & (token != 0)
    cold = facts.some & (facts.temperature == 0)
    wrong |= cold & (token != np.argmax(np.where(facts.live, facts.x, -np.inf), -1))
    for log_prob in more:
        heat = {"temperature": settings["temperature"]}
        among = value(LOG_SOFTMAX, batch.x, mask, heat)
        want = np.take_along_axis(among, token[:, None], -1)[:, 0]
        want = np.where(facts.nothing, -np.inf, want)
        wrong |= differs(log_prob, want, 32 * facts.eps * (2 + np.abs(want)))
    return Verdict(facts.sound, wrong)


@holds_for(lambda entry, _: entry.kind == "relaxed")
def relaxed_draw_is_allowed(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """The largest entry is an allowed one, and the hard draw is there."""
    facts = Facts(batch.x, batch.where, settings)
    y = value(entry, batch.x, batch.where, settings)
    largest: Row = (y == y.max(-1, keepdims=True)) & (y > SMALL)
    return Verdict(facts.some, (largest & ~facts.live).any(-1) | ~largest.any(-1))
