"""Properties of the ways to call: derivatives, meshes, with and without jit, other dtypes."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tests.fuzz.calls import Facts, derivatives, eager, on_shards, outcome, padded
from tests.fuzz.pooled import CALIBRATION
from tests.fuzz.properties import Verdict, holds_for
from tests.fuzz.strategies import Batch, Numbers
from tests.fuzz.tolerance import FARTHEST, differs, tolerance, unequal
from tests.fuzz.traits import QUIET, Traits, traits
from tests.fuzz.value_properties import in_range, open_to_rounding
from tests.layouts import LAYOUTS
from tests.reference import Row
from tests.registry import Entry

HALF = (jnp.bfloat16, jnp.float16)
STEEPEST = 2.0
"""Above this alpha the slope of entmax has no bound: there is no scale for its rounding."""


def has_derivatives(_: Entry, traits: Traits) -> bool:
    return traits.derivatives


def even(entry: Entry, batch: Batch, settings: Numbers) -> tuple[Numbers, Facts, Row]:
    """The settings with a moderate slope, and for which rows the derivatives have a scale."""
    if "alpha" in settings:
        settings = settings | {"alpha": np.minimum(settings["alpha"], STEEPEST)}
    facts = Facts(batch.x, batch.where, settings)
    # Derivatives by T hold z, those of the z-loss the logits themselves.
    moderate = (facts.temperature > 1e-3) & (facts.temperature < 1e3) & (facts.farthest < 1e6)
    del entry
    return settings, facts, facts.sound & moderate


@holds_for(has_derivatives, light=False)
def gradients_sum_to_zero(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Where x + c has the result of x; to the sum of the cotangents where that moves by c.

    Exactly 0 where nothing is allowed, and finite in every sound row.
    """
    settings = settings | ({QUIET: settings[QUIET] * 0} if QUIET in settings else {})
    settings, facts, moderate = even(entry, batch, settings)
    cotangent, _, gradient, _ = derivatives(entry, batch, settings)
    # Below, 1 / T times a sum of cotangents overflows, and meets the probability 0.
    warm = facts.sound & ((facts.temperature == 0) | (facts.temperature > 1e-30))
    wrong = ~np.isfinite(gradient).all(-1) | ((gradient != 0) & ~facts.live).any(-1)
    shift = traits(entry).shift
    if shift is not None:
        total = gradient.astype(np.float64).sum(-1)
        want = np.where(facts.nothing, 0, shift * cotangent) if shift else 0
        size = np.abs(gradient).astype(np.float64).sum(-1) + scale_of(cotangent, facts)
        wrong |= moderate & (np.abs(total - want) > 32 * facts.eps * size)
    return Verdict(warm, wrong, settings=settings)


def scale_of(cotangent: Row, facts: Facts) -> Row:
    """What the gradient's rounding is relative to, beside itself: cotangents over T."""
    size = np.abs(cotangent).astype(np.float64)
    largest = size.sum(-1) if size.ndim == 2 else size
    spread = 1 + np.max(np.minimum(facts.z, FARTHEST), -1, where=facts.live, initial=0)
    return spread * largest / np.minimum(np.maximum(facts.temperature, 1e-3), 1)


