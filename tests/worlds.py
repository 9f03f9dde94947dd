"""Stricter settings of jax for a whole run (`--world NAME`), and what cannot be asked in them.

A test that fails in a world because the library does is a bug of the library, and has no place here.
"""

import ast
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jsoftmax

WORLDS: dict[str, dict[str, bool]] = {
    "x64": {"jax_enable_x64": True},
    "debug-nans": {"jax_debug_nans": True},
    "leaks": {"jax_check_tracer_leaks": True},
    "no-jit": {"jax_disable_jit": True},
    "no-transfers": {},
}
"""Rank promotion, dtype promotion and warnings are errors in every run. Nothing can be prepared
under `jax_transfer_guard="disallow"` (jnp.zeros fails): "no-transfers" guards each call instead."""

Exceptions = dict[str, tuple[str, ...]]
EXCEPTIONS: dict[str, Exceptions] = {name: {} for name in WORLDS}
"""For each world: a reason, and the tests that have it, as module or module::test."""

STATIC = {"axis", "block_size", "labels"}
"""Arguments by name whose Python numbers are not settings."""


def enter(world: str) -> None:
    """Set jax up, before a module of tests is imported."""
    for name, value in WORLDS[world].items():
        jax.config.update(name, value)
    if world == "no-transfers":
        for name in jsoftmax.__all__:
            if inspect.isroutine(function := getattr(jsoftmax, name)):
                setattr(jsoftmax, name, guarded(function))


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on arrays that are on the device already, where it may bring nothing there."""

    @functools.wraps(function)
    def call(*data: Any, **keywords: Any) -> Any:
        leaves = jax.tree.leaves((data, keywords))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return function(*data, **keywords)
        data = tuple(on_device(x) for x in data)
        keywords = {k: x if k in STATIC and type(x) is int else on_device(x) for k, x in keywords.items()}
        with jax.transfer_guard("disallow"):
            return function(*data, **keywords)

    return call


def on_device(x: Any) -> Any:
    """Numbers and arrays of the host as arrays of the device, the rest as it is."""
    numbers = np.ndarray | np.generic | float | int
    return jax.device_put(x) if isinstance(x, numbers) and not isinstance(x, bool) else x


def declared(world: str) -> dict[str, str]:
    """The tests that are left out of a world, each with its reason."""
    return {test: reason for reason, tests in EXCEPTIONS[world].items() for test in tests}


def tests_of(module: Path) -> set[str]:
    """The tests of a module, as module and as module::test."""
    found = {module.stem}
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.add(f"{module.stem}::{node.name}")
    return found
