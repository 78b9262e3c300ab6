"""Programs that are written often and can't be right: each is told what to write in its place."""

import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import flax.linen
import jax
import jax.numpy as jnp
import pytest

from liftax import errors, nn

KEY, X = jax.random.key(0), jnp.ones((4, 3))


def init(body: Callable[[Any, Any], Any]) -> Any:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(self, x)

    return Net().init(KEY, X)


class Block(nn.Module):
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(3)(x) * self.scale


@pytest.mark.parametrize("transform", [nn.vmap, nn.remat, nn.jit, nn.map_variables], ids=lambda f: f.__name__)
def test_factory_in_the_place_of_a_class(transform: Any):
    with pytest.raises(errors.TransformTargetError, match=r"takes no argument.* transform its class"):
        init(lambda mdl, x: transform(lambda: Block(0.5))()(x))


@pytest.mark.parametrize(
    "transform",
    [nn.vjp, nn.jvp, nn.grad, nn.value_and_grad, nn.jacfwd, nn.jacrev, nn.hessian, nn.laplacian, nn.fixed_point],
    ids=lambda f: f.__name__,
)
def test_derivative_without_the_module(transform: Any):
    with pytest.raises(errors.TransformTargetError, match=rf"no module.*nn\.{transform.__name__}\(fn, module, "):
        init(lambda mdl, x: transform(lambda m, x: m(x).sum())(nn.Dense(2), x))


@pytest.mark.parametrize(
    "function", [jnp.tanh, nn.relu, nn.initializers.zeros, nn.initializers.normal(0.1), nn.initializers.lecun_normal()]
)
def test_function_as_attribute_without_annotation(function: Any):
    class Net(nn.Module):
        fn = function
        kept = staticmethod(function)

        def __call__(self, x):
            assert self.kept is function
            return self.fn(x)

    assert Net.fn is function
    with pytest.raises(errors.TransformTargetError, match=r"Net\.fn is a function.*fn: Callable = …"):
        Net().apply({}, X)


def test_method_of_another_module_is_one():
    class Net(nn.Module):
        features: int
        use_bias: bool = False
        kernel_init: Any = nn.initializers.ones
        param_dtype: Any = jnp.float32
        dtype: Any = None
        dot_general: Any = None
        dot_general_cls: Any = None
        precision: Any = None
        promote_dtype: Any = nn.dtypes.promote_dtype
        __call__ = nn.Dense.__call__

    assert Net(2).init_with_output(KEY, X)[0].shape == (4, 2)


def notes(error: pytest.ExceptionInfo[Any]) -> str:
    return "".join(getattr(error.value, "__notes__", ()))


def test_lambda_as_attribute_without_annotation():
    class Net(nn.Module):
        scale_init = lambda key, shape: jnp.ones(shape)

        @nn.compact
        def __call__(self, x):
            return self.param("scale", self.scale_init, (3,))

    with pytest.raises(TypeError, match="takes 2 positional") as error:
        Net().init(KEY, X)
    assert "staticmethod(lambda" in notes(error)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad, jax.checkpoint], ids=lambda f: f.__name__)
def test_transform_of_jax_on_a_method(transform: Any):
    class Net(nn.Module):
        @transform
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    with pytest.raises(TypeError) as error:
        Net().init(KEY, X)
    assert "Net.__call__" in notes(error)
    assert "nn.jit instead of jax.jit" in notes(error)


def test_method_that_is_not_among_the_transformed_ones():
    class Tied(nn.Module):
        def setup(self):
            self.dense = nn.Dense(3)

        def __call__(self, x):
            return self.dense(x)

        def again(self, x):
            return self.dense(x)

    def body(methods):
        def of(mdl, x):
            vmapped = nn.vmap(Tied, variable_axes={"params": 0}, split_rngs={"params": True}, methods=methods)()
            return vmapped(x) + vmapped.again(x)

        return of

    with pytest.raises(errors.ScopeParamShapeError) as error:
        init(body(None))
    assert "methods=['__call__', 'again']" in notes(error)
    assert init(body(["__call__", "again"]))["params"]["VmapTied_0"]["dense"]["kernel"].shape == (4, 3, 3)


def test_map_variables_without_init():
    with pytest.raises(errors.ScopeCollectionNotFound, match=r"init=self\.is_initializing\(\)"):
        init(lambda mdl, x: nn.map_variables(nn.Dense, "params", lambda v: v)(3)(x))


def test_bound_module_in_a_pickle():
    model = nn.Dense(2)
    bound = model.bind(model.init(KEY, X))
    for pickler in (pickle, cloudpickle):
        with pytest.raises(errors.InvalidScopeError, match=r"bound\.unbind\(\)"):
            pickler.dumps(bound)
    module, variables = pickle.loads(pickle.dumps(bound.unbind()))
    assert (module.bind(variables)(X) == bound(X)).all()


@pytest.mark.parametrize("transform", [flax.linen.jit, flax.linen.remat], ids=lambda f: f.__name__)
def test_transform_of_flax_given_a_module(transform: Any):
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            return transform(lambda mdl, x: mdl(x))(nn.Dense(2), x)

    with pytest.raises(errors.ForeignModuleError, match=r"flax.linen.*liftax"):
        Net().init(KEY, X)
