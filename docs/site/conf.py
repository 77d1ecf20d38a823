"""How Sphinx renders the site. `docs/site/build.py` gathers the pages; nothing is executed and nothing is fetched."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import ldm_edu

project = "Latent diffusion from first principles"
author = "the authors of ldm-edu"
copyright = author
version = release = ldm_edu.__version__
html_title = "Latent diffusion"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the lessons come executed
nb_ipywidgets_js: dict[str, Any] = {}  # widgets need a kernel; their static pictures are shown
suppress_warnings = ["mystnb.unknown_mime_type"]

default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_favicon = "_static/favicon.png"
html_theme_options = {
    "logo": {"text": html_title},
    "header_links_before_dropdown": 4,
    "navbar_persistent": ["search-button"],  # small, so that the bar stays one row
    "show_prev_next": True,
    "navigation_depth": 2,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "lessons/*": []}  # the bar at the top lists the lessons


def mathml(text: str, block: bool) -> str:
    """A formula as MathML: browsers draw it themselves, without a script from elsewhere."""
    drawn = convert(text, display="block" if block else "inline")
    return drawn.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;')  # the bars of a norm keep their size


def visit_inline(self: Any, node: nodes.math) -> None:
    """`$...$`"""
    self.body.append(mathml(node.astext(), False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """`$$...$$`"""
    self.body.append(f'<div class="math-block">{mathml(node.astext(), True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
