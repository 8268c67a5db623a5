"""Notebooks as a reader of the web wants them: without hidden cells and nbdev's directives, and with links to their module's API."""

import json
import re
from pathlib import Path

CONTENTS = Path(__file__).parent / 'contents.md'


def markdown(text: str) -> dict:
    "A cell of prose."
    return {'cell_type': 'markdown', 'id': str(len(text)), 'metadata': {}, 'source': text}


def shown(cell: dict) -> bool:
    "Is there something to read? Tests of checkers give answers away, and a directive alone says nothing."
    source = ''.join(cell['source'])
    if cell['cell_type'] != 'code':
        return True
    return not source.startswith('#| hide') and bool(without_directives(source))


def without_directives(source: str) -> str:
    "Code without the lines that speak to nbdev."
    return re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()


def prepare(app, docname: str, source: list):
    "Change what Sphinx has read of a notebook, before it is parsed."
    if app.env.doc2path(docname).suffix != '.ipynb':
        return
    nb = json.loads(source[0])
    module = re.search(r'#\| default_exp (\S+)"', source[0])
    nb['metadata']['language_info'] = {
        'name': 'python',
        'pygments_lexer': 'ipython3',
    }  # some cells start a shell
    nb['cells'] = [c for c in nb['cells'] if shown(c)]
    for c in nb['cells']:
        if c['cell_type'] != 'code':
            continue
        c['source'] = without_directives(''.join(c['source']))
        if docname == 'index':
            c['metadata']['tags'] = ['remove-input']  # as in README.md
    if module:
        nb['cells'].append(markdown(f'**API:** {{py:mod}}`vidlankd_nb.{module[1]}`'))
    if docname == 'index':
        nb['cells'].append(markdown(CONTENTS.read_text(encoding='utf-8')))
    source[0] = json.dumps(nb)


def setup(app):
    app.connect('source-read', prepare)
    return {'parallel_read_safe': True}
