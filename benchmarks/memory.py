"""What the backward pass keeps, and what the compiled program takes, by plans and by policies by hand.

    python -m benchmarks.memory [--only NETWORK] [--quick] [--run] [--json FILE]

Each network of `networks_memory.py` is differentiated plainly, with `jax.checkpoint` and a policy by hand around each
block and around the whole loss, and with `liftax.checkpoint`. Of each, relative to the plain derivative: bytes of the
compiled program that are neither arguments nor results (XLA's `memory_analysis`), bytes kept between forward and
backward pass, FLOPs (XLA's `cost_analysis`, which counts the body of a loop once, and a count of the program, which
counts it as often as it runs), and the times to trace and, with `--run`, to run.

XLA's pass that lets go of barriers on CPUs is switched off, and so is LLVM's optimization unless programs are run.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FLAGS = "--xla_disable_hlo_passes=cse_barrier_expander"
QUICK_COMPILE = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
RESULTS = Path(__file__).parent / "results" / "memory.json"
POLICIES = {"nothing": None, "dots": "dots_saveable", "dots without batch": "dots_with_no_batch_dims_saveable"}
BUDGETS = (60, 40, 25, 15)
FREE = 1.02  # times the FLOPs of the plain derivative


def variants(make: Callable[..., Any], size: int, quick: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each way to differentiate a network, and what makes `(loss, params, batch)`."""
    import jax

    import liftax as lx

    same = lambda f: f  # noqa: E731
    around = lambda wrap: (lambda made: (wrap(made[0]), *made[1:]))(make(same, size))  # noqa: E731
    yield "plain", lambda: make(same, size)
    for name, policy in POLICIES.items():
        chosen = policy and getattr(jax.checkpoint_policies, policy)
        by_hand = lambda f, chosen=chosen: jax.checkpoint(f, policy=chosen)  # noqa: E731
        yield f"block, {name}", lambda by_hand=by_hand: make(by_hand, size)
        if not quick:
            yield f"loss, {name}", lambda by_hand=by_hand: around(by_hand)
    yield "free", lambda: around(lx.checkpoint)
    for budget in BUDGETS if not quick else BUDGETS[1:3]:
        yield f"budget {budget}%", lambda b=budget: around(lambda f: lx.checkpoint(f, budget=f"{b}%"))


def measured(made: Any, rounds: int) -> dict[str, float]:
    """Measure one way to differentiate a network."""
    import jax

    from liftax.ad.memory.report import report_of

    loss, params, batch = made
    scalar = lambda p, b: (lambda out: out[0] if isinstance(out, tuple) else out)(loss(p, b))  # noqa: E731
    start = time.perf_counter()
    lowered = jax.jit(jax.grad(scalar)).lower(params, batch)
    traced = time.perf_counter() - start
    compiled = lowered.compile()
    costs: Any = compiled.cost_analysis()
    report = report_of(scalar, (params,), (batch,), {})
    found = {
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "kept": report.computed_bytes,
        "xla flops": (costs[0] if isinstance(costs, list) else costs)["flops"],
        "flops": report.flops,
        "trace": traced,
    }
    if rounds:
        times = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            jax.block_until_ready(compiled(params, batch))
            times.append(time.perf_counter() - start)
        low, middle, high = statistics.quantiles(times[1:], n=4, method="inclusive")
        found |= {"run": middle, "run low": low, "run high": high}
        statistics_of_device = jax.devices()[0].memory_stats()
        if statistics_of_device:
            found["peak"] = statistics_of_device.get("peak_bytes_in_use", 0)
    return found


def network(name: str, size: int, quick: bool, rounds: int) -> dict[str, dict[str, float]]:
    """Measure a network in all ways; a way that fails is noted with its error."""
    from benchmarks.networks_memory import NETWORKS

    found: dict[str, dict[str, float]] = {}
    for variant, make in variants(NETWORKS[name], size, quick):
        try:
            found[variant] = measured(make(), rounds)
            text = " ".join(f"{key} {ratio:.3f}" for key, ratio in ratios(found, variant).items())
        except Exception as error:
            text = f"fails: {type(error).__name__}: {str(error).partition(chr(10))[0]:.80}"
        print(f"{name:24s}{variant:28s}{text}", flush=True)
    return found


def ratios(found: dict[str, dict[str, float]], variant: str) -> dict[str, float]:
    """Divide the figures of a variant by those of the plain derivative."""
    plain = found["plain"]
    return {key: value / max(plain[key], 1e-12) for key, value in found[variant].items() if key in plain}


def best_by_hand(found: dict[str, dict[str, float]]) -> float | None:
    """The least temporary memory, over that of the plain derivative, of a hand policy within 2 % of its FLOPs."""
    hands = [v for v in found if v.startswith(("block", "loss"))]
    fitting = [r["temporary"] for r in (ratios(found, v) for v in hands) if r["xla flops"] <= FREE]
    return min(fitting, default=None)


def markdown(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the table of the free mode and the budgets beside the best policy by hand."""
    budgets = [f"budget {b}%" for b in BUDGETS]
    lines = ["| network | plain, MiB | best by hand | free | FLOPs | kept | " + " | ".join(budgets) + " |"]
    lines.append("|" + " --- |" * (6 + len(budgets)))
    for name, found in results.items():
        if "plain" not in found or "free" not in found:
            continue
        free, hand = ratios(found, "free"), best_by_hand(found)
        cells = [name, f"{found['plain']['temporary'] / 2**20:.1f}", "none" if hand is None else f"{hand:.2f}"]
        cells += [f"{free[key]:.2f}" for key in ("temporary", "xla flops", "kept")]
        for budget in budgets:
            r = ratios(found, budget) if budget in found else None
            cells.append("" if r is None else f"{r['temporary']:.2f}, FLOPs {r['flops']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure the networks, print the table, write the figures."""
    from benchmarks.networks_memory import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=NETWORKS, metavar="NETWORK", help="may repeat")
    parser.add_argument("--quick", action="store_true", help="policies around blocks and two budgets alone")
    parser.add_argument("--run", type=int, default=0, metavar="ROUNDS", help="run each program so often")
    parser.add_argument("--size", type=int, default=1, help="a multiple of the batch")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    results = {}
    for name in options.only or NETWORKS:
        results[name] = network(name, options.size, options.quick, options.run)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))
    return 0


if __name__ == "__main__":
    flags = os.environ.get("XLA_FLAGS", "") + " " + FLAGS
    os.environ["XLA_FLAGS"] = flags + ("" if "--run" in sys.argv else QUICK_COMPILE)
    sys.exit(main())
