"""A model as a table: for each module its path, class, inputs, outputs, variables and their size in bytes.

`init` runs with types alone, and an interceptor (see `liftax.module.intercept`) writes down every call.
"""

import contextlib
import dataclasses
import enum
import importlib.util
import io
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from liftax import core, errors
from liftax.core.meta import AxisMetadata, unbox
from liftax.module.intercept import InterceptorContext, intercept_methods
from liftax.typing import Filter, Path


@dataclasses.dataclass
class Row:
    """One call of a module's method.

    Args:
        path: the names from the root module down to this one.
        module: an unbound copy.
        method: the method's name.
        runs: what `apply` takes as `method` to run it: its name, or the function of a module that it was given.
        inputs: its arguments, arrays as `jax.ShapeDtypeStruct`.
        outputs: what it returns.
        variables: collection -> the variables of this module alone.
        counted: collection -> the variables that count as its own: with those of submodules that are not shown.
        flops: floating-point operations of the call, if asked for and if the method can run by itself.
        vjp_flops: those of the call and its backward pass, likewise.
    """

    path: Path
    module: Any
    method: str
    runs: str | Callable[..., Any]
    inputs: Any
    outputs: Any
    variables: dict[str, Any]
    counted: dict[str, Any]
    flops: int | None = None
    vjp_flops: int | None = None


def tabulate(
    module: Any,
    rngs: Any,
    depth: int | None = None,
    show_repeated: bool = False,
    mutable: Filter = core.DenyList("intermediates"),
    console_kwargs: Mapping[str, Any] | None = None,
    table_kwargs: Mapping[str, Any] | None = None,
    column_kwargs: Mapping[str, Any] | None = None,
    compute_flops: bool = False,
    compute_vjp_flops: bool = False,
    **kwargs: Any,
) -> Callable[..., str]:
    """Make a function that returns a table of a module. Nothing is computed: `init` runs with shapes alone.

    The table is drawn by rich if it is installed, and is plain text if not.

    Args:
        module: an unbound module.
        rngs: see `Module.init`.
        depth: how many levels of submodules to show; the variables of those below count for the last one shown.
        show_repeated: show each call of a module that is called more than once.
        mutable: see `Module.init`.
        console_kwargs: handed to `rich.console.Console`.
        table_kwargs: handed to `rich.table.Table`.
        column_kwargs: handed to `Table.add_column`.
        compute_flops: add a column with the floating-point operations of each call, as the compiler estimates them.
        compute_vjp_flops: add a column with those of each call together with its backward pass.
        **kwargs: handed to `Module.init`.

    Returns:
        `tabulated(*args, **kwargs)`, which takes the arguments of the module's call and returns the text.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from liftax import nn
        >>> text = nn.tabulate(nn.Dense(2), jax.random.key(0))(jnp.ones((4, 3)))
        >>> 'Total Parameters: 8' in text
        True
    """

    def tabulated(*args: Any, **more: Any) -> str:
        table = rows(module, rngs, args, {**more, **kwargs}, depth, show_repeated, mutable)
        columns = ["path", "module", "inputs", "outputs"]
        if compute_flops or compute_vjp_flops:
            for row in table:
                with contextlib.suppress(errors.LiftaxError):  # a helper that only runs inside of another method
                    _count(row, rngs, mutable, compute_flops, compute_vjp_flops)
            columns += ["flops"] * compute_flops + ["vjp_flops"] * compute_vjp_flops
        draw = _rich if importlib.util.find_spec("rich") else _plain
        return draw(module, table, columns, console_kwargs or {}, table_kwargs or {}, column_kwargs or {})

    return tabulated


