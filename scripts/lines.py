"""How densely the package is written: tuple-to-tuple assignments and comprehensions per 1,000 lines, by the syntax tree. `--modules` lists each module."""

import ast
import sys
from pathlib import Path

root = Path(__file__).parent.parent
LIMITS = {'assignments': 14, 'comprehensions': 34}  # per 1,000 lines
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def is_parallel(node) -> bool:
    "Is this `a, b = x, y`? Unpacking what a call returns is one thought."
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    )


def counted(file: Path) -> dict[str, int]:
    source = file.read_text(encoding='utf-8')
    nodes = list(ast.walk(ast.parse(source)))
    return {
        'lines': len(source.splitlines()),
        'assignments': sum(map(is_parallel, nodes)),
        'comprehensions': sum(isinstance(n, COMPREHENSIONS) for n in nodes),
    }


def package() -> dict[str, dict]:
    "Module -> its counts."
    files = sorted((root / 'vidlankd_nb').rglob('*.py'))
    return {str(f.relative_to(root)): counted(f) for f in files if f.name != '_modidx.py'}


def density(rows: list[dict]) -> dict[str, float]:
    "Each count per 1,000 lines."
    lines = sum(r['lines'] for r in rows)
    return {k: 1000 * sum(r[k] for r in rows) / lines for k in LIMITS}


if __name__ == '__main__':
    modules = package()
    if '--modules' in sys.argv:
        for name, row in modules.items():
            print(
                f"{name:45} {row['lines']:5} lines {row['assignments']:4} assignments {row['comprehensions']:4} comprehensions"
            )
    found = density(list(modules.values()))
    print(
        'Per 1,000 lines: '
        + ', '.join(f'{found[k]:.1f} {k} (at most {limit})' for k, limit in LIMITS.items())
    )
