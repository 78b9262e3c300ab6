"""Train a transformer that does not fit into a budget of memory, by keeping less for its backward pass.

The task: sums modulo 97. A model reads two numbers and an equals sign, and names the sum; it has seen half of all
pairs. The budget bounds the temporary memory of a compiled training step: what XLA takes besides parameters, data and
results. A step that keeps everything takes more; a step whose loss is under `lx.checkpoint` fits, and is the one that
trains. How much the loss may keep, so that the whole step fits, is found by bisection: compiling tells, nothing has to
run.

On CPUs XLA undoes outside of loops what `lx.checkpoint` does, unless the flag below is set; here the blocks are in a
loop. The exit status is 1 if the plain step fits, no planned one does, or the accuracy on pairs that were not seen
stays low.

    python examples/memory_budget.py [--budget "24 MiB"] [--steps N] [--quick]

Source: A. Power et al., "Grokking: generalization beyond overfitting on small algorithmic datasets" (2022), the task.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_disable_hlo_passes=cse_barrier_expander"

import jax
import jax.numpy as jnp

import liftax as lx
from liftax import nn
from liftax.ad.memory.budget import in_words, parse_budget

try:
    import optax
except ModuleNotFoundError as error:
    raise SystemExit(f"memory_budget.py needs {error.name}: pip install 'liftax[demo]'") from None

PRIME, EQUALS = 97, 97


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = x + nn.MultiHeadDotProductAttention(num_heads=4, name="attention")(nn.LayerNorm(name="norm_1")(x))
        hidden = nn.gelu(nn.Dense(4 * self.width, name="up")(nn.LayerNorm(name="norm_2")(x)))
        return x + nn.Dense(self.width, name="down")(hidden), None


class Transformer(nn.Module):
    """Tokens (batch, 3) to the logits of the sum (batch, PRIME)."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        place = self.param("place", nn.initializers.normal(0.02), (tokens.shape[1], self.width))
        x = nn.Embed(PRIME + 1, self.width, name="embed")(tokens) + place
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        x, _ = blocks(self.width, name="blocks")(x, None)
        return nn.Dense(PRIME, name="head")(nn.LayerNorm(name="norm")(x[:, -1]))


def pairs(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return all questions (PRIME^2, 3) in random order, and their answers."""
    a, b = jnp.divmod(jax.random.permutation(key, PRIME**2), PRIME)
    return jnp.stack([a, b, jnp.full_like(a, EQUALS)], -1), (a + b) % PRIME


def make_step(loss: Callable[..., jax.Array], optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    @jax.jit
    def step(params: Any, state: Any, questions: jax.Array, answers: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, slope = jax.value_and_grad(loss)(params, questions, answers)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def temporary(step: Callable[..., Any], *args: Any) -> tuple[int, Any]:
    """Return the bytes that a compiled step takes besides its arguments and results, and the compiled step."""
    compiled = step.lower(*args).compile()  # type: ignore[attr-defined]
    return compiled.memory_analysis().temp_size_in_bytes, compiled


def fitting(
    loss: Callable[..., jax.Array], optimizer: optax.GradientTransformation, budget: int, args: Sequence[Any]
) -> tuple[int, int, Any] | None:
    """Return `(bytes kept, temporary bytes, step)` of the step that keeps most and fits; None if none does."""
    low, high, found = 0, budget, None
    while found is None or high - low > budget // 8:
        kept = (low + high) // 2
        used, step = temporary(make_step(lx.checkpoint(loss, budget=kept), optimizer), *args)
        if used <= budget:
            low, found = kept, (kept, used, step)
        else:
            high = kept
        if high < budget // 64:
            break
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a transformer in less memory than it takes.")
    parser.add_argument("--budget", help="temporary memory of a step ('24 MiB'; with --quick '1 MiB')")
    parser.add_argument("--steps", type=int, help="training steps (600; with --quick 20)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, seconds; what it learned is not checked")
    options = parser.parse_args(arguments)
    width, depth, batch = (32, 4, 256) if options.quick else (128, 6, 1024)
    budget, _ = parse_budget(options.budget or ("1 MiB" if options.quick else "24 MiB"))
    steps = options.steps or (20 if options.quick else 600)
    if budget is None:
        parser.error("--budget takes bytes, such as '24 MiB'")

    model = Transformer(width, depth)
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 2e-3, 50, max(steps, 51)), weight_decay=0.3)
    questions, answers = pairs(jax.random.key(0))
    half = len(questions) // 2
    params = jax.jit(model.init)(jax.random.key(1), questions[:1])

    def loss(params: Any, questions: jax.Array, answers: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, questions), answers).mean()

    args = (params, optimizer.init(params), questions[:batch], answers[:batch])
    plain, _ = temporary(make_step(loss, optimizer), *args)
    print(f"A plain step takes {in_words(plain)}; the budget is {in_words(budget)}.")
    if plain <= budget:
        print("It fits, and there is nothing to show.")
        return 1
    found = fitting(loss, optimizer, budget, args)
    if found is None:
        print("No plan fits.")
        return 1
    kept, used, step = found
    print(f"A step that keeps {in_words(kept)} for the backward pass takes {in_words(used)}: it trains.")

    state, key, first, value = args[1], jax.random.key(2), None, None
    for i in range(steps):
        places = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, half)
        params, state, value = step(params, state, questions[places], answers[places])
        first = value if first is None else first
    accuracy = jnp.mean(jnp.argmax(model.apply(params, questions[half:]), -1) == answers[half:])
    print(f"Loss {first:.2f} at first, {value:.2f} at last; accuracy on pairs not seen {accuracy:.0%}.")
    learned = value < first if options.quick else accuracy > 0.9
    return int(not learned)


if __name__ == "__main__":
    sys.exit(main())
