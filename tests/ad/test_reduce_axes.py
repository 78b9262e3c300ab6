"""`reduce_axes` against explicit sums: which primals are summed, where, under which transforms, and to which order."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from liftax import ad
from liftax.errors import ReduceAxesError

N, D = 4, 3
W = jnp.array([0.1, -0.2, 0.3])
XS = jnp.linspace(-1.0, 2.0, N * D).reshape(N, D)


def loss(w, x):
    return jnp.sin(w * x).sum() + (w**3).sum()


def per_example(w, x, *, reduce_axes=("batch",), fun=loss, ct=1.0):
    _, vjp_fn = ad.vjp(fun, w, x, reduce_axes=reduce_axes)
    return vjp_fn(ct)


def over_batch(f, in_axes=(None, 0), out_axes=(None, 0), **kwargs):
    return jax.vmap(f, in_axes, out_axes, axis_name="batch", **kwargs)


def each(fun=loss):
    """Return the cotangents of every example, from plain JAX."""
    return jax.vmap(jax.grad(fun, (0, 1)), (None, 0))(W, XS)


def close(got, want, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, want)


def summed():
    w, x = each()
    return w.sum(0), x


# --- the semantics ---------------------------------------------------------------------------------------------------


def test_shared_primal_is_summed_and_unmapped():
    close(over_batch(per_example)(W, XS), summed())  # out_axes=None is refused by vmap for what is mapped


def test_without_reduce_axes_all_is_per_example():
    got = over_batch(functools.partial(per_example, reduce_axes=()), out_axes=(0, 0))(W, XS)
    close(got, each())


def test_other_axes_are_per_example():
    with pytest.raises(ReduceAxesError, match="'batch'"):
        over_batch(functools.partial(per_example, reduce_axes="inner"), out_axes=0)(W, XS)
    f = functools.partial(per_example, reduce_axes="inner")
    run = over_batch(lambda w, x: jax.vmap(f, (None, 0), (None, 0), axis_name="inner")(w, x), out_axes=(0, 0))
    close(run(W, XS[:, None]), each_with_inner_axis())


def each_with_inner_axis():
    w, x = each()
    return w, x[:, None]


def test_mapped_primal_keeps_its_cotangents():
    ws = jnp.stack([W] * N)
    close(over_batch(per_example, (0, 0), (0, 0))(ws, XS), each())


def test_negative_and_other_mapped_dimensions():
    close(over_batch(per_example, (None, -1), (None, 1))(W, XS.T), (summed()[0], summed()[1].T))


def test_leaves_of_one_primal_are_judged_one_by_one():
    def f(p):
        return (p["shared"] * p["own"]).sum()

    def run(p):
        return ad.vjp(f, p, reduce_axes="batch")[1](1.0)[0]

    axes = {"shared": None, "own": 0}
    got = over_batch(run, (axes,), axes)({"shared": W, "own": XS})
    close(got, {"shared": XS.sum(0), "own": jnp.stack([W] * N)})


def test_same_cotangent_for_all_examples_counts_once_for_each():
    """Where `fun` does not look at the example, each example still has its own copy of the output."""
    got = over_batch(lambda w, x: ad.vjp(lambda w: (w**2).sum(), w, reduce_axes="batch")[1](1.0)[0], out_axes=None)
    close(got(W, XS), N * 2 * W)


def test_unused_primal_has_a_zero_cotangent():
    w_ct, _ = over_batch(functools.partial(per_example, fun=lambda w, x: x.sum()))(W, XS)
    close(w_ct, jnp.zeros(D))


def test_mapped_cotangent_of_an_unmapped_function():
    def run(w, x):
        return ad.vjp(lambda w: w**2, w, reduce_axes="batch")[1](x)[0]

    close(over_batch(run, out_axes=None)(W, XS), 2 * W * XS.sum(0))


def test_closed_over_values_do_not_matter():
    def run(w, x):
        return ad.vjp(lambda x: loss(w, x), x, reduce_axes="batch")[1](1.0)[0]

    close(over_batch(run, out_axes=0)(W, XS), each()[1])


def test_integers_and_keys_are_left_alone():
    def f(w, n, key):
        return (w * n + jax.random.normal(key, (D,))).sum()

    def run(w, n):
        return ad.vjp(f, w, n, jax.random.key(0), reduce_axes="batch")[1](1.0)

    w_ct, n_ct, key_ct = over_batch(run, out_axes=(None, 0, None))(W, jnp.arange(N))
    close(w_ct, jnp.full(D, 6.0))
    assert n_ct.dtype == key_ct.dtype == jax.dtypes.float0


def test_refs_are_left_alone():
    def f(w, ref):
        ref[...] = 2 * w
        return (w**2).sum()

    def run(w, x):
        seen, w_ct, ref_ct = jax.new_ref(w), jax.new_ref(jnp.zeros(D)), jax.new_ref(jnp.zeros(D))
        ad.vjp(f, w, seen, reduce_axes="batch")[1].with_refs(w_ct, ref_ct)(1.0)
        return seen[...], w_ct[...]

    got = over_batch(run, out_axes=0)(W, XS)  # a ref made under vmap is mapped, whatever is written into it
    close(got, (jnp.stack([2 * W] * N), jnp.stack([N * 2 * W] * N)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes_are_kept(dtype):
    w, xs = W.astype(dtype), XS.astype(dtype)

    def run(w, x):
        return ad.vjp(lambda w: (w * x, w), w, reduce_axes="batch")[1]((jnp.ones_like(x), jnp.ones_like(w)))[0]

    got = over_batch(run, out_axes=None)(w, xs)
    assert got.dtype == dtype
    close(got.astype(jnp.complex64), (XS.sum(0) + N).astype(jnp.complex64), rtol=2e-2, atol=2e-2)


def test_has_aux():
    def run(w, x):
        y, vjp_fn, aux = ad.vjp(lambda w, x: (loss(w, x), x[0]), w, x, has_aux=True, reduce_axes=["batch"])
        return y, aux, vjp_fn(1.0)

    y, aux, cts = over_batch(run, out_axes=(0, 0, (None, 0)))(W, XS)
    close((y, aux, cts), (jax.vmap(loss, (None, 0))(W, XS), XS[:, 0], summed()))


@pytest.mark.parametrize("axes", ["batch", ("batch",), ["batch"], {"batch"}, ("batch", "batch")])
def test_spellings(axes):
    close(over_batch(functools.partial(per_example, reduce_axes=axes))(W, XS), summed())


@pytest.mark.long
def test_spmd_axis_name_changes_nothing():
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        close(jax.jit(over_batch(per_example, spmd_axis_name="devices"))(W, XS), summed())


# --- nested axes -----------------------------------------------------------------------------------------------------


def g3(a, b, c):
    return jnp.sin(a * b + c) * jnp.exp(0.3 * a * c) + b * b


SIZES = {"i": 2, "j": 3, "k": 2}
subsets = [tuple(s) for n in range(4) for s in itertools.combinations(SIZES, n)]


@pytest.mark.long
@given(
    order=st.permutations(list(SIZES)).flatmap(lambda p: st.integers(1, 3).map(lambda n: tuple(p[:n]))),
    mapped=st.tuples(*[st.sampled_from(subsets)] * 4),
    reduced=st.sampled_from(subsets),
    jits=st.integers(0, 15),
    seed=st.integers(0, 99),
)
def test_any_primals_mapped_over_any_nesting(order, mapped, reduced, jits, seed):
    """Cotangents equal those of the whole grid of examples, summed over the reduced axes that the primal lacks."""
    rng = np.random.default_rng(seed)
    mapped = [[n for n in order if n in m] for m in mapped]  # of each primal, and of the cotangent
    reduced = tuple(n for n in reduced if n in order)
    *primals, ct = [jnp.asarray(rng.normal(size=[SIZES[n] for n in m]), jnp.float32) for m in mapped]

    def run(a, b, c, ct):
        return ad.vjp(g3, a, b, c, reduce_axes=reduced)[1](ct)

    run = jax.jit(run) if jits & 1 else run
    for level, name in reversed(list(enumerate(order))):
        in_axes = tuple(0 if name in m else None for m in mapped)
        out_axes = tuple(None if name in reduced and name not in m else 0 for m in mapped[:3])
        run = jax.vmap(run, in_axes, out_axes, axis_name=name, axis_size=SIZES[name])
        run = jax.jit(run) if jits & (2 << level) else run

    shape = [SIZES[n] for n in order]
    grid = [
        np.broadcast_to(np.asarray(x).reshape([SIZES[n] if n in m else 1 for n in order]), shape)
        for x, m in zip([*primals, ct], mapped, strict=True)
    ]
    full = jax.vmap(lambda a, b, c, ct: jax.vjp(g3, a, b, c)[1](ct))(*[g.ravel() for g in grid])
    want = [
        np.asarray(f).reshape(shape).sum(tuple(i for i, n in enumerate(order) if n in reduced and n not in m))
        for f, m in zip(full, mapped, strict=False)
    ]
    close(run(*primals, ct), tuple(want), rtol=2e-4, atol=2e-5)


# --- inside and outside other transforms -----------------------------------------------------------------------------


def scanned(f):
    return lambda w, x: jax.lax.scan(lambda c, _: (c, f(w, x)), 0.0, None, length=1)[1]


def scanned_constants(f):
    def run(w, x):
        _, out = jax.lax.scan(lambda c, x: (c, f(c, x)), w, x[None])
        return out

    return run


def in_while(f):
    def run(w, x):
        zero = jax.tree.map(jnp.zeros_like, (w, x))
        return jax.lax.fori_loop(0, 2, lambda i, c: f(w, x), zero)

    return run


def in_cond(f):
    return lambda w, x: jax.lax.cond(w[0] > 0, f, lambda w, x: (w, x), w, x)


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        in_while,
        in_cond,
        scanned,
        scanned_constants,
    ],
    ids=["jit", "checkpoint", "jit-checkpoint-jit", "while", "cond", "scan", "scan-carry"],
)
@pytest.mark.parametrize("outside", [False, True], ids=["", "jit-outside"])
def test_inside_control_flow(around, outside):
    run = over_batch(around(per_example), out_axes=(None, 0 if "scan" not in around.__name__ else 1))
    got = (jax.jit(run) if outside else run)(W, XS)
    close(jax.tree.map(jnp.ravel, got), jax.tree.map(jnp.ravel, summed()))


def fun_cond(w, x):
    return jax.lax.cond(x[0] > 0, loss, lambda w, x: 2.0 * loss(w, x), w, x)


def fun_scan(w, x):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c * x), c.sum()), w, None, length=2)[1].sum()


def fun_while(w, x):
    return jax.lax.fori_loop(0, 2, lambda i, c: jnp.tanh(c * x), w).sum()


@pytest.mark.parametrize("fun", [fun_cond, fun_scan, fun_while, jax.jit(loss), jax.checkpoint(loss)])
def test_control_flow_inside_the_function(fun):
    w, x = each(fun)
    close(over_batch(functools.partial(per_example, fun=fun))(W, XS), (w.sum(0), x))


def test_gradient_descent_in_a_scan_keeps_shared_weights_shared():
    def train(w, x):
        return jax.lax.scan(lambda w, _: (w - 0.1 * per_example(w, x)[0], None), w, None, length=3)[0]

    want = W
    for _ in range(3):
        want -= 0.1 * jax.vmap(jax.grad(loss), (None, 0))(want, XS).sum(0)
    close(over_batch(train, out_axes=None)(W, XS), want)


@pytest.mark.parametrize("inner", [lambda f: f, jax.jit])
def test_backward_map_leaves_jit(inner):
    def run(w, x):
        _, vjp_fn = jax.jit(lambda w, x: ad.vjp(loss, w, x, reduce_axes="batch"))(w, x)
        return inner(vjp_fn)(1.0)

    close(over_batch(run)(W, XS), summed())


def test_backward_map_vmapped_over_cotangents():
    def run(w, x):
        return jax.vmap(ad.vjp(loss, w, x, reduce_axes="batch")[1])(jnp.array([1.0, -2.0]))

    w, x = summed()
    close(over_batch(run, out_axes=(None, 1))(W, XS), (jnp.stack([w, -2 * w]), jnp.stack([x, -2 * x])))


def test_backward_map_is_a_residual_of_custom_vjp():
    @jax.custom_vjp
    def f(w, x):
        return loss(w, x)

    f.defvjp(lambda w, x: ad.vjp(loss, w, x, reduce_axes="batch"), lambda vjp_fn, ct: vjp_fn(ct))
    got = over_batch(lambda w, x: jax.vjp(f, w, x)[1](1.0))(W, XS)
    close(got, summed())


def test_the_compiled_program_holds_nothing_but_the_sum():
    text = str(jax.make_jaxpr(over_batch(jax.jit(per_example)))(W, XS))
    assert "liftax" not in text
    plain = str(jax.make_jaxpr(over_batch(jax.jit(functools.partial(per_example, reduce_axes=())), out_axes=0))(W, XS))
    assert text.count("reduce_sum") == plain.count("reduce_sum") + 1


# --- higher derivatives ----------------------------------------------------------------------------------------------


def total_gradient(w, xs):
    return over_batch(per_example)(w, xs)[0]


def explicit_gradient(w, xs):
    return jax.grad(lambda w: jax.vmap(loss, (None, 0))(w, xs).sum())(w)


def test_derivatives_taken_outside():
    for transform in (jax.jacrev, lambda f: jax.jacfwd(jax.jacrev(f)), lambda f: jax.jacrev(jax.jacrev(f))):
        got, want = jax.jit(lambda w, x, t=transform: (t(total_gradient)(w, x), t(explicit_gradient)(w, x)))(W, XS)
        close(got, want, rtol=1e-4)
    close(jax.jacrev(total_gradient, 1)(W, XS), jax.jacrev(explicit_gradient, 1)(W, XS))


def test_numerical_derivatives():
    check_grads(jax.jit(total_gradient), (W, XS), order=2, rtol=2e-2, atol=2e-2)


def by_hand(f, w, x):
    """Return the gradient of `f` for `w`, summed over the batch by an explicit psum."""
    return jax.lax.psum(jax.grad(f)(w, x), "batch")


def by_reduce_axes(f, w, x):
    return ad.grad(f, reduce_axes="batch")(w, x)


@pytest.mark.parametrize("inner_jit", [False, True])
@pytest.mark.parametrize("use_x", [False, True], ids=["same-for-all", "per-example"])
def test_gradient_of_gradient_inside_equals_explicit_psum(use_x, inner_jit):
    def twice(summed_grad):
        first = jax.jit(summed_grad, static_argnums=0) if inner_jit else summed_grad

        def outer(w, x):
            return (first(loss, w, x) * (x if use_x else 2.0)).sum()

        return over_batch(functools.partial(summed_grad, outer), out_axes=None)(W, XS)

    close(twice(by_reduce_axes), twice(by_hand), rtol=1e-4)


def test_gradient_of_gradient_inside_is_the_gradient_of_the_total():
    """Sum over b of x_b . G(w), where G is the summed gradient, differentiated as one function of the shared w."""

    def outer(w, x):
        return (by_reduce_axes(loss, w, x) * x).sum()

    got = over_batch(functools.partial(by_reduce_axes, outer), out_axes=None)(W, XS)
    close(got, jax.grad(lambda w: (explicit_gradient(w, XS) * XS.sum(0)).sum())(W), rtol=1e-4)


def test_outer_derivative_decides_for_itself():
    """An inner reduce_axes does not reduce the cotangents of an outer vjp without it."""

    def inner(w, x):
        y, vjp_fn = ad.vjp(loss, w, x, reduce_axes="batch")
        return y + 0.0 * vjp_fn(1.0)[1].sum()

    close(over_batch(jax.grad(inner), out_axes=0)(W, XS), each()[0])


def test_forward_over_reverse_inside():
    def run(w, x):
        return jax.jvp(lambda w: by_reduce_axes(loss, w, x), (w,), (jnp.ones(D),))[1]

    hessian = jax.hessian(lambda w: jax.vmap(loss, (None, 0))(w, XS).sum())(W)
    close(over_batch(run, out_axes=None)(W, XS), hessian.sum(1), rtol=1e-4)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ("batch", r"'batch', but no axis of that name is bound here. Bound axes: none\."),
        (("batch",), r"jax\.vmap\(\.\.\., axis_name='batch'\)"),
        (3, "reduce_axes=3 of type int, expected axis names"),
        (None, "reduce_axes=None of type NoneType"),
        (True, "reduce_axes=True of type bool"),
        ("", "'', but no axis"),
        ((None,), "None of type NoneType in reduce_axes, expected the name"),
        (([],), r"\[\] of type list in reduce_axes, expected the name"),
        ((3,), "with 3, but no axis"),
    ],
)
def test_refused(axes, text):
    with pytest.raises(ReduceAxesError, match=text):
        ad.vjp(jnp.sin, 1.0, reduce_axes=axes)


def test_bound_axes_are_listed():
    with pytest.raises(ReduceAxesError, match=r"'batsh', but .* Bound axes: 'batch'\. Did you mean 'batch'\?"):
        over_batch(functools.partial(per_example, reduce_axes="batsh"))(W, XS)


def test_jit_traced_under_the_axis_is_not_reused_without():
    run = jax.jit(per_example)
    close(over_batch(run)(W, XS), summed())
    with pytest.raises(ReduceAxesError, match="no axis of that name"):
        run(W, XS[0])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_backward_map_called_outside_its_axis(wrap):
    vjp_fns = over_batch(lambda w, x: ad.vjp(loss, w, x, reduce_axes="batch")[1], out_axes=0)(W, XS)
    with pytest.raises(ReduceAxesError, match=r"called where the axis 'batch' is not bound"):
        wrap(jax.vmap(lambda b: b(1.0)))(vjp_fns)


@pytest.mark.long
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_axis_of_a_mesh(wrap):
    """JAX sums the cotangent of what does not vary over the axis: to name the axis is legal, and changes nothing."""
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("devices")

    def f(w, xs):
        y, vjp_fn = ad.vjp(lambda w, xs: jax.vmap(loss, (None, 0))(w, xs).sum(), w, xs, reduce_axes="devices")
        return vjp_fn(jnp.ones_like(y))

    in_specs, out_specs = (PartitionSpec(), spec), (PartitionSpec(), spec)
    close(jax.shard_map(wrap(f), mesh=mesh, in_specs=in_specs, out_specs=out_specs)(W, XS), summed())
    with pytest.raises(ReduceAxesError, match=r"check_vma=False.*jax\.lax\.psum\(ct, 'devices'\)"):
        jax.shard_map(wrap(f), mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(W, XS)


def test_axis_of_vmap_inside_shard_map():
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("devices")

    def shard(w, xs):
        gradient = over_batch(ad.grad(loss, (0, 1), reduce_axes="batch"))
        w_ct, x_ct = gradient(jax.lax.pcast(w, "devices", to="varying"), xs)
        return jax.lax.psum(w_ct, "devices"), x_ct

    run = jax.shard_map(shard, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=(PartitionSpec(), spec))
    close(jax.jit(run)(W, XS), summed())
