"""Meshes with Explicit axes: rows that they split are worked on shard by shard, or left to XLA.

There the type of an array says how it is split, and an operation on the axis that is split may be
refused (a top-k, a prefix sum, an entry by its index). The functions that need one see the type and
do as they would inside ``jax.shard_map`` with ``axis_name``. Products of matrices, which may be
split in many ways, are left to XLA's partitioner. On Auto axes the type says nothing, and it
decides.
"""

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jsoftmax._placement import split_over
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
            if math.prod(sharding.mesh.shape[name] for name in axis_name) == 1:
                # Whole, whatever the type says: XLA fails where it reduces over one device.
                axes = [*sharding.spec[: along.axis], None, *sharding.spec[along.axis + 1 :]]
                operands = list(arguments)
                operands[place] = split_over(logits, sharding.mesh, axes)
                result = function(*operands)
                if not split:
                    return result
                return cast(
                    "Result", split_over(cast("Array", result), sharding.mesh, sharding.spec)
                )
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


def by_partitioner(function: Callable[Given, Array]) -> Callable[Given, Array]:
    """Decorate a function of `hidden` [..., D] and others, with a result of the batch shape [...].

    Where an operand is split by Explicit axes, these are Auto inside: products and slices of blocks
    leave no other way. The result is split as the batch is.
    """

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Array:
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = [x for x in leaves if isinstance(x, Array)]
        split = [x for x in arrays if any(jax.typeof(x).sharding.spec)]
        if not split:
            return function(*args, **kwargs)

        def inside(*arrays: Array) -> Array:
            rest = iter(arrays)
            filled = [next(rest) if isinstance(x, Array) else x for x in leaves]
            args, kwargs = jax.tree.unflatten(structure, filled)
            return cast("Callable[..., Array]", function)(*args, **kwargs)

        hidden = args[0] if args else kwargs.get("hidden")
        batch = jax.typeof(hidden).sharding.spec[:-1] if isinstance(hidden, Array) else ()
        mesh = jax.typeof(split[0]).sharding.mesh
        out = NamedSharding(mesh, PartitionSpec(*batch))
        # Not those that a `shard_map` around the call has made Manual.
        axes = mesh.explicit_axes
        result = jax.sharding.auto_axes(inside, axes=axes, out_sharding=out)(*arrays)
        return cast("Array", result)

    return run
