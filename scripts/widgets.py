"""Take views of widgets out of the stored outputs: they need a kernel, and have another number on every run."""
import json
from pathlib import Path

for page in (Path(__file__).parent.parent/'nbs').rglob('*.ipynb'):
    nb = json.loads(page.read_text(encoding='utf-8'))
    for c in nb['cells']:
        if 'outputs' in c: c['outputs'] = [o for o in c['outputs'] if not any('widget-view' in k for k in o.get('data', {}))]
    text = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n'
    if 'widget-view' in page.read_text(encoding='utf-8'): page.write_text(text, encoding='utf-8')
