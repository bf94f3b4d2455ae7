"""Sphinx configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

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
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
default_role = "code"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

suppress_warnings = [
    "ref.python"
]  # the emulator has a Cluster of its own; targets that are missing are still told

# The standard library, aiohttp and attrs have documentation of their own, on hosts that a build need not reach.
nitpick_ignore_regex = [
    ("py:.*", r"(?!tensorpool_async).*"),
    ("py:.*", r"tensorpool_async\..*\.T"),
    ("py:.*", r"tensorpool_async\.events\.Dispatcher"),  # what hands events on; users have listeners
    (
        "py:.*",
        r"tensorpool_async\.fleet\.client_protocol\..*",
    ),  # the Protocol of the client; users pass a `TensorPool`
    ("py:.*", r"tensorpool_async\.(client\.Annotated|fastapi\.tensorpool)"),  # parts of an annotation
    ("py:.*", r"tensorpool_async\.emulator\..*"),  # the emulator's inner parts are no part of the reference
]

INNER_PARTS = re.compile(r"\b(Transport|Executor|Change|OperationMachine|Callable\[\[Fleet)\b")


def hide_inner_parts(*event: Any) -> tuple[str, str | None] | None:
    """Show no constructor where users make no such object, which is where it takes inner parts."""
    _, what, _, _, _, signature, _ = event
    return ("", None) if what == "class" and INNER_PARTS.search(signature or "") else None


def setup(app: Any) -> None:
    """Connect the hook."""
    app.connect("autodoc-process-signature", hide_inner_parts)
