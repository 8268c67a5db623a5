"""README.md from nbs/index.ipynb, by nbconvert: prose and displayed pictures, no code cells of the notebook's own."""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).parent.parent


def readme() -> str:
    nb = nbformat.read(root / 'nbs' / 'index.ipynb', 4)
    nb.cells = [c for c in nb.cells if not ''.join(c.source).lstrip().startswith('#|')]
    config = Config({'MarkdownExporter': {'exclude_input': True}})
    text, _ = MarkdownExporter(config=config).from_notebook_node(nb)
    text = re.sub(
        r'\]\((?=images/|course/|tutorials/|bench/|\d\d[a-z]*_)', '](nbs/', text
    )  # links of the notebook are relative to nbs/
    text = re.sub(r'\n{3,}', '\n\n', text.replace('](../', ']('))
    return (
        '<!-- Made from nbs/index.ipynb by scripts/readme.py: edit the notebook. -->\n' + text.strip() + '\n'
    )


if __name__ == '__main__':
    (root / 'README.md').write_text(readme(), encoding='utf-8')
    sys.exit(0)
