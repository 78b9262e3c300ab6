"""Modules: dataclasses of hyperparameters that hold variables while they are bound."""

from liftax.module.current import current_module
from liftax.module.functional import apply, init, init_with_output
from liftax.module.intercept import InterceptorContext, intercept_methods
from liftax.module.methods import compact, nowrap
from liftax.module.module import Module
from liftax.module.named_call import disable_named_call, enable_named_call, override_named_call
from liftax.module.params import merge_param
from liftax.module.sharing import compact_name_scope, share_scope

__all__ = [
    "InterceptorContext", "Module", "apply", "compact", "compact_name_scope", "current_module", "disable_named_call",
    "enable_named_call", "init", "init_with_output", "intercept_methods", "merge_param", "nowrap",
    "override_named_call", "share_scope",
]  # fmt: skip