class Summarized:
    """The methods of a module that describe it."""

    def tabulate(self, rngs: Any, *args: Any, **kwargs: Any) -> str:
        """Return a table of this module and its submodules as text.

        Args:
            rngs: see `init`.
            *args: handed to the method.
            **kwargs: the options of `nn.tabulate`; the others are handed to the method.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from liftax import nn
            >>> 'Dense' in nn.Dense(2).tabulate(jax.random.key(0), jnp.ones((4, 3)), compute_flops=True)
            True
        """
        return tabulate(self, rngs, **kwargs)(*args)

    def module_paths(
        self,
        rngs: Any,
        *args: Any,
        show_repeated: bool = False,
        mutable: Filter = core.DenyList("intermediates"),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return path -> unbound copy of every module that runs; the path of this module is the empty string.

        Args:
            rngs: see `init`.
            *args: handed to the method.
            show_repeated: accepted for Linen's sake; each path stands once.
            mutable: see `init`.
            **kwargs: handed to the method.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from liftax import nn
            >>> model = nn.Sequential([nn.Dense(4), nn.Dense(2)])
            >>> list(model.module_paths(jax.random.key(0), jnp.ones(3)))
            ['', 'layers_0', 'layers_1']
        """
        table = rows(self, rngs, args, kwargs, None, show_repeated, mutable)
        return {"/".join(row.path): row.module for row in table}


def rows(
    module: Any, rngs: Any, args: Any, kwargs: Any, depth: int | None, show_repeated: bool, mutable: Filter
) -> list[Row]:
    """Return a row for each call, in the order in which the calls begin."""
    found: list[Row] = []

    def record(next_fun: Any, args: Any, kwargs: Any, context: InterceptorContext) -> Any:
        mdl = context.module
        if context.method_name == "setup" or mdl.scope is None or (found and not _is_method(context)):
            return next_fun(*args, **kwargs)
        copy = mdl.clone(parent=None, _deep_clone=True, _reset_names=True, name=None)
        method = context.method_name if _is_method(context) else _function(context)
        row = Row(mdl.path, copy, context.method_name, method, _types((args, kwargs)), None, {}, {})
        found.append(row)
        out = next_fun(*args, **kwargs)
        row.outputs = _types(out)
        return out

    leaves, treedef = jax.tree.flatten((args, kwargs))
    arrays = [x for x in leaves if _is_array(x)]

    def variables_of(arrays: Any) -> Any:
        rest = iter(arrays)
        args, kwargs = treedef.unflatten([next(rest) if _is_array(x) else x for x in leaves])
        with intercept_methods(record):
            return module.init(rngs, *args, mutable=mutable, **kwargs)

    variables = jax.eval_shape(variables_of, arrays)
    paths = {row.path for row in found}
    shown: list[Row] = []
    visited: set[Path] = set()
    for row in found:
        repeated = row.path in visited
        if (repeated and not show_repeated) or (depth is not None and len(row.path) > depth):
            continue
        if not repeated:
            visited.add(row.path)
            here = _at(row.path, variables)
            row.variables = {
                col: {k: v for k, v in tree.items() if (*row.path, k) not in paths} for col, tree in here.items()
            }
            row.counted = here if len(row.path) == depth else row.variables
        shown.append(row)
    return shown


def _is_method(context: InterceptorContext) -> bool:
    """Tell a method of the module's class from a function of it, such as the target of a lifted transform."""
    method = getattr(type(context.module), context.method_name, None)
    fn = _function(context)
    while method is not None and method is not fn:
        method = getattr(method, "__wrapped__", None)
    return method is not None


def _function(context: InterceptorContext) -> Callable[..., Any]:
    return context.orig_method.func  # type: ignore[attr-defined]


def _at(path: Path, variables: Any) -> dict[str, Any]:
    here = dict(variables)
    for name in path:
        here = {col: tree[name] for col, tree in here.items() if name in tree}
    return here


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _types(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if _is_array(x) else x, tree)


def _count(row: Row, rngs: Any, mutable: Filter, forward: bool, backward: bool) -> None:
    leaves, treedef = jax.tree.flatten(row.inputs)
    arrays = [x for x in leaves if _is_array(x)]

    def inputs(arrays: Any) -> Any:
        rest = iter(arrays)
        return treedef.unflatten([next(rest) if _is_array(x) else x for x in leaves])

    def init(arrays: Any) -> Any:
        args, kwargs = inputs(arrays)
        return row.module.init(rngs, *args, method=row.runs, mutable=mutable, **kwargs)

    def apply(variables: Any, arrays: Any) -> Any:
        args, kwargs = inputs(arrays)
        out = row.module.apply(variables, *args, rngs=rngs, method=row.runs, mutable=mutable, **kwargs)
        return [x for x in jax.tree.leaves(out) if _is_array(x)]

    def vjp(variables: Any, arrays: Any) -> Any:
        primals, treedef = jax.tree.flatten((variables, arrays))
        floats = [i for i, x in enumerate(primals) if _is_float(x)]

        def of_floats(values: Any) -> Any:
            given = dict(zip(floats, values, strict=True))
            out = apply(*treedef.unflatten([given.get(i, x) for i, x in enumerate(primals)]))
            return [x for x in out if _is_float(x)]

        out, vjp_fn = jax.vjp(of_floats, [primals[i] for i in floats])
        return vjp_fn(out)

    variables = jax.eval_shape(init, arrays)
    if forward:
        row.flops = _flops(apply, variables, arrays)
    if backward:
        row.vjp_flops = _flops(vjp, variables, arrays)


def _flops(fn: Callable[..., Any], *args: Any) -> int:
    cost = jax.jit(fn).lower(*args).cost_analysis()
    return int((cost or {}).get("flops", 0))  # type: ignore[union-attr]


def _size(tree: Any) -> tuple[int, int]:
    leaves = [x for x in jax.tree.leaves(tree) if _is_array(x)]
    return sum(x.size for x in leaves), sum(x.size * x.dtype.itemsize for x in leaves)


def _size_text(size: int, count: int) -> str:
    if not size:
        return ""
    power = min((len(str(count)) - 1) // 3, 4)
    amount = f"{count / 1000**power:.1f}" if power else count
    return f"{size:,} ({amount} {('B', 'KB', 'MB', 'GB', 'TB')[power]})"


def _text(value: Any) -> str:
    """Return a tree as lines: `name: float32[3,4]`; after it the axis names of a box, `P(None, model)`."""
    return "" if value is None else "\n".join(_lines(value))


def _lines(value: Any) -> list[str]:
    names = None
    if isinstance(value, AxisMetadata):
        names, value = getattr(value, "names", None), unbox(value)
    if _is_array(value):
        axes = "" if names is None else f" P{names}".replace("'", "")
        return [f"{value.dtype}[{','.join(map(str, value.shape))}]{axes}"]
    if isinstance(value, Mapping):
        lines = []
        for key, part in value.items():
            key = key.value if isinstance(key, enum.Enum) else key
            inner = _lines(part)
            if isinstance(unbox(part), Mapping) and part:
                lines += [f"{key}:", *(f"  {line}" for line in inner)]
            elif isinstance(part, tuple | list) and part:
                lines += [f"{key}:", *inner]
            else:
                lines.append(" ".join([f"{key}:", *inner]))
        return lines
    if isinstance(value, tuple | list):
        items = [_lines(part) for part in value]
        return [f"{'  ' if i else '- '}{line}" for item in items for i, line in enumerate(item)]
    return [str(value)]


def _cells(row: Row, columns: list[str], collections: list[str]) -> list[str]:
    args, kwargs = row.inputs
    inputs = (*args, kwargs) if args and kwargs else (kwargs or (args[0] if len(args) == 1 else args))
    method = "" if row.method in ("__call__", "<lambda>") else f" ({row.method})"
    texts = {
        "path": "/".join(row.path),
        "module": type(row.module).__name__ + method,
        "inputs": _text(inputs),
        "outputs": _text(row.outputs),
        "flops": _text(row.flops),
        "vjp_flops": _text(row.vjp_flops),
    }
    sizes = [
        "\n\n".join(filter(None, (_text(row.variables.get(c, {})), _size_text(*_size(row.counted.get(c))))))
        for c in collections
    ]
    return [texts[c] for c in columns] + sizes


def _contents(table: list[Row], columns: list[str]) -> tuple[list[str], list[list[str]], list[str], str]:
    """Return the header, the cells, the totals, and the line below."""
    collections = sorted(
        {col for row in table for col in (*row.variables, *row.counted)}, key=lambda c: (c != "params", c)
    )
    totals = [_size([row.counted.get(c) for row in table]) for c in collections]
    everything = _size_text(sum(n for n, _ in totals), sum(b for _, b in totals))
    footer = [""] * (len(columns) - 1) + ["Total"] + [_size_text(*t) for t in totals]
    return columns + collections, [_cells(r, columns, collections) for r in table], footer, everything


def _rich(module: Any, table: list[Row], columns: list[str], console: Any, table_kwargs: Any, column: Any) -> str:
    import rich.console  # on demand: only tables need it
    import rich.table
    import rich.text

    header, cells, footer, total = _contents(table, columns)
    drawn = rich.table.Table(
        show_header=True, show_lines=True, show_footer=True, title=f"{type(module).__name__} Summary",
        caption=f"\nTotal Parameters: {total}", caption_style="bold", **table_kwargs,
    )  # fmt: skip
    for name, foot in zip(header, footer, strict=True):
        drawn.add_column(name, footer=foot, **column)
    for row in cells:
        drawn.add_row(*map(rich.text.Text, row))
    file = io.StringIO()
    rich.console.Console(file=file, **{"force_terminal": True, "force_jupyter": False, **console}).print(drawn)
    return f"\n{file.getvalue()}\n"


def _plain(module: Any, table: list[Row], columns: list[str], *_: Any) -> str:
    header, cells, footer, total = _contents(table, columns)
    lines = [[cell.split("\n") for cell in row] for row in (header, *cells, footer)]
    widths = [max(len(line) for row in lines for line in row[i]) for i in range(len(header))]
    rule = "-+-".join("-" * w for w in widths)
    out = [f"{type(module).__name__} Summary", rule]
    for row in lines:
        for k in range(max(map(len, row))):
            out.append(" | ".join((c[k] if k < len(c) else "").ljust(w) for c, w in zip(row, widths, strict=True)))
        out.append(rule)
    return "\n".join(["", *(line.rstrip() for line in out), f"Total Parameters: {total}", ""])
