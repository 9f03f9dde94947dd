"""Meshes with Explicit axes: rows that they split are worked on shard by shard, or left to XLA.

There the type of an array says how it is split, and an operation on the axis that is split may be
refused (a top-k, a prefix sum, an entry by its index). The functions that need one see the type and
do as they would inside ``jax.shard_map`` with ``axis_name``. Products of matrices, and what pools
the examples of a batch, may be split in many ways, and are left to XLA's partitioner. On Auto axes
the type says nothing, and it decides.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jsoftmax._typing import Along

Given = ParamSpec("Given")
Result = TypeVar("Result")


def by_shards(*, split: bool) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorate a function of arguments `logits`, `along` and others, arrays first.

    Args:
      split: whether the results have the axis of the rows, or the batch shape.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        names = list(inspect.signature(function).parameters)
        place, arrays = names.index("logits"), names.index("along")

        @wraps(function)
        def over_shards(*arguments: object) -> Result:
            logits, along = cast("Array", arguments[place]), cast("Along", arguments[arrays])
            sharding = jax.typeof(logits).sharding
            entry = sharding.spec[along.axis]
            if along.axis_name or entry is None:
                return function(*arguments)
            axis_name = entry if isinstance(entry, tuple) else (entry,)
            rows = PartitionSpec(*[None] * along.axis, axis_name)
            specs = [PartitionSpec()] * arrays
            specs[place] = rows

            def local(*operands: object) -> Result:
                return function(*operands, Along(along.axis, axis_name), *arguments[arrays + 1 :])

            return jax.shard_map(
                local,
                mesh=sharding.mesh,
                in_specs=tuple(specs),
                out_specs=rows if split else PartitionSpec(),
                axis_names=set(axis_name),
            )(*arguments[:arrays])

        return over_shards

    return decorate


def by_partitioner(*, pooled: bool) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Decorate a function of arrays, the first of which has a batch and one axis more: [..., D].

    Where one is split by Explicit axes, these are Auto inside.

    Args:
      pooled: whether the results are the same on every device, or of the batch shape and split as
        the batch is.
    """

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        first = next(iter(inspect.signature(function).parameters))

        @wraps(function)
        def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            leaves, structure = jax.tree.flatten((args, kwargs))
            arrays = [x for x in leaves if isinstance(x, Array)]
            split = [x for x in arrays if any(jax.typeof(x).sharding.spec)]
            if not split:
                return function(*args, **kwargs)

            def inside(*arrays: Array) -> Result:
                rest = iter(arrays)
                filled = [next(rest) if isinstance(x, Array) else x for x in leaves]
                args, kwargs = jax.tree.unflatten(structure, filled)
                return cast("Callable[..., Result]", function)(*args, **kwargs)

            rows = args[0] if args else kwargs.get(first)
            of_batch = not pooled and isinstance(rows, Array)
            batch = jax.typeof(rows).sharding.spec[:-1] if of_batch else ()
            out = NamedSharding(jax.typeof(split[0]).sharding.mesh, PartitionSpec(*batch))
            return cast("Result", jax.sharding.auto_axes(inside, out_sharding=out)(*arrays))

        return run

    return decorate
