"""Properties of the forms of one call: where the axis lies, settings and masks of fewer dimensions,
which class is the label, rows one by one, operations one by one. None of them changes a result."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.fuzz.call_properties import alike, compared, drawn_alike
from tests.fuzz.calls import KEY, Facts, eager, leaves, outcome
from tests.fuzz.properties import Verdict, holds_for
from tests.fuzz.strategies import Batch, Numbers
from tests.fuzz.traits import entrywise, traits
from tests.reference import Row
from tests.registry import Entry

GROUP = 16
"""So many rows have one setting, or one mask."""
PLACES = ((1, 0), (2, 1), (2, -3), (2, 2), (3, 0), (3, -2), (3, -1))
"""The dimensions of the batch, and where among them the classes are."""
WHOLE = ("k", "top_k")
"""Settings that may be integers."""


# --- the axis --------------------------------------------------------------------------------


@functools.cache
def _along(entry: Entry, shape: tuple[int, ...], axis: int) -> Callable[..., Any]:
    def call(x: jax.Array, where: jax.Array, settings: Any) -> Any:
        x, where = (jnp.moveaxis(of.reshape(*shape, of.shape[-1]), -1, axis) for of in (x, where))
        settings = {name: number.reshape(shape) for name, number in settings.items()}
        key = jax.random.key(KEY)
        found = leaves(entry, entry(x, key=key, where=where, axis=axis, **settings))
        if entrywise(traits(entry)):
            found = [jnp.moveaxis(y, axis, -1) for y in found]
        return [y.reshape(-1, *y.shape[len(shape) :]) for y in found]

    return jax.jit(call)


@holds_for(lambda _, traits: traits.axis, light=False)
def along_any_axis(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """The classes may lie along any axis of an array of any rank."""
    dimensions, axis = batch.one_of(PLACES, entry)
    quarter = len(batch.x) // 4
    shape = {1: (4 * quarter,), 2: (4, quarter), 3: (2, quarter, 2)}[dimensions]
    got = _along(entry, shape, axis)(batch.x, batch.where, settings)
    return compared(entry, [np.asarray(y) for y in got], batch, settings)


# --- settings --------------------------------------------------------------------------------

Called = tuple[Numbers, list[Row]]
"""Each row's settings, and what the other form of them gave."""


def as_one(entry: Entry, batch: Batch, settings: Numbers) -> Called:
    """One for all rows of a group: a 0-d array, or an array of one entry."""
    n, shape = len(batch.x), batch.one_of(((), (1,)), entry)
    # Where there is noise, the rows of another batch have other noise.
    size = n if entry.keyed else GROUP
    settings = {name: np.repeat(number[::size], size)[:n] for name, number in settings.items()}
    parts = []
    for start in range(0, n, size):
        rows = slice(start, start + size)
        one = {name: number[start].reshape(shape) for name, number in settings.items()}
        parts.append(outcome(entry, batch.x[rows], batch.where[rows], one))
    return settings, [np.concatenate(part) for part in zip(*parts, strict=True)]


def as_python(entry: Entry, batch: Batch, settings: Numbers) -> Called:
    """Numbers of Python, those of the registry: other programs."""
    static = entry.setting(batch.one_of(range(3), entry))
    settings = {name: np.full_like(settings[name], number) for name, number in static.items()}
    return settings, outcome(entry, batch.x, batch.where, {}, **static)


def as_integers(entry: Entry, batch: Batch, settings: Numbers) -> Called:
    """Those that may be; the others as they are."""
    integers = {
        name: np.nan_to_num(settings[name], posinf=1e6).astype(np.int32)
        for name in WHOLE
        if name in settings
    }
    whole = {name: number.astype(batch.x.dtype) for name, number in integers.items()}
    return settings | whole, outcome(entry, batch.x, batch.where, settings | integers)


