"""Exit 1, naming the files, when the package or README.md is not what the notebooks export, or a notebook is not clean."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from readme import readme

root = Path(__file__).parent.parent
bin = Path(sys.executable).parent


def exported() -> list[str]:
    "Files of the package that an export in a copy of the tree changes, and notebooks that cleaning changes."
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d) / 'tree'
        copy.mkdir()
        for name in ('nbs', 'vidlankd_nb'):
            shutil.copytree(
                root / name, copy / name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
            )
        for name in ('pyproject.toml', 'settings.ini', 'README.md'):
            shutil.copy(root / name, copy / name)
        for command in ('nbdev-export', 'nbdev-clean'):
            subprocess.run([bin / command], cwd=copy, check=True, stdout=subprocess.DEVNULL)
        ours = lambda tree: {
            p.relative_to(tree): p.read_bytes()
            for n in ('nbs', 'vidlankd_nb')
            for p in (tree / n).rglob('*')
            if p.suffix in ('.py', '.ipynb') and '.ipynb_checkpoints' not in p.parts
        }
        before, after = ours(root), ours(copy)
        return sorted(str(p) for p in before | after if before.get(p) != after.get(p))


odd = exported()
if (root / 'README.md').read_text(encoding='utf-8') != readme():
    odd.append('README.md')
if odd:
    sys.exit(
        'Not in step with the notebooks: '
        + ', '.join(odd)
        + "\nEdit notebooks only, then run 'make sync' and commit what it changes."
    )
print('Notebooks, package and README are in step.')
