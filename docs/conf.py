"""The site: `sphinx-build -W --keep-going -n -b html docs output/site` builds it."""

import re
import shutil
import sys
from pathlib import Path

import torch
from sphinx.util.inspect import signature as get_signature
from sphinx.util.inspect import stringify_signature

import monai_fusenet

project = "monai_fusenet"
author = "the monai_fusenet authors"
version = release = monai_fusenet.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["**.ipynb_checkpoints"]

myst_heading_anchors = 3

# Notebooks are executed at each build, and one that fails ends it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"  # a single backtick, as in Markdown

# Names of other packages are not resolved: their inventories are not at hand without a network. Ours must be.
nitpick_ignore_regex = [(r"py:.*", r"(?!monai_fusenet\b).*")]

html_theme = "pydata_sphinx_theme"
html_title = f"monai_fusenet {release}"
html_theme_options = {
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"index": [], "glossary": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

DOCS = Path(__file__).parent
MEASURED = DOCS.parent / "benchmarks" / "results"


def copy_measured_tables(app):
    """Makes pages of the tables that benchmarks left, in `docs/measured`, which git ignores."""
    shutil.rmtree(DOCS / "measured", ignore_errors=True)
    shutil.copytree(MEASURED, DOCS / "measured", ignore=shutil.ignore_patterns("*.csv"))
    for page in (DOCS / "measured").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if not text.startswith("# "):
            page.write_text(f"# {page.stem}\n\n{text}", encoding="utf-8")


def link_measured_tables(app, docname, source):
    """Leads links to these tables to their pages; in the repository they lead to the files."""
    source[0] = re.sub(r"\]\(\.\./benchmarks/results/(\w+\.md)", r"](measured/\1", source[0])


def mend_docstring(app, what, name, obj, options, lines):
    """Shapes are written as (B, C, *spatial), where reStructuredText would see emphasis begin."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()  # what namedtuple says of a field that has no words of its own
    for place, line in enumerate(lines):
        parts = re.split(r"(`+[^`]+`+)", line)
        parts[::2] = [re.sub(r"(?<![*\w])\*(?=\w)", r"\\*", part) for part in parts[::2]]
        lines[place] = "".join(parts)


def own_signature(app, what, name, obj, options, signature, returns):
    """Shows what a constructor takes where autodoc shows `*args` of torch's or of MONAI's transforms, which is all."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    if obj.__init__ is torch.nn.Module.__init__:
        return "()", returns
    return stringify_signature(get_signature(obj.__init__, bound_method=True), show_annotation=False), returns


def public_bases(app, name, obj, options, bases):
    """Shows bases of MONAI and torch in the place of ours that no page shows."""
    while hidden := [base for base in bases if base.__module__.startswith("monai_fusenet") and not is_shown(base)]:
        place = bases.index(hidden[0])
        bases[place : place + 1] = hidden[0].__bases__


def is_shown(base):
    """Whether a package exports a class, so that it has an entry."""
    package = sys.modules[".".join(base.__module__.split(".")[:2])]
    return base.__name__ in getattr(package, "__all__", ())


def setup(app):
    """Connects the functions above to the build."""
    app.connect("builder-inited", copy_measured_tables)
    app.connect("source-read", link_measured_tables)
    app.connect("autodoc-process-docstring", mend_docstring)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-process-bases", public_bases)
