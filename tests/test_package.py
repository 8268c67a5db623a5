"""The built wheel, installed in a clean environment, holds everything and answers at once."""

import ast
import importlib
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

root = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "Python of a new environment that has this package from its wheel; its requirements come from the environment that runs the tests."
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    subprocess.run(['git', 'clone', '--quiet', str(root), str(source)], check=True)
    changed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
        cwd=root,
        check=True,
        capture_output=True,
        encoding='utf-8',
    ).stdout.splitlines()
    for name in changed:  # the tree as it is, committed or not
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    subprocess.run(
        [
            sys.executable,
            '-m',
            'build',
            '--wheel',
            '--no-isolation',
            '--outdir',
            str(folder / 'dist'),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    venv.create(folder / 'env', with_pip=True)
    python = folder / 'env' / 'bin' / 'python'
    subprocess.run(
        [python, '-m', 'pip', 'install', '--quiet', '--no-deps', *map(str, (folder / 'dist').glob('*.whl'))],
        check=True,
    )
    here = subprocess.run(
        [python, '-c', 'import site; print(site.getsitepackages()[0])'],
        check=True,
        capture_output=True,
        encoding='utf-8',
    ).stdout.strip()
    requirements = [p for p in sys.path if p.endswith('site-packages')]
    # after the package itself, and without this checkout: an editable install's hooks are not read from a path file
    Path(here, 'zz_requirements.pth').write_text(
        '\n'.join(f"import sys; sys.path.append({p!r})" for p in requirements) + '\n', encoding='utf-8'
    )
    return python, folder


def test_every_module_imports(installed):
    python, folder = installed
    code = """
import importlib, pkgutil, vidlankd_nb
assert 'env' in vidlankd_nb.__file__, vidlankd_nb.__file__
names = [m.name for m in pkgutil.walk_packages(vidlankd_nb.__path__, 'vidlankd_nb.')]
for n in names: importlib.import_module(n)
print(len(names))
"""
    out = subprocess.run([python, '-c', code], cwd=folder, capture_output=True, encoding='utf-8')
    assert out.returncode == 0, out.stderr
    assert (
        int(out.stdout)
        == len([p for p in (root / 'vidlankd_nb').rglob('*.py') if p.name != '__init__.py'])
        + len([p for p in (root / 'vidlankd_nb').rglob('__init__.py')])
        - 1
    )


def test_data_files_are_inside(installed):
    python, folder = installed
    code = """
from importlib.resources import files
from vidlankd_nb.config import samples
from vidlankd_nb.presets import load_run, presets
p = files('vidlankd_nb')
assert (p/'py.typed').is_file()
assert (p/'templates'/'explorer.html').is_file() and (p/'templates'/'frame.html').is_file()
assert {'tiny', 'quick', 'small', 'base'} <= set(presets()), presets()
load_run('tiny')
assert (samples()/'toyworld'/'caption.json').is_file(), samples()
"""
    out = subprocess.run([python, '-c', code], cwd=folder, capture_output=True, encoding='utf-8')
    assert out.returncode == 0, out.stderr


def test_help_loads_nothing_heavy(installed):
    python, folder = installed
    code = "import sys; from vidlankd_nb.cli import usage; usage(); print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'av') if m in sys.modules])"
    out = subprocess.run([python, '-c', code], cwd=folder, capture_output=True, encoding='utf-8')
    assert out.stdout.strip() == '[]', out.stdout + out.stderr


def test_help_answers_within_two_seconds(installed):
    python, folder = installed
    best = 9e9
    for _ in range(3):
        began = time.monotonic()
        out = subprocess.run(
            [folder / 'env' / 'bin' / 'vidlankd', '--help'],
            cwd=folder,
            capture_output=True,
            encoding='utf-8',
        )
        best = min(best, time.monotonic() - began)
    assert out.returncode == 0 and 'demo' in out.stdout
    assert best < 2, f'{best:.1f} s'


def test_metadata_comes_from_settings(installed):
    python, folder = installed
    import configparser

    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(root / 'settings.ini')
    out = subprocess.run(
        [
            python,
            '-c',
            "from importlib.metadata import metadata; m = metadata('vidlankd_nb'); print(m['Summary']); print(*m.get_all('Requires-Dist'), sep='\\n')",
        ],
        cwd=folder,
        capture_output=True,
        encoding='utf-8',
    ).stdout.splitlines()
    assert out[0] == settings['DEFAULT']['description']
    wanted = {re.split(r'[<>=!]', r)[0].strip() for r in settings['DEFAULT']['requirements'].split()}
    assert wanted <= {re.split(r'[<>=!; ]', r)[0] for r in out[1:]}


def names_for_type_checkers():
    "Name -> module, as the imports under TYPE_CHECKING in vidlankd_nb/__init__.py have them."
    tree = ast.parse((root / 'vidlankd_nb' / '__init__.py').read_text(encoding='utf-8'))
    block = next(n for n in tree.body if isinstance(n, ast.If) and n.test.id == 'TYPE_CHECKING')
    assert all(isinstance(n, ast.ImportFrom) and n.level == 1 for n in block.body)
    return {alias.name: n.module for n in block.body for alias in n.names if alias.asname is None}


def test_names_of_the_package_are_the_objects_of_their_modules():
    import vidlankd_nb

    homes = names_for_type_checkers()
    assert sorted([*homes, '__version__']) == sorted(vidlankd_nb.__all__) and len(homes) > 19
    assert homes == vidlankd_nb._HOMES
    for name, module in homes.items():
        home = importlib.import_module(f'vidlankd_nb.{module}')
        assert name in home.__all__ and getattr(vidlankd_nb, name) is getattr(home, name)
    assert set(vidlankd_nb.__all__) <= set(dir(vidlankd_nb))
    with pytest.raises(AttributeError, match="'vidlankd_nb' has no attribute 'VidoeTeacher'"):
        _ = vidlankd_nb.VidoeTeacher
    with pytest.raises(ImportError):
        from vidlankd_nb import VidoeTeacher  # noqa: F401


def test_importing_the_package_imports_nothing_heavy(installed):
    "Names load when they are asked for: `Run` brings no torch, `VideoTeacher` does."
    python, folder = installed
    heavy = "[m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'av', 'numpy', 'yaml') if m in sys.modules]"
    code = f"import sys, vidlankd_nb; print({heavy}, dir(vidlankd_nb).count('VideoTeacher')); from vidlankd_nb import Run; print({heavy}); from vidlankd_nb import VideoTeacher; print('torch' in sys.modules, VideoTeacher.__module__)"
    out = subprocess.run([python, '-c', code], cwd=folder, capture_output=True, encoding='utf-8')
    assert out.stdout.splitlines() == ['[] 1', '[]', 'True vidlankd_nb.teacher'], out.stdout + out.stderr