@holds_for(lambda entry, _: bool(entry.settings), light=False)
def settings_of_any_form(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """One setting for all rows, or for each its own, is the same setting."""
    forms = [as_one, as_python] + [as_integers] * bool(settings.keys() & set(WHOLE))
    settings, got = batch.one_of(forms, entry)(entry, batch, settings)
    return compared(entry, got, batch, settings)


# --- masks -----------------------------------------------------------------------------------


@holds_for(lambda _, traits: traits.axis, light=False)
def masks_of_any_form(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """No mask, one for all rows, one entry per row."""
    form = batch.one_of((None, batch.where[0], batch.where[:, :1]), entry)
    whole = np.broadcast_to(True if form is None else form, batch.x.shape).copy()
    return compared(entry, outcome(entry, batch.x, form, settings), batch, settings, whole)


# --- labels ----------------------------------------------------------------------------------


@functools.cache
def _given_labels(entry: Entry) -> Callable[..., Any]:
    def call(x: jax.Array, labels: jax.Array, where: jax.Array, settings: Any) -> Any:
        if entry.beside is None:
            return entry.function(x, where=where, label=labels, **settings)
        return entry.function(x, labels, where=where, **settings)

    return jax.jit(call)


@holds_for(lambda entry, _: entry.labelled == (1,), light=False)
def labels_of_any_class(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """The label may be any class: the second, moved there in exchange for what was there."""
    second, rows = min(1, batch.length - 1), np.arange(len(batch.x))
    labels = batch.random("label").integers(batch.length, size=rows.size, dtype=np.int32)
    order = np.tile(np.arange(batch.length), (rows.size, 1))
    order[:, second] = labels
    order[rows, labels] = second
    x, where = (np.take_along_axis(of, order, -1) for of in (batch.x, batch.where))
    got = _given_labels(entry)(x, labels, where, settings)
    return compared(entry, [np.asarray(got)], batch, settings)


# --- rows one by one -------------------------------------------------------------------------


@functools.cache
def _one(entry: Entry, mapped: bool) -> Callable[..., Any]:
    def call(key: jax.Array, x: jax.Array, where: jax.Array, settings: Any) -> Any:
        return entry(x, key=key, where=where, **settings)

    return jax.jit(jax.vmap(call) if mapped else call)


@holds_for(lambda _, traits: traits.axis, light=False)
def vmapped_alike(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Under vmap a row has the result that it has in the batch; with a key per row, that of the row
    alone."""
    keys = jax.random.split(jax.random.key(KEY), len(batch.x))
    given = keys, batch.x, batch.where, settings
    mapped = [np.asarray(y) for y in leaves(entry, _one(entry, True)(*given))]
    if not entry.keyed:
        return compared(entry, mapped, batch, settings)
    alone = [
        leaves(entry, _one(entry, False)(*jax.tree.map(lambda of, i=i: of[i], given)))
        for i in range(len(batch.x))
    ]
    want = [np.stack(of_rows) for of_rows in zip(*alone, strict=True)]
    facts = Facts(batch.x, batch.where, settings)
    if entry.kind == "token":
        verdict = drawn_alike(entry, mapped, want, batch, settings, facts)
        return dataclasses.replace(verdict, checked=facts.sound | facts.broken)
    wrong, _ = alike(entry, mapped, want, batch, settings, facts)
    return Verdict(facts.sound | facts.broken, wrong)


# --- operations one by one -------------------------------------------------------------------


@holds_for(lambda *_: True, light=False)
def op_by_op_alike(entry: Entry, batch: Batch, settings: Numbers) -> Verdict:
    """Under `jax.disable_jit` each operation is a program of its own: nothing is fused."""
    with jax.disable_jit():
        got = eager(entry, batch.x, batch.where, settings)
    if entry.kind != "token":
        return compared(entry, got, batch, settings)
    facts = Facts(batch.x, batch.where, settings)
    want = outcome(entry, batch.x, batch.where, settings)
    return drawn_alike(entry, got, want, batch, settings, facts)
