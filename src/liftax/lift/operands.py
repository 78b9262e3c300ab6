"""What a transform differentiates with respect to: variables, chosen by a filter, and arguments, chosen by number.

    Operands : target, filter, argnums, primals -> pure function of (variables, arguments)

`jacfwd`, `jacrev`, `hessian`, `linearize` and their kin differ in the one call to JAX alone. All of them give their
results in one order: the variables first, if any were asked for, and then the arguments in the order of `argnums`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from liftax import errors
from liftax.ad.argnums import indices, positions
from liftax.ad.checks import check_float_primals, check_jacobian_types, check_real_inputs, demand_pair, explain_arity
from liftax.core import filters
from liftax.core.pack import Packed, State, View, unbind
from liftax.lift.checks import check_filters, check_output, check_primals, check_streams
from liftax.typing import Filter


@dataclasses.dataclass(frozen=True)
class Layout:
    """How to give one result for each operand to the user. Static and hashable.

    Args:
        view: the shape of the target.
        with_variables: variables are among the operands.
        bare: one argument was asked for, by an integer.
    """

    view: View
    with_variables: bool
    bare: bool

    def __call__(self, entries: Sequence[Any]) -> Any:
        """Arrange `(variables by root, *arguments)`."""
        if self.with_variables:
            return (self.view.assemble(entries[0]), *entries[1:])
        return entries[1] if self.bare else tuple(entries[1:])


class Operands:
    """A target taken apart, the variables in `wrt` and the arguments in `argnums` being what varies.

    Args:
        what: the transform that speaks.
        mdl: the target.
        primals: all arguments.
        wrt: which collections vary; False or None for none.
        argnums: which arguments vary; None for all.
        variables: the other collections within reach.
        rngs: the rng streams within reach.
        holomorphic: demand complex values.
        any_dtype: integers may be among what varies.
    """

    def __init__(
        self,
        what: str,
        mdl: Any,
        primals: Sequence[Any],
        wrt: Filter | None,
        argnums: int | Sequence[int] | None,
        variables: Filter,
        rngs: Filter,
        *,
        holomorphic: bool = False,
        any_dtype: bool = False,
    ):
        self.what = what
        self.real = what in ("jacfwd", "jacrev", "hessian") and not holomorphic
        self.wrt: Filter = False if wrt is None else wrt
        self.variables = variables
        self.packed: Packed = unbind(mdl, (self.wrt, variables), rngs, what)
        self.primals = tuple(primals)
        asked = tuple(range(len(primals))) if argnums is None else indices(argnums, what)
        self.where = positions(asked, len(primals), what)
        with_variables = not filters.is_empty(self.wrt)
        self.layout = Layout(self.packed.view, with_variables, isinstance(asked, int))
        self.diff = tuple(primals[i] for i in self.where)
        if not with_variables and not self.diff:
            raise errors.ArityError(
                f"{what} has nothing to differentiate with respect to: argnums={argnums!r} and wrt={wrt!r}. Name an "
                "argument, or a collection of variables: wrt='params'."
            )
        check_primals(primals, what)
        check_primals(self.diff, what, values=any_dtype)
        check_streams(self.packed, rngs, what)
        check_filters(self.packed, what, wrt=self.wrt, variables=variables)
        if not any_dtype:
            names = [f"argument {i}" for i in self.where]
            check_float_primals(self.diff, names, what, holomorphic=holomorphic)
            names = ["variables"] * len(self.packed.roots)
            check_float_primals(self.packed.groups[0], names, what, holomorphic=holomorphic)
        if self.real:
            check_real_inputs((self.packed.groups[0], self.diff), what)

    def pure(self, fn: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
        """Return `(variables, *arguments) -> (out, (out, aux, state))`, a pure function of what varies."""
        packed = self.packed

        def pure(wrt: Any, *diff: Any) -> Any:
            args = list(self.primals)
            for i, x in zip(self.where, diff, strict=True):
                args[i] = x
            with packed.bind((wrt, packed.groups[1]), packed.keys) as inner:
                try:
                    out = fn(inner.target, *args)
                except TypeError as error:
                    explain_arity(fn, (inner.target, *args), {}, error, self.what)
                    raise
                out, aux = demand_pair(out, self.what) if has_aux else (out, None)
                check_output(out, self.what, packed, fn, values=self.what in ("linearize", "linear_transpose"))
                if self.real:
                    check_jacobian_types(out, (wrt, diff) if self.layout.with_variables else diff, self.what)
                return out, (out, aux, inner.collect())

        return pure

    def create(self, pure: Callable[..., Any]) -> tuple[Any, ...]:
        """Return what varies, once all of it exists: while initializing, a first run creates the variables."""
        packed = self.packed
        if any(scope.store.is_mutable(col) for scope in packed.roots for col in maybe_new(self.wrt, packed)):
            _, (_, _, state) = pure(packed.groups[0], *self.diff)
            packed.include(state, self.wrt)
            if self.real:
                check_real_inputs(packed.groups[0], self.what)
        return (packed.groups[0], *self.diff)

    @property
    def argnums(self) -> tuple[int, ...]:
        """Which arguments of `pure` vary."""
        return tuple(range(0 if self.layout.with_variables else 1, 1 + len(self.diff)))

    def entries(self, found: Sequence[Any]) -> tuple[Any, ...]:
        """Return `(variables, *arguments)` from one result for each of `argnums`."""
        return tuple(found) if self.layout.with_variables else (None, *found)

    def commit(self, state: State) -> None:
        """Write the state outward, and look at the filters again, now that all collections are known."""
        self.packed.commit(state)
        check_filters(self.packed, self.what, state, wrt=self.wrt, variables=self.variables)


def maybe_new(wrt: Filter, packed: Packed) -> set[str]:
    """Return the collections in `wrt` in which the function could create variables."""
    known = {"params", *filters.named(wrt)}
    for scope in packed.roots:
        known |= scope.store.collections()
    return {col for col in known if filters.in_filter(wrt, col)}
