"""Entries that are not in the registry."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.registry import Entry


@dataclasses.dataclass(frozen=True, eq=False)
class Fake(Entry):
    """An entry that is not in the registry."""

    call: Callable[..., Any] = lambda: None

    @property
    def function(self) -> Callable[..., Any]:
        return self.call


def by_row(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one row, its mask and its numbers as one of logits [N, V]."""

    def of_logits(logits: Any, *, where: Any = None, **settings: Any) -> jax.Array:
        x = jnp.asarray(logits)
        where = jnp.broadcast_to(jnp.asarray(True if where is None else where), x.shape)
        numbers = {name: jnp.broadcast_to(value, len(x)) for name, value in settings.items()}
        return jax.vmap(lambda row, allowed, numbers: function(row, allowed, **numbers))(
            x, where, numbers
        ).astype(x.dtype)

    return of_logits
