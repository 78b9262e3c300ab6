"""What a value takes to keep, in bytes, and an equation to run again, in FLOPs.

FLOPs are counted as XLA's cost analysis counts them: one for each number that an elementwise operation computes, two
for each product and sum of a matrix product, none for a change of shape. Integers count, and so do transcendental
functions, one each. A loop counts as often as it runs; of one whose number of steps is open a guess is made.
"""

import math
from typing import Any

from liftax.ad.memory.program import inner_programs

VIEWS = frozenset(
    [
        "reshape",
        "squeeze",
        "expand_dims",
        "broadcast_in_dim",
        "stop_gradient",
        "copy",
        "copy_p",
        "name",
        "reduce_precision",
        "bitcast_convert_type",
        "random_wrap",
        "random_unwrap",
        "pvary",
        "pcast",
        "sharding_constraint",
        "mesh_cast",
        "reshard",
        "optimization_barrier",
        "broadcast",
        "layout_constraint",
    ]
)
"""Operations that compute nothing: XLA gives them no time of their own."""

MOVES = frozenset(
    [
        "transpose",
        "rev",
        "slice",
        "concatenate",
        "pad",
        "gather",
        "dynamic_slice",
        "dynamic_update_slice",
        "scatter",
        "select_and_gather_add",
        "split",
        "unstack",
        "stack",
        "iota",
        "squeeze",
        "tile",
        "copy_to_host",
    ]
)
"""Operations that only move numbers about."""

ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bessel_i0e",
        "bessel_i1e",
        "cbrt",
        "ceil",
        "clamp",
        "clz",
        "complex",
        "conj",
        "convert_element_type",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "eq_to",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "igamma",
        "igammac",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "le_to",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "lt_to",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "polygamma",
        "population_count",
        "pow",
        "real",
        "regularized_incomplete_beta",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "sub",
        "tan",
        "tanh",
        "to_edtype",
        "from_edtype",
        "xor",
        "zeta",
        "axis_index",
    ]
)
"""Operations on each number alone, which XLA joins with what comes before and after them."""

DEAR = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "logistic",
        "tanh",
        "sin",
        "cos",
        "tan",
        "pow",
        "erf",
        "erfc",
        "erf_inv",
        "sqrt",
        "rsqrt",
        "cbrt",
        "div",
        "rem",
        "atan2",
    ]
)
"""Elementwise operations that XLA does not compute twice in order to join them with two others."""

REDUCTIONS = frozenset(
    [
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_prod",
        "reduce_and",
        "reduce_or",
        "reduce_xor",
        "argmax",
        "argmin",
        "reduce",
        "cumsum",
        "cumprod",
        "cummax",
        "cummin",
        "cumlogsumexp",
        "reduce_window_sum",
        "reduce_window_max",
        "reduce_window",
        "reduce_window_min",
        "select_and_scatter_add",
        "scatter-add",
        "scatter_add",
        "scatter_mul",
        "scatter-mul",
    ]
)
"""Operations whose work goes by the size of what they read."""

RANDOM = frozenset(["random_bits", "threefry2x32", "random_seed", "random_split", "random_fold_in", "random_clone"])
"""Random bits are functions of a key, and can be drawn again."""

WORDS = 60  # FLOPs of one random word of 32 bits

COLLECTIVES = frozenset(
    [
        "psum",
        "psum2",
        "psum_invariant",
        "pmax",
        "pmin",
        "all_gather",
        "all_gather_invariant",
        "all_gather_reduced",
        "all_to_all",
        "ppermute",
        "pbroadcast",
        "reduce_scatter",
        "psum_scatter",
        "ragged_all_to_all",
        "unreduced_psum",
        "xla_pmap",
        "pmap",
    ]
)
CALLBACKS = frozenset(["pure_callback", "io_callback", "debug_callback", "debug_print", "infeed", "outfeed"])

STEPS = 100  # of a loop whose number of steps is open


def size(aval: Any) -> int:
    """Return the number of elements of a value."""
    return math.prod(getattr(aval, "shape", ()))


def nbytes(aval: Any) -> int:
    """Return the bytes that a value takes; 0 for a token."""
    dtype = getattr(aval, "dtype", None)
    return 0 if dtype is None else size(aval) * dtype.itemsize


def is_cheap(eqn: Any) -> bool:
    """Tell whether running `eqn` again costs next to nothing: no product, loop, sort or factorization in it."""
    name = eqn.primitive.name
    if name in VIEWS or name in MOVES or name in ELEMENTWISE or name in REDUCTIONS or name in RANDOM:
        return True
    inner = inner_programs(eqn)
    return bool(inner) and name not in ("scan", "while", "cond", "shard_map") and all(
        is_cheap(e) and is_repeatable(e) for jaxpr in inner for e in jaxpr.eqns
    )  # fmt: skip


def is_repeatable(eqn: Any) -> bool:
    """Tell whether `eqn` may run twice at all: no effects, no communication, nothing outside of JAX."""
    if eqn.effects or eqn.primitive.name in COLLECTIVES or eqn.primitive.name in CALLBACKS:
        return False
    return all(is_repeatable(e) for jaxpr in inner_programs(eqn) for e in jaxpr.eqns)


def flops(eqn: Any) -> int:
    """Return the FLOPs that running `eqn` takes."""
    name = eqn.primitive.name
    if name in VIEWS or name in MOVES:
        return 0
    out = sum(size(v.aval) for v in eqn.outvars)
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * out * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * out * size(kernel) // max(1, outputs)
    if name in RANDOM:
        return WORDS * out
    read = max((size(x.aval) for x in eqn.invars), default=0)
    if name in REDUCTIONS:
        return max(read, out)
    if name in ELEMENTWISE:
        return out
    if name == "planned_linear":
        return eqn.params["made"].flops
    inner = inner_programs(eqn)
    if inner:
        costs = [sum(map(flops, jaxpr.eqns)) for jaxpr in inner]
        if name == "scan":
            return sum(costs) * eqn.params["length"]
        if name == "while":
            return sum(costs) * STEPS
        return max(costs) if name in ("cond", "custom_jvp_call", "custom_vjp_call") else sum(costs)
    if name == "fft":
        points = math.prod(eqn.params["fft_lengths"])
        return 5 * max(read, out) * max(1, round(math.log2(max(2, points))))
    if name in ("sort", "top_k", "approx_top_k"):
        return 2 * read * max(1, round(math.log2(max(2, read))))
    if name in FACTORIZATIONS:
        shape = eqn.invars[0].aval.shape
        return 2 * read * max(shape[-2:], default=1)
    return 10 * max(read, out)  # an operation that is not known


FACTORIZATIONS = frozenset(
    [
        "cholesky",
        "lu",
        "qr",
        "householder_product",
        "geqrf",
        "svd",
        "eigh",
        "eig",
        "schur",
        "hessenberg",
        "tridiagonal",
        "triangular_solve",
        "tridiagonal_solve",
        "lu_pivots_to_permutation",
        "custom_linear_solve",
    ]
)
