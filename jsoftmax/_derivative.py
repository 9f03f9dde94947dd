"""What derivative rules share: tangents of zero, what is computed again, what is given along.

A rule of a function of half-precision logits widens them once, so that the parts of a derivative of
any order are added before they are rounded.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jsoftmax._dtypes import upcast
from jsoftmax._typing import Tree

Tangents: TypeAlias = tuple[Array | SymbolicZero | None, Array | SymbolicZero | None]
"""Those of the logits and of the temperature; None is zero, too."""

Moved: TypeAlias = tuple[Array | None, Array | None]
"""Tangents of logits in the compute dtype, and of the temperature; None where one is zero."""


def drop_zeros(tangents: Iterable[Array | SymbolicZero | None]) -> tuple[Array | None, ...]:
    """The tangents, None where one is known to be zero."""
    return tuple(None if isinstance(tangent, SymbolicZero) else tangent for tangent in tangents)


def widened(tangents: Tangents, dtype: np.dtype) -> Moved:
    """As `drop_zeros`, with that of the logits in this dtype, which is computed in."""
    of_logits, of_temperature = drop_zeros(tangents)
    return None if of_logits is None else of_logits.astype(dtype), of_temperature


def recomputed(part: Callable[..., Tree]) -> Callable[..., Tree]:
    """A part of a rule, of the logits (its first argument) in the dtype that is computed in.

    The backward pass keeps the arguments, and computes from them what it needs.
    """

    @partial(jax.checkpoint, prevent_cse=False)
    def of_wide(logits: object, *others: object) -> Tree:
        wide = jax.tree.map(upcast, logits)
        return part(wide, *others)

    return of_wide


def with_derivative(value: Tree, primals: tuple[Any, ...], tangent_of: Callable[..., Tree]) -> Tree:
    """A value computed of the primals, with tangent_of(*primals, value, tangents) as its own.

    A rule then takes along what its function has computed, and has a derivative of its own.
    """

    @jax.custom_jvp
    def given(primals: tuple[Any, ...], value: Tree) -> Tree:
        del primals
        return value

    @partial(given.defjvp, symbolic_zeros=True)
    def rule(at: tuple[tuple[Any, ...], Tree], tangents: tuple[Any, Any]) -> tuple[Tree, Tree]:
        primals, value = at
        value = with_derivative(value, primals, tangent_of)
        return value, tangent_of(*primals, value, drop_zeros(tangents[0]))

    return given(primals, value)
