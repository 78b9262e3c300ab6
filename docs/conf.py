"""Sphinx configuration: MyST pages whose code is executed at build, and a reference read from the docstrings."""

import importlib
import importlib.metadata
import inspect
import re

from sphinx.util.docutils import SphinxDirective

import liftax.errors

project = "liftax"
author = "The liftax authors"
copyright = author
release = version = importlib.metadata.version("liftax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "jupyter_execute"]

# Pages are notebooks in Markdown. An exception in a cell that is not tagged for it fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings speak Google style, with `code` in single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the Args sections say it in words; aliases would be spelled out in signatures
add_module_names = False
nitpicky = True

html_theme = "furo"
html_title = f"liftax {release}"
html_copy_source = False


def resolve_name(app, env, node, contnode):
    """Link the bare class names in `Raises` sections to the page of errors; leave names outside liftax unlinked."""
    name = node["reftarget"].removeprefix("errors.")
    if hasattr(liftax.errors, name):
        domain, target = env.domains["py"], f"liftax.errors.{name}"
        return domain.resolve_xref(env, node["refdoc"], app.builder, "exc", target, node, contnode)
    return None if name.startswith("liftax") else contnode


def before_napoleon(app, what, name, obj, options, lines):
    """Hide colons where napoleon takes what precedes them for a type: in properties, and below `Returns:`."""
    for i, line in enumerate(lines):
        if (what in ("attribute", "property") and i == 0) or (i and lines[i - 1].strip() == "Returns:"):
            lines[i] = line.replace(": ", "\0 ")


def after_napoleon(app, what, name, obj, options, lines):
    """Show them again, and escape what plain text may hold and reStructuredText would interpret."""
    for i, line in enumerate(lines):
        lines[i] = line = line.replace("\0", ":")
        if not line.lstrip().startswith((">>>", "...")):
            line = re.sub(r"(`[^`]+`)(\w?)", lambda m: f"{m[1]}\\ {m[2]}" if m[2] else m[1], line)  # `jax.Array`s
            lines[i] = re.sub(r"(?<![\w`*\\])\*(?=\w+[,)])", r"\\*", line)  # (collection, *path)


class Functions(SphinxDirective):
    """Document what a namespace has of a package: `.. functions:: liftax.nn liftax.lift.derivatives`.

    A new function appears by itself. Names after the package are left out: they are documented by hand.
    """

    required_arguments, optional_arguments, final_argument_whitespace = 2, 1, True

    def run(self):
        """Return the documentation of each public function and class, in the order of their names."""
        namespace, package, *left_out = " ".join(self.arguments).split()
        lines = []
        for name, obj in sorted(vars(importlib.import_module(namespace)).items()):
            of_package = f"{getattr(obj, '__module__', '')}.".startswith(f"{package}.")
            kind = "class" if inspect.isclass(obj) else "function"
            if of_package and not name.startswith("_") and name not in left_out:
                lines += [f".. auto{kind}:: {namespace}.{name}", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    app.add_directive("functions", Functions)
    app.connect("missing-reference", resolve_name)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
