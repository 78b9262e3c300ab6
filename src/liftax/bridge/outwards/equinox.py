"""A module of liftax as a model of Equinox.

    to_equinox : (Module, variables) -> eqx.Module

The parameters are leaves of the model. All other collections are an `eqx.nn.State`, which no optimizer touches.
"""

import functools
from collections.abc import Mapping
from typing import Any

from liftax import core, errors
from liftax.bridge.foreign import flat
from liftax.bridge.libraries import library
from liftax.bridge.outwards.target import check_module
from liftax.module.module import Module
from liftax.typing import Filter


def to_equinox(
    module: Module, variables: Mapping[str, Any], mutable: Filter = False, streams: tuple[str, ...] = ("dropout",)
) -> Any:
    """Return a model of Equinox that runs a module of liftax.

    A module whose variables are parameters only is called as `model(*args)`. One with other collections is stateful,
    as `eqx.nn.BatchNorm` is: make it by `eqx.nn.make_with_state(bridge.to_equinox)(module, variables)`, or inside the
    constructor of a larger model that is made so, and call it as `model(*args, state)`, which returns `(out, state)`.

    Args:
        module: an unbound module of liftax.
        variables: its variables, as `init` returns them, boxes with metadata removed.
        mutable: which collections, besides the parameters, a call moves.
        streams: the rng streams that `key=` feeds.

    Returns:
        An `eqx.Module`. Its method `apply(method, *args)` runs another method of the module.

    Raises:
        ForeignModuleError: `module` is something else.
        MissingLibraryError: Equinox is not installed.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from liftax import bridge, nn
        >>> layer = nn.Dense(2)
        >>> model = bridge.to_equinox(layer, layer.init(jax.random.key(0), jnp.ones(3)))
        >>> grads = eqx.filter_grad(lambda model, x: model(x).sum())(model, jnp.ones(3))
        >>> grads.params['kernel'].shape
        (3, 2)
    """
    check_module(module, "to_equinox")
    given = core.unbox(dict(variables))
    if not all(flat(tree) for tree in given.values()):
        given = {col: tree for col, tree in given.items() if flat(tree)}
    rest = {col: tree for col, tree in given.items() if col != "params"}
    index = library("equinox").nn.StateIndex(rest) if rest else None
    return _adapter()(given.get("params", {}), index, module, mutable, tuple(streams))


@functools.cache
def _adapter() -> Any:
    eqx = library("equinox")

    class ToEquinox(eqx.nn.StatefulLayer):
        """A model of Equinox that runs a module of liftax."""

        params: Any
        rest: Any
        module: Any = eqx.field(static=True)
        mutable: Any = eqx.field(static=True)
        streams: Any = eqx.field(static=True)

        def __call__(self, *args: Any, state: Any = None, key: Any = None, **kwargs: Any) -> Any:
            return self.apply(None, *args, state=state, key=key, **kwargs)

        def apply(self, method: Any, *args: Any, state: Any = None, key: Any = None, **kwargs: Any) -> Any:
            """Run a method of the module."""
            if state is None and args and isinstance(args[-1], eqx.nn.State):
                args, state = args[:-1], args[-1]
            rngs = {} if key is None else dict.fromkeys(self.streams, key)
            variables = {"params": self.params} if self.params else {}
            run = functools.partial(self.module.apply, rngs=rngs, method=method)
            if self.rest is None:
                out = run(variables, *args, **kwargs)
                return out if state is None else (out, state)
            if state is None:
                raise errors.ForeignStateError(
                    f"The {type(self.module).__name__} from bridge.to_equinox was called without its state. Make it by "
                    "eqx.nn.make_with_state(bridge.to_equinox)(module, variables), and call it as model(x, state)."
                )
            rest = state.get(self.rest)
            if self.mutable is False:
                return run({**variables, **rest}, *args, **kwargs), state
            mutable = core.subtract(self.mutable, "params")
            out, moved = run({**variables, **rest}, *args, mutable=mutable, **kwargs)
            return out, state.set(self.rest, {**rest, **{col: tree for col, tree in moved.items() if col in rest}})

        def is_stateful(self) -> bool:
            """Tell `eqx.nn.Sequential` whether there is state."""
            return self.rest is not None

    return ToEquinox
