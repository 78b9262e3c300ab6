"""Sphinx configuration: MyST pages whose code is executed at build, and a reference read from the docstrings."""

import importlib.metadata

project = "liftax"
author = "The liftax authors"
copyright = author
release = version = importlib.metadata.version("liftax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "jupyter_execute"]

# Pages are notebooks in Markdown. An exception in a cell that is not tagged for it fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings speak Google style, with `code` in single backticks.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes_style"), ("Example", "example_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the Args sections say it in words; aliases would be spelled out in signatures
autosummary_generate = False
add_module_names = False
nitpicky = True

html_theme = "furo"
html_title = f"liftax {release}"
html_copy_source = False
