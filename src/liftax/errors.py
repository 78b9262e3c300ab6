"""Every error that liftax raises on purpose.

A text says what was got, what was expected, where (module path, collection, variable) and what to do. Classes that
answer to a failure that Linen has too carry Linen's name, so that `except` clauses survive a changed import. Each
class also derives from the built-in that Python programmers would expect (`ValueError`, `TypeError`, `KeyError`…).
"""

import difflib
from collections.abc import Iterable


class LiftaxError(Exception):
    """Base of all errors of liftax."""

    def __str__(self) -> str:  # KeyError would print the repr of its text
        return "\n".join(str(a) for a in self.args)


# --- differentiation -------------------------------------------------------------------------------------------------


FlaxError = LiftaxError
"""The name that the base class has in Linen."""


class CotangentError(LiftaxError, ValueError, TypeError):
    """A cotangent does not have the structure, shape or dtype of the output that it belongs to."""


class TangentError(LiftaxError, ValueError, TypeError):
    """A tangent does not have the structure, shape or dtype of the primal or variable that it belongs to."""


class NonDifferentiableOutputError(LiftaxError, TypeError):
    """The output of a function given to `grad` is not a real floating-point scalar."""


class NonDifferentiablePrimalError(LiftaxError, TypeError):
    """An input that is to be differentiated is an integer, a Boolean or no array at all."""


class AuxError(LiftaxError, TypeError):
    """A function did not return the pair that `has_aux=True` (or a forward rule) promises."""


class ArityError(LiftaxError, TypeError):
    """A function can't be called with the arguments that the transform hands to it."""


class SelfCallError(LiftaxError, RecursionError):
    """A method of a module transforms a function that calls the same method of the same module, without end."""


class CapturedVariableWarning(UserWarning):
    """A function closes over the value of a variable that it is differentiated in, which gives a derivative of zero."""


class RepeatedKeyWarning(UserWarning):
    """A key is drawn inside a raw loop of JAX, which has the same one in all steps."""


class CustomRuleError(LiftaxError, ValueError):
    """The functions of a custom derivative rule do not fit each other."""


class StateCotangentError(LiftaxError, ValueError):
    """A cotangent reaches state that was written inside `custom_vjp`, and its rule does not take it."""


class DroppedGradientError(LiftaxError, ValueError):
    """A value that is being differentiated enters where no derivative can leave."""


class MappedAxisError(LiftaxError, ValueError):
    """The axes over which a lifted `vmap` or `scan` maps don't fit: their sizes differ, or nothing tells the size."""


class ShardingError(LiftaxError, ValueError):
    """What a lifted `shard_map` is told about the layout of a value does not fit it, or there is no mesh."""


class CarryError(LiftaxError, ValueError):
    """The carry of a recurrent layer does not have the structure, shape or dtype that its cell works with."""


class ControlFlowError(LiftaxError, ValueError, TypeError):
    """A loop or a branch changes which variables there are, or of which types, which JAX can't carry along."""


class MaxStepsError(LiftaxError, RuntimeError):
    """A loop that was told to check took all the steps it may take, and was not done."""


class StaticValueError(LiftaxError, TypeError):
    """A lifted `jit` can't recognize a module again: a field holds a tracer or a value that can't be hashed."""


class MissingPackageError(LiftaxError, ImportError):
    """An option needs a package that is not installed."""


class SparsityError(LiftaxError, ValueError):
    """The pattern of a sparse Jacobian or Hessian does not fit it, or can't be told from the program."""


class ConvergenceError(LiftaxError, ArithmeticError):
    """A solver found no solution, and `on_failure="raise"` asked for an error."""


class JaxVersionError(LiftaxError, NotImplementedError):
    """A feature needs something of JAX that the installed version does not have."""


class MemoryPlanError(LiftaxError, ValueError, TypeError):
    """What `checkpoint` is told about memory has no meaning, or a function can't be planned: it mutates arrays."""


class BudgetError(MemoryPlanError):
    """No plan keeps as few bytes for the backward pass as the budget asks for."""


class GradientCheckError(LiftaxError, AssertionError):
    """An automatic derivative differs from a numerical one."""


class ReduceAxesError(LiftaxError, ValueError):
    """`reduce_axes` names an axis that is not bound, or is no sequence of axis names."""


# --- collections, variables, rngs ------------------------------------------------------------------------------------


class InvalidFilterError(LiftaxError, TypeError):
    """A value is no filter: not a bool, a name, a collection of names, or a `DenyList`."""


