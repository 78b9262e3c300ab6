"""The Linen-compatible namespace: `from liftax import nn` in place of `from flax import linen as nn`."""

from liftax.core import DenyList
from liftax.core.frozen import FrozenDict
from liftax.core.variable import Variable
from liftax.lift import (
    broadcast,
    checkpoint,
    custom_vjp,
    fold_rngs,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jit,
    jvp,
    linear_transpose,
    linearize,
    remat,
    scan,
    value_and_grad,
    vhp,
    vjp,
    vmap,
)
from liftax.module import Module, compact, merge_param, nowrap
from liftax.nn import initializers
from liftax.nn.activation import *  # noqa: F403
from liftax.nn.batch_norm import BatchNorm
from liftax.nn.combinators import Sequential
from liftax.nn.embed import Embed
from liftax.nn.linear import Dense
from liftax.nn.normalization import LayerNorm
from liftax.nn.stochastic import Dropout
