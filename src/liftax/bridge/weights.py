"""The values of a model of another library as variables of its wrapper, and back.

    variables : model -> {collection: tree}
    load      : (model, variables) -> model

So what is trained in one place is used in the other. Linen and Haiku keep their values outside of the model already, in
the trees that `bridge.Linen` and `bridge.Haiku` take as they are.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from liftax import core, errors
from liftax.bridge.foreign import flat
from liftax.bridge.libraries import full_name, loaded
from liftax.typing import Path


def variables(model: Any, state: Any = None) -> dict[str, Any]:
    """Return the values that a model of NNX or Equinox holds, as `init` of its wrapper gives them.

    Args:
        model: an `nnx.Module` or an `eqx.Module`.
        state: the `eqx.nn.State` of a stateful model of Equinox.

    Returns:
        `{collection: tree}`: see `bridge.NNX` and `bridge.Equinox`.

    Raises:
        ForeignModuleError: `model` is something else.

    Example:
        >>> from flax import nnx
        >>> from liftax import bridge
        >>> trained = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> bridge.variables(trained)['params']['kernel'].shape
        (3, 2)
    """
    tree: dict[str, Any] = {}
    for key, value in _held(model, state).values().items():
        place = tree
        for name in key[:-1]:
            place = place.setdefault(name, {})
        place[key[-1]] = value
    return tree


def load(model: Any, variables: Mapping[str, Any], state: Any = None) -> Any:
    """Return a copy of a model of NNX or Equinox that holds `variables`. The model itself stays as it is.

    Args:
        model: an `nnx.Module` or an `eqx.Module`.
        variables: `{collection: tree}` as `init` of the wrapper gives them. Collections that are left out keep the
            values of the model.
        state: the `eqx.nn.State` of a stateful model of Equinox.

    Returns:
        The model; with `state`, a pair of the model and the state.

    Raises:
        ForeignModuleError: `model` is something else.
        ForeignStateError: A variable has no counterpart in the model, or another shape; or one is missing in a
            collection that is given.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from liftax import bridge
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> zeros = jax.tree.map(jnp.zeros_like, bridge.variables(model))
        >>> bridge.load(model, zeros)(jnp.ones(3))
        Array([0., 0.], dtype=float32)
    """
    held = _held(model, state)
    own = held.values()
    given = {key: core.unbox(value) for key, value in flat(variables).items()}
    unknown = ["/".join(key) for key in given if key not in own]
    missing = ["/".join(key) for key in own if key[0] in variables and key not in given]
    if unknown or missing:
        raise errors.ForeignStateError(
            f"bridge.load: without a counterpart in {type(model).__name__}: {', '.join(unknown) or 'nothing'}; missing "
            f"in the variables: {', '.join(missing) or 'nothing'}. Give the variables of a model with the same "
            "structure, as bridge.variables returns them."
        )
    for key, value in given.items():
        if np.shape(value) != np.shape(core.unbox(own[key])):
            raise errors.ForeignStateError(
                f"bridge.load: {'/'.join(key)} has shape {np.shape(value)}, and that of {type(model).__name__} has "
                f"shape {np.shape(core.unbox(own[key]))}."
            )
    return held.put({**{key: core.unbox(value) for key, value in own.items()}, **given})


class _NNXValues:
    def __init__(self, model: Any):
        from liftax.bridge.nnx import take_apart

        self.parts = take_apart(model)

    def values(self) -> dict[Path, Any]:
        return self.parts.boxed

    def put(self, values: Mapping[Path, Any]) -> Any:
        from flax import nnx

        return nnx.merge(
            self.parts.graphdef, nnx.from_flat_state([(self.parts.paths[key], x) for key, x in values.items()])
        )


class _EquinoxValues:
    def __init__(self, model: Any, state: Any):
        from liftax.bridge.equinox import take_apart

        self.parts = take_apart(model, state)
        self.with_state = state is not None

    def values(self) -> dict[Path, Any]:
        return self.parts.example

    def put(self, values: Mapping[Path, Any]) -> Any:
        parts = self.parts
        leaves = [values[parts.arrays[i]] if i in parts.arrays else x for i, x in enumerate(parts.leaves)]
        model = parts.treedef.unflatten(leaves)
        if not self.with_state:
            return model
        return model, jax.tree.unflatten(parts.state_treedef, [values[key] for key in parts.states])


def _held(model: Any, state: Any) -> Any:
    nnx_module, equinox_module = loaded("flax.nnx", "Module"), loaded("equinox", "Module")
    if nnx_module is not None and isinstance(model, nnx_module):
        return _NNXValues(model)
    if equinox_module is not None and isinstance(model, equinox_module):
        return _EquinoxValues(model, state)
    raise errors.ForeignModuleError(
        f"bridge.variables and bridge.load got {full_name(model)}; expected an object of flax.nnx.Module or of "
        "equinox.Module. The values of models of Linen and Haiku are trees already, {'params': params, …}, which "
        "bridge.Linen and bridge.Haiku take as they are."
    )
