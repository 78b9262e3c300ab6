"""The stack of module calls: which module's method runs now, and what rides along with it.

This is the one piece of global state in liftax, one per thread. Frames are immutable and linked, so keeping the
context of a call for later (the forward rule of `custom_vjp` is traced when JAX gets to it) is keeping a reference.
"""

import threading
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """One call.

    Args:
        module: the module whose method runs; new submodules attach to it.
        capture: `(module, method name) -> bool`, which outputs to sow as intermediates, or None.
        interceptors: what wraps every method call, outermost first.
    """

    module: Any = None
    capture: Any = None
    interceptors: tuple[Any, ...] = ()


class _Calls(threading.local):
    top = Frame()
    within: tuple[str, str] | None = None  # the innermost lifted transform that runs: its name, its target
    named = True  # whether operations stand under the names of modules in profiles

    def __reduce__(self) -> str:  # by name: methods of modules refer to it, and are pickled by value by cloudpickle
        return "calls"


calls = _Calls()
