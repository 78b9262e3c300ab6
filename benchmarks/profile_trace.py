"""Profile the tracing of the residual MLP in liftax: which functions take the time, sorted by their own.

`python -m benchmarks.profile_trace [--kind vjp] [--eager] [--library linen]`; lines of the library and lines of
everything else are listed apart, because the profiler's hook makes every Python call dearer than it is.
"""

import argparse
import cProfile
import importlib
import pstats
import sys
from pathlib import Path

import jax

from benchmarks import measure
from benchmarks.peers.hand import models as hand
from benchmarks.peers.linen import models as models_linen
from benchmarks.peers.linen.models import NAMESPACES


def main() -> None:
    """Print the dearest functions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", choices=NAMESPACES, default="liftax")
    parser.add_argument("--kind", choices=sorted(models_linen.KINDS), default="mlp")
    parser.add_argument("--eager", action="store_true", help="run without tracing")
    parser.add_argument("--depth", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lines", type=int, default=30)
    options = parser.parse_args()

    nn = importlib.import_module(NAMESPACES[options.library])
    library = models_linen.implementation(options.library, nn)
    x = jax.random.normal(jax.random.key(1), (hand.BATCH, hand.WIDTH))
    tree = (
        hand.tiny_parameters(options.depth)
        if options.kind == "tiny"
        else hand.init(jax.random.key(0), x, options.depth)
    )
    first = jax.random.key(0) if options.kind == "init" else library.variables(tree)

    def once() -> None:
        program = library.program(options.kind, options.depth)
        run = program if options.eager else jax.make_jaxpr(program)
        run(first, x)

    once()
    profile = cProfile.Profile()
    with measure.quiet_gc():
        profile.enable()
        for _ in range(options.repeat):
            once()
        profile.disable()
    show(profile, Path(str(nn.__file__)).parents[1], options.repeat, options.lines)


def show(profile: cProfile.Profile, root: Path, repeat: int, lines: int) -> None:
    """List functions by their own time per pass, those under `root` before the others."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values())
    groups: dict[str, list[tuple[float, float, int, str]]] = {"library": [], "elsewhere": []}
    for (file, line, name), (_, count, own, cumulative, _) in stats.items():
        inside = Path(file).is_relative_to(root)
        where = f"{Path(file).relative_to(root) if inside else '/'.join(Path(file).parts[-3:])}:{line} {name}"
        groups["library" if inside else "elsewhere"].append((own, cumulative, count, where))
    for group, entries in groups.items():
        share = sum(own for own, *_ in entries)
        print(f"{group}: {share / repeat * 1e3:.1f} ms of {total / repeat * 1e3:.1f} ms own time a pass, profiled")
        print(f"{'own ms':>9} {'with callees':>13} {'calls':>9}  function")
        for own, cumulative, count, where in sorted(entries, reverse=True)[:lines]:
            print(f"{own / repeat * 1e3:9.2f} {cumulative / repeat * 1e3:13.2f} {count / repeat:9.0f}  {where}")
        print()


if __name__ == "__main__":
    sys.exit(main())
