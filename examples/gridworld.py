"""An actor-critic in Equinox that learns to walk anywhere in four rooms, by legal moves alone.

    uv run --group models examples/gridworld.py [--updates 400] [--picture gridworld.png]

`jsoftmax.sample_and_log_prob` acts among the moves that `where=` allows, and its log-probability is
what a policy gradient needs: the rollout itself is differentiated, the network is run once. What
the policy earns is computed exactly (`four_rooms.values`), between what random legal moves earn and
the most that can be earned.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import four_rooms
import jsoftmax
import pictures
from four_rooms import ACTIONS, CELLS, DISCOUNT, LEGAL, Walk
from progress import progress

WALKERS, LENGTH = 512, 32  # Of a rollout.
TRACE = 0.95  # The lambda of the returns: how far they follow what was earned, not the critic.
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.08
LEARNING_RATE = 5e-3
CHUNK = 20  # Updates between two looks at what the agent earns.
GOALS = (18, 95)  # Those of the picture, in the north-east and the south-west.


class Agent(eqx.Module):
    """The logits of the moves of one walker, and what the critic expects it to earn."""

    cell: eqx.nn.Embedding
    goal: eqx.nn.Embedding
    body: eqx.nn.MLP
    actor: eqx.nn.Linear
    critic: eqx.nn.Linear

    def __init__(self, width: int = 64, *, key: Array) -> None:
        cell, goal, body, actor, critic = jax.random.split(key, 5)
        self.cell = eqx.nn.Embedding(CELLS, width, key=cell)
        self.goal = eqx.nn.Embedding(CELLS, width, key=goal)
        self.body = eqx.nn.MLP(
            2 * width, 2 * width, 2 * width, 1, final_activation=jax.nn.relu, key=body
        )
        self.actor = eqx.nn.Linear(2 * width, ACTIONS, key=actor)
        self.critic = eqx.nn.Linear(2 * width, "scalar", key=critic)

    def __call__(self, walk: Walk) -> tuple[Array, Array]:
        x = self.body(jnp.concatenate([self.cell(walk.cell), self.goal(walk.goal)]))
        return self.actor(x), self.critic(x)


class Step(NamedTuple):
    """What happened in a step of all walkers; the arrays are [time, walkers]."""

    walk: Walk
    action: Array
    log_prob: Array
    entropy: Array
    value: Array
    arrived: Array


def rollout(agent: Agent, walks: Walk, key: Array) -> tuple[Walk, Step]:
    """Walks on for LENGTH steps. Gradients flow through the log-probabilities, not the draws."""

    def act(walks: Walk, key: Array) -> tuple[Walk, Step]:
        act_key, step_key = jax.random.split(key)
        logits, value = jax.vmap(agent)(walks)
        legal = jnp.asarray(LEGAL)[walks.cell]
        action, log_prob = jsoftmax.sample_and_log_prob(act_key, logits, where=legal)
        entropy = jsoftmax.entropy(logits, where=legal)
        moved, arrived = four_rooms.step(step_key, walks, action)
        return moved, Step(walks, action, log_prob, entropy, value, arrived)

    return lax.scan(act, walks, jax.random.split(key, LENGTH))


def returns(steps: Step, last: Array) -> Array:
    """The lambda-returns, [time, walkers]; `last` is what the critic expects of the rest."""

    def back(later: tuple[Array, Array], step: Step) -> tuple[tuple[Array, Array], Array]:
        value, earned = later
        ahead = DISCOUNT * (TRACE * earned + (1 - TRACE) * value)
        earned = jnp.where(step.arrived, 1.0, ahead)
        return (step.value, earned), earned

    return lax.stop_gradient(lax.scan(back, (last, last), steps, reverse=True)[1])


def loss(agent: Agent, walks: Walk, key: Array, entropy_weight: Array) -> tuple[Array, Walk]:
    """Advantage actor-critic; also where the walkers have come to."""
    walks, steps = rollout(agent, walks, key)
    earned = returns(steps, jax.vmap(agent)(walks)[1])
    advantage = earned - lax.stop_gradient(steps.value)
    advantage = advantage / (jnp.std(advantage) + 1e-6)
    value_loss = jnp.mean(jnp.square(steps.value - earned))
    policy_loss = -jnp.mean(advantage * steps.log_prob)
    curiosity = entropy_weight * jnp.mean(steps.entropy)
    return policy_loss + VALUE_WEIGHT * value_loss - curiosity, walks


@eqx.filter_jit
def policy(agent: Agent, temperature: float | Array = 1.0) -> Array:
    """The probability of every move for every goal, [goals, cells, actions]."""
    cells = jnp.arange(CELLS)
    of_cells = jax.vmap(agent, in_axes=(Walk(cell=0, goal=None),))
    logits, _ = jax.vmap(of_cells, in_axes=(Walk(cell=None, goal=0),))(Walk(cells, cells))
    return jsoftmax.softmax(logits, where=jnp.asarray(LEGAL), temperature=temperature)


def earns(probabilities: Array) -> float:
    """The mean of what a policy earns, exactly, over all pairs of a cell and a goal."""
    return float(jnp.nanmean(four_rooms.values(probabilities)))


def random_moves() -> Array:
    """The policy that takes every legal move alike."""
    return jsoftmax.softmax(jnp.zeros((CELLS, CELLS, ACTIONS)), where=jnp.asarray(LEGAL))


class Learner(NamedTuple):
    """What training changes."""

    agent: Agent
    optimizer: optax.OptState
    walks: Walk


def train(
    *, updates: int, key: Array, show: Callable[[int, str], None]
) -> tuple[Agent, list[tuple[int, float]]]:
    """Trains an agent; returns it, and what it earned after so many steps of all walkers."""
    agent_key, walks_key, key = jax.random.split(key, 3)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.linear_schedule(LEARNING_RATE, 0.0, updates)),
    )

    def update(learner: Learner, number: Array) -> Learner:
        weight = ENTROPY_WEIGHT * (1 - number / updates)
        gradient, walks = eqx.filter_grad(loss, has_aux=True)(
            learner.agent, learner.walks, jax.random.fold_in(key, number), weight
        )
        change, state = optimizer.update(gradient, learner.optimizer)
        return Learner(eqx.apply_updates(learner.agent, change), state, walks)

    @eqx.filter_jit(donate="all")
    def several(learner: Learner, numbers: Array) -> Learner:
        # A scan carries arrays; the agent's functions, its activations say, are no arrays.
        arrays, static = eqx.partition(learner, eqx.is_array)

        def body(arrays: Learner, number: Array) -> tuple[Learner, None]:
            learner = update(eqx.combine(arrays, static), number)
            return eqx.filter(learner, eqx.is_array), None

        return eqx.combine(lax.scan(body, arrays, numbers)[0], static)

    agent = Agent(key=agent_key)
    state = optimizer.init(eqx.filter(agent, eqx.is_array))
    learner = Learner(agent, state, four_rooms.start(walks_key, WALKERS))
    curve = [(0, earns(policy(agent)))]
    for done in range(0, updates, CHUNK):
        number = min(done + CHUNK, updates)
        learner = several(learner, jnp.arange(done, number))
        curve.append((number * WALKERS * LENGTH, earns(policy(learner.agent))))
        show(number, f"earns {curve[-1][1]:.3f}")
    return learner.agent, curve


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--updates", type=int, default=400, metavar="N", help="of the agent (default: 400)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, another run (default: 0)")
    options = pictures.parse(parser, argv, "gridworld.png")
    if options.updates < 1:
        parser.error("--updates must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    started = time.perf_counter()
    with progress("walking", options.updates) as show:
        agent, curve = train(updates=options.updates, key=jax.random.key(options.seed), show=show)
    optimum, greedy = four_rooms.optimum(), policy(agent, 0.0)
    print(f"Mean return over {CELLS * (CELLS - 1)} pairs of a cell and a goal, exact:")
    for name, earned in (
        ("random legal moves", earns(random_moves())),
        ("the agent", earns(policy(agent))),
        ("the agent at temperature 0", earns(greedy)),
        ("the optimum", float(np.nanmean(optimum))),
    ):
        print(f"  {name:28}{earned:.4f}")
    shortest = np.isclose(four_rooms.values(greedy), optimum, rtol=1e-3)[np.isfinite(optimum)]
    print(f"At temperature 0 it takes a shortest way between {shortest.mean():.1%} of them")
    levels = {"random": earns(random_moves()), "the optimum": float(np.nanmean(optimum))}
    picture = pictures.of_walks(*zip(*curve, strict=True), levels, np.asarray(policy(agent)), GOALS)
    picture.savefig(options.picture, dpi=130)
    print(f"{time.perf_counter() - started:.0f} s. The picture: {options.picture}")


if __name__ == "__main__":
    main()