@holds_for(lambda _, traits: traits.derivatives and traits.forward, light=False)
def jvp_equals_vjp(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """<c, J t> = <J' c, t>, in the logits and the temperature together."""
    settings, facts, moderate = even(entry, batch, settings)
    cotangent, ahead, of_x, of_temperature = derivatives(entry, batch, settings)
    there = ahead.astype(np.float64) * cotangent
    back = np.concatenate(
        [of_x.astype(np.float64) * batch.tangent, (of_temperature * batch.slope)[:, None]], -1
    )
    if there.ndim == 1:
        there = there[:, None]
    apart = np.abs(there.sum(-1) - back.sum(-1))
    size = np.abs(there).sum(-1) + np.abs(back).sum(-1)
    # What z is of entries without mass is in the terms themselves, where it is in the result.
    farthest = np.minimum(facts.farthest, FARTHEST)
    tangents = np.abs(batch.tangent).max(-1) + np.abs(batch.slope) * (1 + farthest)
    allowed = 32 * facts.eps * (size + scale_of(cotangent, facts) * tangents)
    checked = moderate & np.isfinite(there).all(-1) & np.isfinite(back).all(-1)
    return Verdict(checked, apart > allowed, settings=settings)


def alike(
    entry: Entry, got: list[Row], want: list[Row], batch: Batch, settings: Numbers, facts: Facts
) -> tuple[Row, Row]:
    """Rows in which two ways to call differ, and those where rounding decides about an entry."""
    of = traits(entry)
    if of.shape == "mask":
        return open_to_rounding(entry, got[0], want[0], batch.x, facts.where, settings)
    if of.shape == "token":
        wrong = unequal(got[0], want[0])
        for a, b in zip(got[1:], want[1:], strict=True):
            wrong |= differs(a, b, 32 * facts.eps * (2 + np.abs(b)))
        return wrong, np.zeros(len(wrong), bool)
    return differs(got[0], want[0], tolerance(of, facts, want[0])), np.zeros(len(got[0]), bool)


def compared(
    entry: Entry, got: list[Row], batch: Batch, settings: Numbers, where: Row | None = None
) -> Verdict:
    """With a call on the whole batch, [N, V], with a setting per row and a mask of every entry."""
    where = batch.where if where is None else where
    facts = Facts(batch.x, where, settings)
    want = outcome(entry, batch.x, where, settings)
    wrong, rounding = alike(entry, got, want, batch, settings, facts)
    sound = facts.sound
    if not traits(entry).forward:
        # The logits are a product there: whether that keeps denormals differs between programs.
        sound = sound & ~facts.flushes
    return Verdict(sound | facts.broken, wrong, rounding, settings, where)


@holds_for(lambda _, traits: traits.sharded, light=False)
def sharded_equals_dense(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Inside `shard_map`, on one kind of mesh after the other. A row of one entry has no second,
    which is the label of the losses when it is split."""
    facts = Facts(batch.x, batch.where, settings)
    if batch.length == 1:
        return Verdict(np.zeros(len(batch.x), bool), np.zeros(len(batch.x), bool))
    layout = batch.one_of(LAYOUTS, entry)
    if entry.kind == "token" and layout.batch is not None:
        # Each part of the batch draws from the same key: other draws than for the whole.
        return Verdict(np.zeros(len(batch.x), bool), np.zeros(len(batch.x), bool))
    got = on_shards(entry, layout, batch, settings)
    if entry.kind == "token":
        # The size of a row decides how a draw is rounded.
        want = outcome(entry, *padded(batch), settings)
        return drawn_alike(entry, got, want, batch, settings, facts)
    return compared(entry, got, batch, settings)


def drawn_alike(
    entry: Entry, got: list[Row], want: list[Row], batch: Batch, settings: Numbers, facts: Facts
) -> Verdict:
    """The draws are the same but where rounding decides about an entry, or the sum of a block."""
    wrong, nothing = alike(entry, got, want, batch, settings, facts)
    rows = np.flatnonzero(wrong & facts.sound)
    rounding = nothing
    if rows.size:
        some = {name: number[rows] for name, number in settings.items()}
        must, may = entry.expected(
            Facts(batch.x, batch.where, settings).x[rows], some, batch.where[rows]
        )
        rounding[rows] = (must != may).any(-1)
    return Verdict(facts.sound, wrong & ~rounding, rounding)


@holds_for(lambda *_: True, light=False)
def jit_equals_eager(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Compiled by the caller or not."""
    facts = Facts(batch.x, batch.where, settings)
    got = eager(entry, batch.x, batch.where, settings)
    want = outcome(entry, batch.x, batch.where, settings)
    wrong, rounding = alike(entry, got, want, batch, settings, facts)
    return Verdict(facts.sound | facts.broken, wrong, rounding)


@holds_for(lambda *_: True, light=False)
def half_is_rounded_float32(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """bfloat16 and float16, in turn: computed as the same numbers in float32, and rounded once."""
    if batch.x.dtype == np.float64:
        return Verdict(np.zeros(len(batch.x), bool), np.zeros(len(batch.x), bool))
    half = batch.x.astype(HALF[batch.seed % 2])
    wide = half.astype(np.float32)
    facts = Facts(wide, batch.where, settings)
    got = outcome(entry, half, batch.where, settings)
    want = outcome(entry, wide, batch.where, settings)
    of = traits(entry)
    wrong = np.zeros(len(half), bool)
    for a, b in zip(got, want, strict=True):
        if a.dtype in (np.bool_, np.int32):
            wrong |= unequal(a, b)
            continue
        # What float32 leaves open may be rounded to either side.
        allowed = 0.0 if of.shape == "token" else tolerance(of, facts, b)
        allowed = allowed + 8 * facts.eps * np.abs(np.where(np.isfinite(b), b, 0))
        rounded = [(b + by * allowed).astype(half.dtype) for by in (-1, 0, 1)]
        low, same, high = (r.astype(np.float64) for r in rounded)
        got_wide = a.astype(np.float64)
        inside = (got_wide >= low) & (got_wide <= high)
        inside |= (got_wide == same) | (np.isnan(got_wide) & np.isnan(same))
        # Denormals of half precision are flushed, or not, on the way.
        inside |= np.abs(got_wide - same) <= float(jnp.finfo(half.dtype).tiny)
        wrong |= ~(inside.all(-1) if inside.ndim == 2 else inside)
        wrong |= a.dtype != half.dtype
    # Beyond the floats of half precision x / T has another form.
    checked = (facts.sound & in_range(facts, float(jnp.finfo(half.dtype).max))) | facts.broken
    checked = checked if of.shape == "scaled" else facts.sound | facts.broken
    return Verdict(checked & same_beside(entry, half, wide), wrong)


def has_one_gradient(entry: Entry, traits: Traits) -> bool:
    """To the logits, in their dtype, of a result that is not itself rounded before."""
    own = entry.beside is None or bool(entry.labelled)
    once = own and entry not in CALIBRATION
    return once and traits.derivatives and traits.forward and traits.shape != "simplex"


@holds_for(has_one_gradient, light=False)
def half_gradient_is_rounded_float32(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Computed as of the same numbers in float32, and rounded once."""
    if batch.x.dtype == np.float64:
        return Verdict(np.zeros(len(batch.x), bool), np.zeros(len(batch.x), bool))
    half = HALF[batch.seed % 2]
    given = {"x": batch.x, "tangent": batch.tangent, "cotangent": batch.cotangent}
    short = {name: of.astype(half) for name, of in given.items()}
    narrow = dataclasses.replace(batch, **short)
    wide = dataclasses.replace(batch, **{n: of.astype(np.float32) for n, of in short.items()})
    settings, facts, moderate = even(entry, wide, settings)
    _, _, got, _ = derivatives(entry, narrow, settings)
    moved, _, want, _ = derivatives(entry, wide, settings)
    size = np.abs(want).astype(np.float64)
    close = 32 * facts.eps * (size + scale_of(moved, facts)[:, None])
    kind = jnp.finfo(half)
    # Denormals of half precision are flushed, or not, on the way.
    once = 0.5 * float(kind.eps) * size + 2 * float(kind.tiny)
    apart = np.abs(got.astype(np.float64) - want) > once + close
    # A result beyond the floats of half precision is a constant.
    *_, result = outcome(entry, wide.x, batch.where, settings)
    finite = np.where(np.isfinite(result), np.abs(result), 0).reshape(len(size), -1)
    inside = np.concatenate([size, finite], -1).max(-1) < 0.99 * float(kind.max)
    return Verdict(moderate & inside, apart.any(-1), settings=settings)


def same_beside(entry: Entry, half: Row, wide: Row) -> Row:
    """The rows whose second operand, made of the logits, is the same in both dtypes."""
    if entry.beside is None:
        return np.ones(len(half), bool)
    made = [np.asarray(entry.beside(x, -1)).astype(np.float64) for x in (half, wide)]
    differ = ~((made[0] == made[1]) | np.isnan(made[0]))
    return ~(differ.any(-1) if differ.ndim == 2 else differ)
