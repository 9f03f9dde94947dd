"""Rounds of loops: what is computed in them only, and what is stored for them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jsoftmax._typing import Tree


def tied(x: Tree, to: Array) -> Tree:
    """x, tied to a round of a loop: no compiler takes what it computes out of it, to be stored."""
    return lax.optimization_barrier((x, to))[0]


def where_needed(
    needed: Array, compute: Callable[[Array], Tree], x: Array, otherwise: Tree
) -> Tree:
    """compute(x) where any row needs it: a loop of one round, or of none, also under vmap.

    Inside `shard_map`, `needed` and `otherwise` vary wherever the result does: see `vary_alike`.
    """

    def once(state: tuple[Array, Tree]) -> tuple[Array, Tree]:
        needed, otherwise = state
        # Tied, or a compiler might compute it ahead of the loop, which may make no round.
        chosen = jax.tree.map(partial(jnp.where, needed), compute(tied(x, needed)), otherwise)
        return jnp.zeros_like(needed), chosen

    return lax.while_loop(lambda state: jnp.any(state[0]), once, (needed, otherwise))[1]


def first_round() -> Array:
    """Zero, to count the rounds of a loop: an array of the trace, which lies on the mesh around it.

    A constant lies on none, and jax refuses it where `jax.vmap` gives all that a loop carries an
    axis that an Explicit mesh splits.
    """
    return jnp.squeeze(jnp.zeros(1, jnp.int32), 0)


def stored_on_cpus(stored: Tree, compute: Callable[[Array], Tree], x: Array) -> Tree:
    """compute(x), which is stored: read on CPUs, where an exponential costs more than a read.

    Other targets take it in the same pass over the logits.
    """
    return lax.platform_dependent(
        x, stored, cpu=lambda _, stored: stored, default=lambda x, _: compute(x)
    )