class UnknownCollectionError(LiftaxError, ValueError):
    """A filter names a collection (or rng stream) that does not exist, or matches nothing."""


class InvalidRngError(LiftaxError, ValueError):
    """An rng stream is missing, or something that is no key was given as one."""


class InvalidScopeError(LiftaxError, RuntimeError):
    """A scope, or a module bound to it, was used after the call or transform that owned it had ended."""


class JaxTransformError(LiftaxError, RuntimeError):
    """State was written inside a raw JAX transform, or beside the target of a lifted one: a tracer would leak out."""


class ModifyScopeVariableError(LiftaxError, ValueError):
    """A variable in an immutable collection was written."""


class ScopeParamNotFoundError(LiftaxError, KeyError):
    """A parameter does not exist and can't be created."""


class ScopeVariableNotFoundError(LiftaxError, KeyError):
    """A variable does not exist and can't be created."""


class ScopeCollectionNotFound(LiftaxError, KeyError, ValueError):
    """A collection that a variable is read from is missing or empty."""


class ScopeParamShapeError(LiftaxError, ValueError):
    """A parameter has another shape than its initializer gives."""


class ApplyScopeInvalidVariablesTypeError(LiftaxError, TypeError):
    """`variables` is not a mapping from collection names to trees."""


class ApplyScopeInvalidVariablesStructureError(LiftaxError, ValueError):
    """`variables` was wrapped once too often: `{'params': {'params': …}}`."""


class PartitioningUnspecifiedError(LiftaxError, ValueError):
    """A transform adds an axis to a variable whose axes are named, and names none for it."""


class LazyInitError(LiftaxError, ValueError):
    """A variable's initial value depends on the value of an argument, not on its shape alone."""


# --- modules ---------------------------------------------------------------------------------------------------------


class UnboundModuleError(LiftaxError, ValueError, RuntimeError):
    """A module that holds no variables was used where a bound one is needed."""


class TransformTargetError(LiftaxError, TypeError):
    """A transform got something that is no Scope, Module, or tree of these."""


class NameInUseError(LiftaxError, ValueError):
    """Two variables or submodules of one module ask for the same name."""


class AssignSubModuleError(LiftaxError, ValueError, RuntimeError):
    """A submodule was made outside `setup` and outside a `@compact` method."""


class SetAttributeInModuleSetupError(LiftaxError, AttributeError):
    """`setup` assigned to a dataclass field."""


class SetAttributeFrozenModuleError(LiftaxError, AttributeError):
    """An attribute of a module was set outside `setup`."""


class MultipleMethodsCompactError(LiftaxError, TypeError):
    """A class marks more than one of its methods as `@compact`."""


class ReservedModuleAttributeError(LiftaxError, TypeError):
    """A subclass annotates `parent` or `name` in its own way."""


class ApplyModuleInvalidMethodError(LiftaxError, TypeError, AttributeError):
    """`method` is neither a function nor the name of a method."""


class CallCompactUnboundModuleError(UnboundModuleError):
    """A `@compact` method of an unbound module was called."""


class CallSetupUnboundModuleError(UnboundModuleError):
    """`setup` of an unbound module was called by hand."""


class CallUnbindOnUnboundModuleError(UnboundModuleError):
    """`unbind` was called on a module that is not bound."""


class CallShareScopeOnUnboundModuleError(UnboundModuleError):
    """`share_scope` was called on a module that is not bound."""


class InvalidInstanceModuleError(LiftaxError, TypeError):
    """`init`, `apply` or `bind` was called on a class instead of an instance."""


class IncorrectPostInitOverrideError(LiftaxError, RuntimeError):
    """`__post_init__` was overridden without a call to `super().__post_init__()`."""


class DescriptorAttributeError(LiftaxError, RuntimeError):
    """A property of a module raised an AttributeError while it was computed."""


class TransformedMethodReturnValueError(LiftaxError, TypeError):
    """A transformed method returned a module or a variable."""


# --- modules of other libraries --------------------------------------------------------------------------------------


class MissingLibraryError(LiftaxError, ImportError):
    """A bridge needs a library that is not installed."""


class ForeignModuleError(LiftaxError, TypeError):
    """A bridge got something that is not a model of its library, or a model in a state that it can't be wrapped in."""


class ForeignStateError(LiftaxError, ValueError):
    """A wrapped model holds or changes something that variables can't hold."""


class LinenInstallError(LiftaxError, RuntimeError):
    """A program for Linen can't run on liftax: Flax's Linen is in use, or a flag of it that liftax lacks."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'params'?"`, or the empty string when nothing known resembles `name`."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
