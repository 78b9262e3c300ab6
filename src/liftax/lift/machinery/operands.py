"""What a transform differentiates with respect to: variables, chosen by a filter, and arguments, chosen by number.

    Operands : target, filter, argnums, primals -> a point (variables, *arguments), and a pure function of it

The skeleton of every derivative transform, which adds its own call to JAX or to `liftax.ad` in the third line:

    operands = Operands.of(VJP, mdl, primals, wrt=wrt, variables=variables, rngs=rngs).created(fn, has_aux)
    pure = operands.pure(fn, has_aux)
    out, vjp_fn, (aux, run) = ad.vjp(pure, *operands.point, has_aux=True)
    operands.commit(run)

Results come in one order: the variables first, if any were asked for, and then the arguments in the order of `argnums`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liftax import errors
from liftax.ad.argnums import indices, positions
from liftax.ad.checks import check_float_primals, check_real_inputs
from liftax.ad.reduce import bound_axes
from liftax.core import filters
from liftax.core.packing.packed import Packed, unbind
from liftax.core.packing.run import Run
from liftax.core.packing.view import View
from liftax.explain.functions import arity_explained, demand_pair
from liftax.explain.transform import Transform
from liftax.lift.machinery.captured import warn_captured
from liftax.lift.machinery.checks import check_filters, check_output, check_primals, check_streams
from liftax.lift.machinery.complete import Completion, complete, filled, no_collection
from liftax.lift.machinery.forms import as_function
from liftax.lift.machinery.paths import nested
from liftax.typing import AxisName, Filter


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


@dataclasses.dataclass(frozen=True, slots=True)
class Operands:
    """A target taken apart, with the variables in `wrt` and the arguments in `argnums` as what varies. A value.

    Args:
        packed: the target; its first group of variables varies.
        layout: how results are arranged.
        primals: all arguments.
        where: the positions of those that vary.
        diff: those that vary.
        wrt: which collections vary.
        filters: the filters that the user gave, by the name of the argument, for checks.
        dtypes: what `check_float_primals` is told; None: any dtype may vary.
        real: what varies has to be real in forward mode.
        first: the run that created what did not exist.
    """

    packed: Packed
    layout: Layout
    primals: tuple[Any, ...]
    where: tuple[int, ...]
    diff: tuple[Any, ...]
    wrt: Filter
    filters: Mapping[str, Filter]
    dtypes: Mapping[str, bool] | None
    real: bool = False
    first: Run | None = None

    @classmethod
    def of(
        cls,
        transform: Transform,
        mdl: Any,
        primals: Sequence[Any],
        *,
        wrt: Filter = False,
        wrt_argument: str | None = "wrt",
        argnums: int | Sequence[int] | None = None,
        variables: Filter = True,
        rngs: Filter = True,
        dtypes: Mapping[str, bool] | None = None,
        real: bool = False,
    ) -> "Operands":
        """Take a target and its arguments apart, and check them.

        Args:
            transform: for error texts.
            mdl: the target.
            primals: all arguments.
            wrt: which collections vary.
            wrt_argument: what the transform calls `wrt`; None if the user has not given it as a filter.
            argnums: which arguments vary, counted without the module; None for all.
            variables: the other collections within reach.
            rngs: the rng streams within reach.
            dtypes: `holomorphic` and `allow_int`, if what varies has to be floating-point; None for any dtype.
            real: what varies has to be real in forward mode.
        """
        packed = unbind(mdl, (wrt, variables), rngs, transform)
        asked = tuple(range(len(primals))) if argnums is None else indices(argnums, transform)
        where = tuple(positions(asked, len(primals), transform))
        with_variables = not filters.is_empty(wrt)
        given = {"variables": variables} if wrt_argument is None else {wrt_argument: wrt, "variables": variables}
        operands = cls(
            packed, Layout(packed.view, with_variables, isinstance(asked, int)), tuple(primals), where,
            tuple([primals[i] for i in where]), wrt, given, dtypes, real,
        )  # fmt: skip
        if not with_variables and not where and dtypes is not None:
            raise errors.ArityError(
                f"{transform} has nothing to differentiate with respect to: argnums={argnums!r} and "
                f"{wrt_argument}={wrt!r}. Name an argument, or a collection of variables: {wrt_argument}='params'."
            )
        check_primals(primals, transform)
        check_primals(operands.diff, transform, values=dtypes is None)
        if dtypes is not None:
            check_float_primals(operands.diff, [f"argument {i}" for i in where], transform, **dtypes)
        operands._check_variables()
        check_streams(packed, rngs)
        check_filters(packed, given)
        return operands

    def created(self, fn: Callable[..., Any], has_aux: bool = False) -> "Operands":
        """Return operands all of which exist: while initializing, a first run creates the variables that vary."""
        if not may_create(self.packed, self.wrt):
            return self
        _, (_, run) = self.pure(fn, has_aux)(*self.point)
        return self.with_new(run)

    def with_new(self, run: Run) -> "Operands":
        """Return operands with the variables that vary and that a run created."""
        whole = dataclasses.replace(self, packed=self.packed.include(run, self.wrt), first=run)
        whole._check_variables()
        return whole

    @property
    def point(self) -> tuple[Any, ...]:
        """What `pure` is called with: the variables that vary, root by root, and the arguments that vary."""
        return (self.packed.groups[0], *self.diff)

    @property
    def argnums(self) -> tuple[int, ...]:
        """Which arguments of `pure` vary: its first one only if there are variables in `wrt`."""
        return tuple(range(0 if self.layout.with_variables else 1, 1 + len(self.diff)))

    def pure(
        self, fn: Callable[..., Any], has_aux: bool = False, check: Callable[[Any], None] = lambda out: None
    ) -> Callable[..., Any]:
        """Return `(variables, *arguments) -> (out, (aux, run))`, a pure function of what varies.

        Args:
            fn: the function of the module.
            has_aux: it returns a pair.
            check: is called with its output, and raises if the transform can't use it.
        """
        packed = self.packed
        transform = packed.transform
        warn_captured(fn, packed, transform.name)

        def pure(wrt: Any, *diff: Any) -> tuple[Any, tuple[Any, Run]]:
            args = list(self.primals)
            for i, x in zip(self.where, diff, strict=True):
                args[i] = x
            with (
                packed.bind((wrt, packed.groups[1]), packed.keys) as inner,
                arity_explained(fn, (inner.target, *args), {}, transform),
            ):
                out = as_function(fn, inner.target)(inner.target, *args)
                out, aux = demand_pair(out, transform) if has_aux else (out, None)
                check_output(out, packed, fn, values=self.dtypes is None)
                check(out)
                return out, (aux, inner.collect())

        return pure

    def vector(self, variable_tangents: Any, tangents: Sequence[Any]) -> tuple[Any, ...]:
        """Return a tangent of the point: of the variables, where what is left out is zero, and of the arguments."""
        packed, transform = self.packed, self.packed.transform
        if variable_tangents is not None and not self.layout.with_variables and self.wrt is False:
            raise errors.TangentError(
                f"{transform}: got variable_tangents and wrt={self.wrt!r}, so that no variable takes part. Name their "
                "collection: wrt='params'."
            )
        what = f"{transform}: variable_tangents"
        given: Sequence[Mapping[str, Any]] = [{}] * len(packed.roots)
        if variable_tangents is not None:
            given = packed.view.disassemble(variable_tangents, what, errors.TangentError)
        whole = []
        for i, (scope, tree) in enumerate(zip(packed.roots, given, strict=True)):
            completion = Completion(what, "tangent", scope.path_text, errors.TangentError, missing_is_zero=True)
            known = {col: tree for group in packed.groups for col, tree in group[i].items()}
            if self.first is not None:
                known = {**nested(self.first.state.created[i]), **known}
            for col, sub in tree.items():
                if col not in known and filled(sub):
                    raise no_collection(col, known, completion)
            whole.append(complete(packed.groups[0][i], tree, completion))
        return (tuple(whole), *tangents)

    def entries(self, found: Sequence[Any]) -> tuple[Any, ...]:
        """Return `(variables, *arguments)` from one result for each of `argnums`."""
        return tuple(found) if self.layout.with_variables else (None, *found)

    def bound(self, reduce_axes: AxisName | Sequence[AxisName]) -> AxisName | Sequence[AxisName]:
        """Return the axes to reduce over; while initializing, most often outside of them, only those that are bound."""
        if any(root.store.flags.get("initializing") for root in self.packed.roots):
            return bound_axes(reduce_axes, self.packed.transform)
        return reduce_axes

    def commit(self, run: Run) -> None:
        """Write outward what a run did, and check the filters again, now that all collections are known."""
        self.packed.commit(run)
        check_filters(self.packed, self.filters, run)

    def _check_variables(self) -> None:
        self.packed.view.check(self.packed.groups[0])
        if self.dtypes is not None:
            group = self.packed.groups[0]
            check_float_primals(group, ["variables"] * len(group), self.packed.transform, **self.dtypes)
        if self.real:
            check_real_inputs((self.packed.groups[0], self.diff), self.packed.transform)


def may_create(packed: Packed, wrt: Filter) -> bool:
    """Return whether the inner function could create variables in `wrt`."""
    return any(not filters.is_empty(filters.intersect(mutable, wrt)) for mutable in packed.mutable)


def collections(transform: Transform, wrt: Filter | None, argument: str, given: Any, default: Any) -> Any:
    """Return which collections to differentiate: `wrt`, or the argument that Linen has for it.

    Raises:
        ArityError: both are given.
    """
    if wrt is None:
        return given
    if given != default:
        raise errors.ArityError(
            f"{transform} got wrt={wrt!r} and {argument}={given!r}, which mean the same. Give one of them."
        )
    return wrt
