"""The table of programs that are run on flax.linen and on liftax, and what of them is compared.

A program is a function of the namespace, `liftax.nn` or `flax.linen`, that returns a module; the rest of its row says
how to run it:

    @program(X, mutable=["state"])                      # the arguments; the name is that of the function
    def counts(nn):
        class Net(nn.Module): ...
        return Net()

From a row `test_table.py` makes one test. It runs `init`, `apply` and the vector-Jacobian product of `apply` on both
libraries and compares

- `init/variables`, `init/out`: parameters, state and output of `init`, the rng draws among them,
- `apply/out`, `apply/state`: output and state of `apply`, with other keys, and once more while differentiating,
- `grads/params`, `grads/x`: the gradients of all floating-point outputs and state, weighted unequally, to the
  parameters and to the floating-point arguments.

All of it is equal to the bit, but for what a row lists in `rounding`, with the reason. Integers, keys, names and
shapes are always equal.

Programs stand in the files of `programs/`, by theme; a new file there is found by itself. Beside them are two tables of
other kinds: `scripts.py`, whatever else can be compared (copies, pickles, interceptors, …), and `mistakes.py`, programs
that raise. `python -m tests.parity` prints all three.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["KEYS", "Program", "Rounding", "X", "difference", "load", "plain", "program", "run"]

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
KEYS = {"params": jax.random.key(1), "dropout": jax.random.key(2), "noise": jax.random.key(3)}


class Rounding(NamedTuple):
    """What is equal up to rounding only.

    Attributes:
        parts: substrings of the paths of the results that it is about.
        reason: why the two libraries round differently.
        ulps: the distance allowed, in units in the last place of the largest element of the array.
    """

    parts: tuple[str, ...]
    reason: str
    ulps: float = 4


@dataclasses.dataclass(frozen=True)
class Program:
    """A module, and how to run it.

    Attributes:
        name: what the program is about.
        theme: the file that it stands in.
        build: nn -> module.
        args: arguments of the method.
        rngs: keys; `apply` gets others, derived from these.
        mutable: that of `apply`.
        options: keywords of `init` and `apply`: `method`, `capture_intermediates`, …
        convert: what is done to the variables before they are handed to `apply`, such as `flax.core.freeze`.
        rounding: what is equal to Linen's up to rounding only.
        underivable: why no gradients are compared, or the empty string.
        long: whether it runs with the long suite only.
    """

    name: str
    theme: str
    build: Callable[[Any], Any]
    args: tuple[Any, ...] = (X,)
    rngs: Any = None
    mutable: Any = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    convert: Callable[[Any], Any] | None = None
    rounding: tuple[Rounding, ...] = ()
    underivable: str = ""
    long: bool = False

    def __str__(self) -> str:
        return f"{self.theme}-{self.name}"


_FOUND: dict[str, Program] = {}


def program(
    *args: Any,
    rngs: Any = KEYS,
    mutable: Any = False,
    convert: Callable[[Any], Any] | None = None,
    rounding: tuple[Rounding, ...] = (),
    underivable: str = "",
    long: bool = False,
    **options: Any,
) -> Any:
    """Add the program that is decorated to the table; see `Program`."""

    def add(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
        name, theme = build.__name__, build.__module__.rpartition(".")[2]
        assert name not in _FOUND, f"two programs are called {name}"
        _FOUND[name] = Program(
            name, theme, build, args or (X,), rngs, mutable, options, convert, rounding, underivable, long
        )
        return build

    return add


def load() -> list[Program]:
    """Return the programs of all files in `programs/`."""
    folder = importlib.import_module(f"{__package__}.programs")
    for name in sorted(info.name for info in pkgutil.iter_modules(folder.__path__)):
        importlib.import_module(f"{folder.__name__}.{name}")
    return list(_FOUND.values())


# --- running ---


def run(row: Program, lib: Any) -> dict[str, Any]:
    """Return everything of a program that is compared."""
    out, variables = row.build(lib).init_with_output(row.rngs, *row.args, **row.options)
    results = {"init/variables": variables, "init/out": out}
    # Without what `init` sowed: `apply` would add to it.
    variables = {col: tree for col, tree in variables.items() if col != "intermediates"}
    rngs = jax.tree.map(lambda key: jax.random.fold_in(key, 1), row.rngs)

    def apply(params: Any, args: Any) -> dict[str, Any]:
        given = {**variables, "params": params} if params is not None else variables
        given = given if row.convert is None else row.convert(given)
        out = row.build(lib).apply(given, *args, rngs=rngs, mutable=row.mutable, **row.options)
        return {"apply/out": out} if row.mutable is False else {"apply/out": out[0], "apply/state": out[1]}

    params = variables.get("params")
    results |= apply(params, row.args)
    return results if row.underivable else results | _gradients(apply, params, row.args)


def _gradients(apply: Callable[..., Any], params: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """Return the outputs of `apply` while it is differentiated, and the gradients."""
    leaves, treedef = jax.tree.flatten((params, args))
    floats = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def outputs(primals: list[Any]) -> list[Any]:
        given = list(leaves)
        for i, primal in zip(floats, primals, strict=True):
            given[i] = primal
        return [leaf for leaf in jax.tree.leaves(apply(*treedef.unflatten(given))) if is_float(leaf)]

    out, vjp = jax.vjp(outputs, [jnp.asarray(leaves[i]) for i in floats])
    # Weights near one, none like another.
    (grads,) = vjp([jnp.asarray(1 + 0.5 * np.sin(np.arange(y.size) + i).reshape(y.shape), y.dtype)
                    for i, y in enumerate(out)])  # fmt: skip
    filled: list[Any] = [None] * len(leaves)
    for i, grad in zip(floats, grads, strict=True):
        filled[i] = grad
    of_params, of_args = treedef.unflatten(filled)
    return {"grads/out": out, "grads/params": of_params, "grads/x": of_args}


def is_float(x: Any) -> bool:
    """Return whether `x` is an array of floating-point numbers."""
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.inexact)


# --- comparing ---


def plain(x: Any) -> Any:
    """Return `x` as nested dicts and lists of NumPy arrays and Python values, the same for both libraries."""
    if isinstance(x, Mapping):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, tuple | list):
        return [plain(v) for v in x]
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.shape, str(x.dtype)
    if hasattr(x, "unbox") and hasattr(x, "names"):
        return {"box": type(x).__name__, "names": x.names, "value": plain(x.unbox())}
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x) if isinstance(x, jax.Array | np.generic) else x


def difference(ours: Any, theirs: Any, roundings: tuple[Rounding, ...] = (), path: str = "") -> str:
    """Return where and how two plain values differ by more than `roundings` allow, or the empty string."""
    if type(ours) is not type(theirs):
        return f"{path}: {ours!r} and {theirs!r}"
    if isinstance(ours, dict):
        if set(ours) != set(theirs):
            return f"{path}: the keys {list(ours)} and {list(theirs)}"
        pairs = [(f"{path}/{k}" if path else k, ours[k], theirs[k]) for k in ours]
    elif isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return f"{path}: the lengths {len(ours)} and {len(theirs)}"
        pairs = [(f"{path}/{i}", a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    elif isinstance(ours, np.ndarray):
        return _array_difference(ours, theirs, roundings, path)
    else:
        return "" if ours == theirs else f"{path}: {ours!r} and {theirs!r}"
    return functools.reduce(lambda found, pair: found or difference(pair[1], pair[2], roundings, pair[0]), pairs, "")


def _array_difference(ours: np.ndarray, theirs: np.ndarray, roundings: tuple[Rounding, ...], path: str) -> str:
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return f"{path}: {ours.dtype}{ours.shape} and {theirs.dtype}{theirs.shape}"
    if ours.tobytes() == theirs.tobytes():
        return ""
    allowed = max((r.ulps for r in roundings if any(part in path for part in r.parts)), default=0)
    if is_float(ours) and np.isfinite(ours).all() and np.isfinite(theirs).all():
        unit = float(jnp.finfo(ours.dtype).eps) * float(np.abs(theirs).max())
        ulps = float(np.abs(ours - theirs).max()) / unit if unit else float("inf")
        return f"{path}: {ulps:.2f} units in the last place apart" if ulps > allowed else ""
    return f"{path}: {ours} and {theirs}"
