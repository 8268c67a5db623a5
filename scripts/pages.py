"""Pages as they are stored: views of widgets are taken out (they need a kernel, and have another number on every run), and hidden cells are folded in JupyterLab, where a checker's test would give the answer away."""

import json
from pathlib import Path

FOLDED = {'jupyter': {'source_hidden': True}}


def stored(nb: dict) -> dict:
    "A notebook as it should lie on the disk."
    nb['metadata'].pop('widgets', None)
    for c in nb['cells']:
        if 'outputs' in c:
            c['outputs'] = [o for o in c['outputs'] if not any('widget-view' in k for k in o.get('data', {}))]
        c['metadata'].pop('jupyter', None)
        if c['cell_type'] == 'code' and ''.join(c['source']).startswith('#| hide'):
            c['metadata'] |= FOLDED
    return nb


if __name__ == '__main__':
    for page in (Path(__file__).parent.parent / 'nbs').rglob('*.ipynb'):
        before = page.read_text(encoding='utf-8')
        text = json.dumps(stored(json.loads(before)), indent=1, ensure_ascii=False, sort_keys=True) + '\n'
        if text != before:
            page.write_text(text, encoding='utf-8')
