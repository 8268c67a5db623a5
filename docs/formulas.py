"""Formulas as MathML, made at build: a page shows them without the web and without JavaScript."""

from docutils import nodes
from math_core import LatexToMathML

converter = LatexToMathML()


def inline(translator, node):
    translator.body.append(converter.convert_with_local_state(node.astext(), displaystyle=False))
    raise nodes.SkipNode


def block(translator, node):
    formula = converter.convert_with_local_state(node.astext(), displaystyle=True)
    translator.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer('mathml', inline_renderers=(inline, None), block_renderers=(block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
