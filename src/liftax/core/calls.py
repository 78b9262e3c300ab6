"""The stack of module calls: which module's method runs now, and what rides along with it.

This is the one piece of global state in liftax, one per thread. Frames are immutable and linked, so keeping the
context of a call for later (the forward rule of `custom_vjp` is traced when JAX gets to it) is keeping a reference.
"""

import threading
from collections.abc import Callable, Iterable
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


class Within(NamedTuple):
    """A lifted transform that runs.

    Args:
        transform: its descriptor.
        target: where its target is, as text.
        leaf: the first module or scope of the target.
        outer: the one around it.
    """

    transform: Any
    target: str
    leaf: Any
    outer: "Within | None"


class _Calls(threading.local):
    top = Frame()
    within: Within | None = None  # the innermost lifted transform that runs
    watch: Any = None  # the innermost trace in progress that may be kept: see `liftax.core.outside`
    guards: tuple["Guard", ...] = ()  # those that this thread holds
    named = True  # whether operations stand under the names of modules in profiles

    def __reduce__(self) -> str:  # by name: methods of modules refer to it, and are pickled by value by cloudpickle
        return "calls"


calls = _Calls()


class Guard:
    """Lets one thread at a time use a bound module, which changes while it runs; others wait.

    Modules of `init` and `apply` are made anew in each call, so that they need none.
    """

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self) -> Any:
        return Guard, ()  # a copy of the module has its own


def acquire(guards: Iterable[Guard]) -> tuple[Guard, ...]:
    """Acquire what this thread does not hold yet, in an order that all threads keep; return what to release."""
    held = calls.guards
    fresh = tuple(sorted({guard for guard in guards if guard not in held}, key=id))
    for guard in fresh:
        guard.lock.acquire()
    calls.guards = held + fresh
    return fresh


def release(guards: tuple[Guard, ...]) -> None:
    """Release what `acquire` returned."""
    calls.guards = tuple(guard for guard in calls.guards if guard not in guards)
    for guard in guards:
        guard.lock.release()


def guarded(guards: Iterable[Guard], fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return `fun(*args, **kwargs)`, run by one thread at a time."""
    fresh = acquire(guards)
    try:
        return fun(*args, **kwargs)
    finally:
        release(fresh)
