"""Sphinx configuration: MyST pages whose code is executed at build, and a reference read from the docstrings."""

import importlib.metadata
import re

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


def setup(app):
    app.connect("missing-reference", resolve_name)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
