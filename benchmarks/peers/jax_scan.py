"""JAX by hand: a whole epoch is one compiled function, `lax.scan` over its steps, with optax' Adam.

Chosen for speed: samples resident and normalized; weights and optimizer state donated, so that updates happen in
place; the order drawn by numpy, since sorting is slow in XLA on CPUs; a gather that need not check its indices. What is
left over at the end of an epoch is one more, smaller step of the same function. Compiled ahead of time within the first
epoch, which is how the moment before its first step is known.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.data import normalized, read
from benchmarks.task import Task, Watch, perform

OPTIMIZER = optax.adam(1e-3)


def initial(task: Task) -> list[tuple[jax.Array, jax.Array]]:
    """Weights (in, out) by Glorot's rule, and biases (out,)."""
    keys = jax.random.split(jax.random.key(task.seed), len(task.shape.layers))
    draw = jax.nn.initializers.glorot_uniform()
    return [(draw(key, pair), jnp.zeros(pair[1])) for key, pair in zip(keys, task.shape.layers, strict=True)]


def outputs(weights: Any, x: Any) -> Any:
    """Logits (n, 10)."""
    for weight, bias in weights[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = weights[-1]
    return x @ weight + bias


def loss(weights: Any, x: jax.Array, y: jax.Array) -> Any:
    """Mean cross-entropy of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs(weights, x), y).mean()


def epoch(state: Any, order: jax.Array, rest: jax.Array, x: jax.Array, y: jax.Array) -> Any:
    """All steps of an epoch; `order` is (steps, batch), `rest` the indices that fill no batch."""

    def step(state: Any, indices: jax.Array) -> tuple[Any, None]:
        weights, memory = state
        batch, target = (a.at[indices].get(mode="promise_in_bounds") for a in (x, y))
        updates, memory = OPTIMIZER.update(jax.grad(loss)(weights, batch, target), memory)
        return (optax.apply_updates(weights, updates), memory), None

    state, _ = jax.lax.scan(step, state, order)
    return step(state, rest)[0] if len(rest) else state


def train(task: Task, watch: Watch) -> None:
    """Train and test, epoch by epoch."""
    data = read(task.data, task.samples)
    x, y = jnp.asarray(normalized(data.x)), jnp.asarray(data.y.astype(np.int32))
    x_test, y_test = jnp.asarray(normalized(data.x_test)), jnp.asarray(data.y_test.astype(np.int32))
    right = jax.jit(lambda weights: (outputs(weights, x_test).argmax(1) == y_test).mean())
    generator = np.random.default_rng(task.seed)
    full = len(x) - len(x) % task.shape.batch
    weights = initial(task)
    state = (weights, OPTIMIZER.init(weights))
    compiled = None
    for _ in range(task.epochs):
        with watch.epoch():
            order = generator.permutation(len(x)).astype(np.int32)
            batches, rest = jnp.asarray(order[:full].reshape(-1, task.shape.batch)), jnp.asarray(order[full:])
            if compiled is None:
                compiled = jax.jit(epoch, donate_argnums=0).lower(state, batches, rest, x, y).compile()
                watch.stepped()
            state = compiled(state, batches, rest, x, y)
            state[0][0][0].block_until_ready()
        watch.tested(float(right(state[0])))


if __name__ == "__main__":
    perform(train, "jax", "jaxlib", "optax")
