"""A module of liftax in functions that Haiku transforms.

to_haiku : Module -> hk.Module
"""

import functools
from collections.abc import Mapping
from typing import Any

from liftax import core, errors
from liftax.bridge.foreign import flat
from liftax.bridge.libraries import library
from liftax.bridge.outwards.target import check_module
from liftax.core.rngs import fold
from liftax.module.module import Module
from liftax.typing import Filter, Path


def to_haiku(
    module: Module, name: str | None = None, mutable: Filter = False, streams: tuple[str, ...] = ("dropout",)
) -> Any:
    """Return a Haiku module that runs a module of liftax, for use inside `hk.transform`.

    Parameters are Haiku's, named by their path, such as `Dense_0/kernel`. Other collections are Haiku's state, named
    `batch_stats/BatchNorm_0/mean`; a function with such a module is transformed by `hk.transform_with_state`.

    Args:
        module: an unbound module of liftax.
        name: the name of the Haiku module; by default the class of `module` in snake case.
        mutable: which collections, besides the parameters, a call moves.
        streams: the rng streams that `hk.next_rng_key` feeds, where Haiku has a key.

    Returns:
        An `hk.Module`, called as the module is; `method=…` runs another method.

    Raises:
        ForeignModuleError: `module` is something else.
        MissingLibraryError: Haiku is not installed.

    Example:
        >>> import haiku as hk, jax, jax.numpy as jnp
        >>> from liftax import bridge, nn
        >>> net = hk.transform(lambda x: hk.Linear(1)(bridge.to_haiku(nn.Dense(2))(x)))
        >>> params = net.init(jax.random.key(0), jnp.ones(3))
        >>> jax.tree.map(jnp.shape, params)
        {'dense': {'bias': (2,), 'kernel': (3, 2)}, 'linear': {'b': (1,), 'w': (2, 1)}}
    """
    check_module(module, "to_haiku")
    return _adapter()(module, name or type(module).__name__, mutable, tuple(streams))


@functools.cache
def _adapter() -> Any:
    hk = library("haiku")

    class ToHaiku(hk.Module):
        """A Haiku module that runs a module of liftax."""

        def __init__(self, module: Module, name: str, mutable: Filter, streams: tuple[str, ...]):
            super().__init__(name="".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_"))
            self.module, self.mutable, self.streams = module, mutable, streams

        def __call__(self, *args: Any, method: Any = None, **kwargs: Any) -> Any:
            """Run a method of the module."""
            key = hk.maybe_next_rng_key()
            rngs = {} if key is None else {stream: fold(key, stream) for stream in self.streams}
            mutable = False if self.mutable is False else core.subtract(self.mutable, "params")
            run = functools.partial(self.module.apply, rngs=rngs, method=method)
            variables = self._variables()
            if hk.running_init() and not variables:
                return self._create(hk.next_rng_key(), rngs, method, args, kwargs)
            if mutable is False or hk.running_init():
                return run(variables, *args, **kwargs)
            out, moved = run(variables, *args, mutable=mutable, **kwargs)
            for path, value in flat(moved).items():
                hk.set_state("/".join(path), value)
            return out

        def _variables(self) -> dict[str, Any]:
            """Return what Haiku holds for this module."""
            n = len(self.module_name) + 1
            found: dict[str, Any] = {}
            for full, value in self.params_dict().items():
                name = full[n:]
                _put(found, ("params", *name.split("/")), hk.get_parameter(name, value.shape, value.dtype))
            for full in self.state_dict():
                _put(found, tuple(full[n:].split("/")), hk.get_state(full[n:]))
            return found

        def _create(self, key: Any, rngs: Any, method: Any, args: Any, kwargs: Any) -> Any:
            out, variables = self.module.init_with_output({"params": key, **rngs}, *args, method=method, **kwargs)
            for (col, *path), value in flat(core.unbox(variables)).items():
                if any("/" in name for name in path):
                    raise errors.ForeignStateError(
                        f"bridge.to_haiku: the variable {(col, *path)} has '/' in a name, which is what separates the "
                        "names of a path in Haiku. Rename it."
                    )
                if col == "params":
                    hk.get_parameter("/".join(path), value.shape, value.dtype, init=lambda *_, value=value: value)
                else:
                    hk.get_state("/".join((col, *path)), value.shape, value.dtype, init=lambda *_, value=value: value)
            return out

    return ToHaiku


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        assert isinstance(tree, Mapping)
    tree[path[-1]] = value
