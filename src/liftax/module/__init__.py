"""Modules: dataclasses of hyperparameters that hold variables while they are bound."""

from liftax.module.methods import compact, nowrap
from liftax.module.module import Module
from liftax.module.params import merge_param

__all__ = ["Module", "compact", "merge_param", "nowrap"]
