"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path

from tensorpool_async.version import VERSION


sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "tensorpool-async"
author = "The tensorpool-async maintainers"
project_copyright = "2026, The tensorpool-async maintainers"
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "protocol_tables"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"tensorpool-async {VERSION}"

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
default_role = "code"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# The standard library, aiohttp and attrs have documentation of their own, on hosts that a build need not reach.
nitpick_ignore_regex = [
    ("py:.*", r"(?!tensorpool_async).*"),
    ("py:.*", r"tensorpool_async\..*\.T"),
    ("py:.*", r"tensorpool_async\.emulator\..*"),  # the emulator's inner parts are no part of the reference
]
