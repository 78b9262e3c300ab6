"""Modules under the address that they have in Linen, `nn.module`, and the module whose method runs now."""

from collections.abc import Iterator
from typing import Any

from liftax.core.calls import Frame, calls
from liftax.core.scope import Scope
from liftax.core.variable import Variable
from liftax.module import (
    InterceptorContext,
    Module,
    apply,
    compact,
    compact_name_scope,
    current_module,
    disable_named_call,
    enable_named_call,
    init,
    init_with_output,
    intercept_methods,
    merge_param,
    nowrap,
    override_named_call,
    share_scope,
)

__all__ = [
    "InterceptorContext", "Module", "Scope", "Variable", "apply", "capture_call_intermediates", "compact",
    "compact_name_scope", "current_module", "disable_named_call", "enable_named_call", "init", "init_with_output",
    "intercept_methods", "merge_param", "nowrap", "override_named_call", "share_scope",
]  # fmt: skip


def capture_call_intermediates(module: Module, method_name: str) -> bool:
    """Tell whether to sow an output: that of every `__call__`, as `capture_intermediates=True` does."""
    return method_name == "__call__"


class _ModuleStack:
    """The end of the stack of method calls, as code that reaches into Linen reads it: None, and the current module."""

    def __iter__(self) -> Iterator[Any]:
        return iter((None, calls.top.module))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: Any) -> Any:
        if index != -1:
            raise IndexError(f"module_stack[{index!r}]: liftax keeps the current module only, module_stack[-1].")
        return calls.top.module

    def __setitem__(self, index: Any, modules: Any) -> None:
        if index != slice(None):
            raise IndexError(f"module_stack[{index!r}] = …: only the whole stack can be replaced, module_stack[:] = ….")
        top = calls.top
        calls.top = Frame(modules[-1], top.capture, top.interceptors)


class _Context:
    module_stack = _ModuleStack()


_context = _Context()  # what programs written for Linen read; `current_module` is the public way
