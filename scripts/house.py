"""The order of the house: which module imports which, and the Mermaid drawing of it between the marks in CONTRIBUTING.md."""

import ast
import json
import re
import sys
from pathlib import Path

root = Path(__file__).parent.parent
BEGIN, END = '<!-- house: made by scripts/house.py -->\n', '<!-- house ends -->'


def notebooks() -> dict[str, str]:
    "Module name -> notebook that exports it, in reading order."
    found = {}
    for p in sorted((root / 'nbs').rglob('*.ipynb'), key=lambda p: (p.parent != root / 'nbs', str(p))):
        if '.ipynb_checkpoints' in p.parts:
            continue
        source = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])
        if m := re.search(r'^#\|\s*default_exp\s+(\S+)', source, re.M):
            found[m[1]] = str(p.relative_to(root / 'nbs'))
    return found


def minutes(page: Path) -> int:
    "How long a page takes: 200 words of prose or 30 lines of code a minute, three minutes an exercise, to the next five."
    words = lines = exercises = 0
    for c in json.loads(page.read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] == 'markdown':
            words += len(source.split())
        elif not re.search(r'^#\|\s*hide', source, re.M):
            lines += sum(
                bool(l.strip()) and not l.startswith(('#|', 'import', 'from')) for l in source.splitlines()
            )
            exercises += bool(re.search(r'^check_(loss|probe|answer)\(', source, re.M))
    return max(5, 5 * round((words / 200 + lines / 30 + 3 * exercises) / 5))


def imports(top: bool = False) -> dict[str, set]:
    "Module -> modules of this package that it imports, at the top or (unless `top`) inside a function."
    known, out = set(notebooks()), {}
    for module in notebooks():
        tree = ast.parse(
            (root / 'vidlankd_nb' / (module.replace('.', '/') + '.py')).read_text(encoding='utf-8')
        )
        package = ['vidlankd_nb', *module.split('.')[:-1]]
        names = set()
        for n in tree.body if top else ast.walk(tree):
            if not isinstance(n, ast.ImportFrom):
                continue
            base = package[: len(package) - n.level + 1] if n.level else []
            full = [*base, *(n.module.split('.') if n.module else [])]
            if full[:1] != ['vidlankd_nb']:
                continue
            names.add('.'.join(full[1:]))
            names |= {'.'.join([*full[1:], a.name]) for a in n.names}
        out[module] = (names & known) - {module}
    return out


def direct(graph: dict) -> dict[str, set]:
    "The same order with as few arrows as possible: an import that others already imply is left out."
    beyond = {}
    for m, to in graph.items():
        beyond[m] = set().union(to, *(beyond.get(d, ()) for d in to))  # pages come in order
    return {
        m: {d for d in to if not any(d in beyond.get(o, ()) for o in to - {d})} for m, to in graph.items()
    }


def rooms() -> dict[str, set]:
    "Imports of all modules but the benchmarks, which nothing but the command line imports."
    return {
        m: {d for d in to if not d.startswith('bench.')}
        for m, to in imports().items()
        if not m.startswith('bench.')
    }


def floors() -> dict[str, int]:
    "Module -> its floor: one above the highest that it imports, also inside a function."
    found = {}
    for module, to in rooms().items():  # pages come in order
        found[module] = 1 + max((found[d] for d in to), default=0)
    return found


def drawing() -> str:
    "Mermaid text of the rooms."
    graph = rooms()
    name = lambda m: m.replace('.', '_')
    lines = [f'  {name(d)}["{d}"] --> {name(m)}["{m}"]' for m in graph for d in sorted(direct(graph)[m])]
    return '```mermaid\nflowchart LR\n' + '\n'.join(lines) + '\n```\n'


def in_step(text: str) -> str:
    "CONTRIBUTING.md with the drawing of today's imports."
    return text[: text.index(BEGIN) + len(BEGIN)] + drawing() + text[text.index(END) :]


if __name__ == '__main__':
    page = root / 'CONTRIBUTING.md'
    page.write_text(in_step(page.read_text(encoding='utf-8')), encoding='utf-8')
    sys.exit(0)
