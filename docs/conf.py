"""The site: every page of nbs/ with its stored outputs, and the API of every module. `make docs` builds it in _site/html/."""

import sys
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [
    str(here),
    str(here.parent),
    str(here.parent / 'scripts'),
]  # the extensions, the package, house.py

project = 'vidlankd_nb'
html_title = project
exclude_patterns = ['**.ipynb_checkpoints']
extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    'notebooks',  # cells as a reader of the web wants them, and the course's order
    'formulas',  # MathML, which browsers draw by themselves
    'reference',  # the API's pages
    'navigation',  # the tree of pages beside each of them
    'links',  # every link of the built pages is followed
]

nb_execution_mode = 'off'
nb_merge_streams = True
nb_render_markdown_format = 'myst'  # tables that a page's code displays
smartquotes_action = 'D'  # quotes stay as they were written
myst_enable_extensions = ['dollarmath']
html_math_renderer = 'mathml'

autosummary_generate = ['api/index.rst']
autosummary_ignore_module_all = False
autodoc_member_order = 'bysource'
maximum_signature_line_length = 88
toc_object_entries_show_parents = 'hide'
default_role = 'literal'
nitpicky = True
# Other libraries' names are not looked up: their inventories lie on the web.
nitpick_ignore_regex = [('py:.*', r'(?!vidlankd_nb\.).*')]

templates_path = [str(here / 'templates')]  # autosummary looks beside the pages, not beside this file
html_theme = 'furo'
html_sidebars = {
    '**': [
        'sidebar/brand.html',
        'sidebar/search.html',
        'sidebar/scroll-start.html',
        'sidebar/api.html',  # for those who never open a notebook; the rest is the theme's own
        'sidebar/navigation.html',
        'sidebar/scroll-end.html',
    ]
}
html_static_path = ['static']
html_css_files = ['course.css']
html_show_sourcelink = False
html_copy_source = False
copybutton_exclude = '.linenos, .gp, .go'
