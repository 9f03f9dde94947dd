"""Four rooms (Sutton, Precup and Singh 1999): a gridworld as tables, and exact values in it.

A walker is in a cell and is told another, its goal. It earns 1 when it enters the goal, and the
walk ends: a goal that is d moves away is worth DISCOUNT ** (d - 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MAP = """\
#############
#     #     #
#     #     #
#           #
#     #     #
#     #     #
## ####     #
#     ### ###
#     #     #
#     #     #
#           #
#     #     #
#############"""

FREE = np.array([[character != "#" for character in row] for row in MAP.splitlines()])
PLACES = np.argwhere(FREE)
"""The row and column of each cell, [cells, 2]."""
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])
"""North, east, south, west."""
CELLS, ACTIONS = len(PLACES), len(MOVES)
DISCOUNT = 0.95


def _tables() -> tuple[np.ndarray, np.ndarray]:
    number = np.full(FREE.shape, -1)
    number[FREE] = np.arange(CELLS)
    beside = number[tuple(np.moveaxis(PLACES[:, None] + MOVES, -1, 0))]
    return beside >= 0, np.where(beside >= 0, beside, np.arange(CELLS)[:, None])


LEGAL, NEXT = _tables()
"""Whether a move from a cell is legal, and where it leads (a wall: nowhere), [cells, actions]."""


class Walk(NamedTuple):
    """Where walkers are and where they are going; the arrays have the shape of the batch."""

    cell: Array
    goal: Array


def start(key: Array, walkers: int) -> Walk:
    """New walks, each between two different cells, all pairs alike."""
    cell_key, goal_key = jax.random.split(key)
    cell = jax.random.randint(cell_key, (walkers,), 0, CELLS)
    return Walk(cell, (cell + jax.random.randint(goal_key, (walkers,), 1, CELLS)) % CELLS)


def step(key: Array, walks: Walk, action: Array) -> tuple[Walk, Array]:
    """Moves every walker; returns their walks, a new one for who is there, and who is there."""
    moved = walks._replace(cell=jnp.asarray(NEXT)[walks.cell, action])
    arrived = moved.cell == moved.goal
    new = start(key, len(arrived))
    return jax.tree.map(lambda new, old: jnp.where(arrived, new, old), new, moved), arrived


@jax.jit
def values(policy: Array) -> Array:
    """What a policy earns, exactly: p(action), [goals, cells, actions], to values [goals, cells].

    v = r + DISCOUNT * P v, with r the probability that the next move enters the goal, and P that of
    each move that does not; the value of the goal itself is NaN.
    """
    there = jnp.eye(CELLS, dtype=policy.dtype)
    leads = jnp.einsum("gca,cat->gct", policy, there[NEXT])
    earns = jnp.einsum("gcg->gc", leads)
    goes_on = leads * (1 - there)[:, None, :]
    worth = jnp.linalg.solve(there[None] - DISCOUNT * goes_on, earns[..., None])[..., 0]
    return jnp.where(there == 1, jnp.nan, worth)


def distances() -> np.ndarray:
    """The fewest moves from each cell to each other, [cells, cells] (Floyd and Warshall)."""
    fewest = np.full((CELLS, CELLS), np.inf)
    fewest[np.arange(CELLS)[:, None], NEXT] = 1
    np.fill_diagonal(fewest, 0)
    for through in range(CELLS):
        fewest = np.minimum(fewest, fewest[:, [through]] + fewest[[through]])
    return fewest


def optimum() -> np.ndarray:
    """The most that can be earned, [goals, cells]; NaN at the goal."""
    fewest = distances()
    return np.where(fewest > 0, DISCOUNT ** (fewest - 1), np.nan)
