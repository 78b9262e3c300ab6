"""Every derivative transform that has a descriptor, called as the descriptor says, against the one for plain functions.

Nothing here names a transform: a new one is covered as soon as it is described, in `liftax.lift` and in `liftax.ad`.
"""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import pytest
from tests.support.cells import PHASES, Cell, assert_trees_close, differentiated, total
from tests.support.rows import KINDS, sides

import liftax as lx
from liftax import errors, lift
from liftax.explain.transform import transforms

LIFTED = {str(t): (fn, t) for fn, t in transforms().items() if getattr(lift, str(t), None) is fn}


def descriptor_of_plain(name):
    """Return the descriptor of `lx.<name>`, which stands beside it."""
    module = importlib.import_module(getattr(lx, name).__module__)
    return next(t for t in vars(module).values() if type(t).__name__ == "Transform" and str(t) == name)


BOTH = {
    name: found
    for name, found in LIFTED.items()
    if "…" not in found[1].call
    and getattr(getattr(lx, name, None), "__module__", "").startswith("liftax.ad")
    and not getattr(lx, name).__module__.startswith("liftax.ad.loops")  # called otherwise: see tests/ad/loops
}


def called(transform, descriptor, **names):
    """Call a transform as its descriptor says: `call` is Python, in which these names stand for values."""
    return eval(f"transform{descriptor.call}", {"transform": transform, **names})


def function_for(descriptor, y_of):
    """Return a function of `(*modules, x)` whose output is what the transform takes."""
    if descriptor.output == "scalar":
        return lambda *args: total(y_of(*args))
    if descriptor.output == "like the first argument":
        return lambda *args: 0.1 * y_of(*args) + 0.5 * args[-1] + 0.2
    return y_of


def numbers(result, x):
    """Return the arrays in a result; of a map, those of what it returns for one cotangent or tangent."""
    leaves = jax.tree.leaves(result, is_leaf=callable)
    found = []
    for leaf in leaves:
        out = leaf(jnp.cos(x)) if callable(leaf) else leaf
        found.extend(jax.tree.leaves(out[-1] if isinstance(out, tuple) else out))
    return found


def both(name):
    transform, descriptor = BOTH[name]
    plain_descriptor = descriptor_of_plain(name)
    loss = lambda y: jnp.sum(jnp.sin(y) ** 2)

    def lifted(fn, mdl, x):
        names = {"module": mdl, "primals": (x,), "tangents": (jnp.sin(x),), "variable_tangents": None, "loss": loss}
        result = called(transform, descriptor, fn=function_for(descriptor, fn), x0=x, args=(), **names)
        return numbers(result, x)

    def plain(pure, p, x):
        f = function_for(descriptor, lambda x: pure(p, x)[0])
        v = jnp.sin(x)
        names = {"f": f, "loss": loss, "x": x, "v": v, "x_dot": v, "primals": (x,), "x0": x}
        return numbers(called(getattr(lx, name), plain_descriptor, **names), x), pure(p, x)[1]

    return lifted, plain


CELLS = [
    Cell(name, kind, phase, outer)
    for name, (_, descriptor) in BOTH.items()
    for kind in KINDS
    if not ("x0" in descriptor.call and kind == "batch_stats")  # written at the solution
    for phase in PHASES
    for outer in ("jit", "vmap", "grad", "jvp")
    if not (outer in ("grad", "jvp") and "x0" in descriptor.call)  # the derivative in the start is zero
]


def is_short(cell):
    turn = list(BOTH).index(cell.transform)
    return cell.outer == "jit" and KINDS[turn % 4] == cell.kind and cell.phase == PHASES[turn // 2 % 2]


def test_transforms_are_found():
    assert {"vjp", "jvp", "grad", "hvp", "laplacian", "divergence", "fixed_point"} <= set(BOTH)
    assert len(LIFTED) >= 30


@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=str(c), marks=[] if is_short(c) else [pytest.mark.long]) for c in CELLS]
)
def test_cell(cell):
    program, reference = sides(cell, *both(cell.transform))
    want = differentiated(cell, reference, jit=True)
    got = differentiated(cell, program, jit=True)
    results = got["results"][0], want["results"][0]
    if cell.outer == "jit":
        assert_trees_close(*results, 5e-4)
    assert_trees_close(got["gradients"], want["gradients"], 2e-3)


@pytest.mark.parametrize("name", sorted(LIFTED))
def test_error_says_how_it_is_called(name):
    """A value where the module belongs: the error shows the call."""
    transform, descriptor = LIFTED[name]
    x, f = jnp.ones(2), lambda *args: args[-1]
    names = {
        "fn": f, "loss": jnp.sum, "module": x, "primals": (x,), "tangents": (x,), "variable_tangents": None, "x0": x,
        "args": (), "forward_fn": f, "backward_fn": f, "jvp_fn": f, "pred": True, "true_fun": f, "false_fun": f,
        "operands": (), "index": 0, "branches": [f], "cond_fn": f, "body_fn": f, "init": x, "carry": x, "xs": (x,),
    }  # fmt: skip
    transform = functools.partial(transform, **OPTIONS.get(name, {}))
    with pytest.raises(errors.TransformTargetError) as caught:
        called(transform, without_options(descriptor), **names)
    inner = LIFTED[WITHIN.get(name, name)][1]
    assert inner.usage in str(caught.value)


WITHIN = {"remat_scan": "scan", "add_metadata_axis": "map_variables"}  # what they are made of is called first
OPTIONS = {
    "add_metadata_axis": {"variable_axes": {"params": 0}},
    "shard_map": {"in_specs": jax.sharding.PartitionSpec(), "out_specs": jax.sharding.PartitionSpec()},
    "remat_scan": {"lengths": (2,)},
}


def without_options(descriptor):
    """Return the descriptor with `…`, which stands for options, left out of the call."""
    return dataclasses.replace(descriptor, call=descriptor.call.replace(", …", ""))
