"""Sphinx's settings: the pages are Markdown, the reference is made from the code."""

import importlib.metadata

project = "gpupool"
author = "The gpupool authors"
version = release = importlib.metadata.version("snakemake-executor-plugin-gpupool")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "intro.md", "further.md"]
source_suffix = {".md": "markdown"}
root_doc = "index"

html_theme = "furo"
html_title = "gpupool"

# A heading can be linked to, and a link that leads nowhere is an error of the build.
myst_heading_anchors = 3
nitpicky = True
# Plain words and standard types in numpy-style docstrings are no cross-references.
nitpick_ignore_regex = [("py:.*", ".*")]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
