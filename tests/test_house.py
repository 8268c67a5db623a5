"""The house is in order: imports point left, links lead somewhere, pages hold no errors and nothing is left to do."""

import ast
import io
import json
import re
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

import house
import pictures
import pytest
import yaml
from pages import stored

from vidlankd_nb import __version__

root = Path(__file__).parent.parent


def pages():
    return [p for p in sorted((root / 'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]


def test_imports_point_to_earlier_pages():
    order = {m: i for i, m in enumerate(house.notebooks())}
    later = [
        (m, d)
        for m, to in house.imports().items()
        for d in to
        if order[d] > order[m] and not d.startswith('bench.')
    ]
    assert not later, f'imports of later pages: {later}'


def test_the_house_has_at_most_ten_floors():
    "A module stands one floor above the highest that it imports, be it inside a function."
    floors = house.floors()
    assert max(floors.values()) <= 10, sorted(floors.items(), key=lambda room: room[1])[-5:]


def test_a_module_fits_a_reading():
    "No module of the package has more than five hundred lines."
    long = {
        str(p.relative_to(root)): n
        for p in sorted((root / 'vidlankd_nb').rglob('*.py'))
        if p.name != '_modidx.py' and (n := len(p.read_text(encoding='utf-8').splitlines())) > 500
    }
    assert not long, long


def public_names():
    "Public name -> modules that define it."
    found = {}
    for module in house.notebooks():
        tree = ast.parse(
            (root / 'vidlankd_nb' / (module.replace('.', '/') + '.py')).read_text(encoding='utf-8')
        )
        for n in tree.body:
            if not isinstance(n, ast.Assign) or ast.unparse(n.targets[0]) != '__all__':
                continue
            for name in ast.literal_eval(n.value):
                found.setdefault(name, []).append(module)
    return found


def public_functions(body, before=''):
    "Functions and methods whose names and classes have no underscore in front."
    for n in body:
        if isinstance(n, ast.FunctionDef) and not n.name.startswith('_'):
            yield before + n.name, n
        if isinstance(n, ast.ClassDef) and not n.name.startswith('_'):
            yield from public_functions(n.body, f'{before}{n.name}.')


def test_a_public_function_says_what_it_does_and_returns():
    silent = []
    for module in house.notebooks():
        file = root / 'vidlankd_nb' / (module.replace('.', '/') + '.py')
        for name, n in public_functions(ast.parse(file.read_text(encoding='utf-8')).body):
            if n.returns is None or not ast.get_docstring(n):
                silent.append(f'{module}.{name}')
    assert not silent, silent


def test_a_public_name_is_defined_in_one_module():
    "But for `summary`, by which the command line shows what each page of measurements found."
    twice = {name: modules for name, modules in public_names().items() if len(modules) > 1}
    assert all(m.startswith('bench.') for m in twice.pop('summary'))
    assert not twice, twice


def test_the_drawing_of_the_house_is_of_today():
    text = (root / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert text == house.in_step(text), "CONTRIBUTING.md draws other imports: run 'make sync'"


def test_every_module_has_its_page():
    modules = {
        '.'.join(p.relative_to(root / 'vidlankd_nb').with_suffix('').parts)
        for p in (root / 'vidlankd_nb').rglob('*.py')
        if p.name not in ('__init__.py', '_modidx.py')
    }
    assert modules == set(house.notebooks())


def cells_of(page):
    return json.loads(page.read_text(encoding='utf-8'))['cells']


def code_of(page):
    return [''.join(c['source']) for c in cells_of(page) if c['cell_type'] == 'code']


@pytest.mark.parametrize('page', pages(), ids=lambda p: p.stem)
def test_a_name_is_defined_once_and_no_merge_is_left_over(page):
    cells, names = [''.join(c['source']) for c in cells_of(page)], []
    assert not [c for c in cells if re.search(r'^(<{7}|={7}$|>{7})', c, re.M)]
    for c in cells:
        if c.startswith('#| export'):
            names += [n.name for n in ast.parse(c).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert not [n for n, k in Counter(names).items() if k > 1]


@pytest.mark.parametrize('page', pages(), ids=lambda p: p.stem)
def test_imports_have_cells_of_their_own(page):
    "What a page needs is seen at a glance."
    mixed = []
    for source in code_of(page):
        if re.search(r'^#\|\s*(export|eval:\s*false)', source, re.M):
            continue
        tree = ast.parse(re.sub(r'^\s*[%!].*$', '', source, flags=re.M))
        imports = (ast.Import, ast.ImportFrom)
        if any(isinstance(n, imports) for n in ast.walk(tree)) and not all(
            isinstance(n, (*imports, ast.FunctionDef, ast.ClassDef)) for n in tree.body
        ):
            mixed.append(source)
    assert not mixed, '\n---\n'.join(mixed)


def contents():
    "Notebooks in their order: the home page, then the site's contents."
    rows = (root / 'docs' / 'contents.md').read_text(encoding='utf-8').splitlines()
    return ['index.ipynb', *[row for row in rows if row.endswith('.ipynb')]]


def test_the_contents_hold_every_page():
    assert sorted(contents()) == sorted(str(p.relative_to(root / 'nbs')) for p in pages())
    index = prose(root / 'nbs' / 'index.ipynb')
    rows = re.findall(r'^\| \[\w+\]\(([\w/]+\.ipynb)\) \| (\d+) \|', index, re.M)
    assert [p for p, _ in rows] == [
        p for p in contents() if p != 'index.ipynb' and not p.startswith('bench/')
    ]
    far = {
        p: (int(m), house.minutes(root / 'nbs' / p))
        for p, m in rows
        if abs(int(m) - house.minutes(root / 'nbs' / p)) > 5
    }
    assert not far, f'index says how long a page takes (said, counted): {far}'


@pytest.mark.parametrize('page', pages(), ids=lambda p: p.stem)
def test_a_page_opens_with_its_title_and_one_sentence(page):
    "The site makes its title of the first cell, and the sentence stands under it."
    assert re.fullmatch(r'# .+\n\n> .+', ''.join(cells_of(page)[0]['source']).strip())


def test_the_picture_of_teacher_and_student_is_what_its_script_draws():
    import architecture

    assert (root / 'nbs' / 'images' / 'architecture.svg').read_text(encoding='utf-8') == architecture.svg


@pytest.mark.parametrize(
    'page',
    [root / 'nbs' / p for p in contents() if p != 'index.ipynb' and not p.startswith('bench/')],
    ids=lambda p: p.stem,
)
def test_a_page_has_an_aim_and_leads_on(page):
    "Exercises are the course's: tests/test_course.py."
    source = [''.join(c['source']) for c in cells_of(page)]
    assert any('**Afterwards you can**' in s and '**You need**' in s for s in source[:4])
    is_lesson = page.parent.name == 'course' and page.stem != 'glossary'
    assert is_lesson == any(re.search(r'^## Your turn$', s, re.M) for s in source)
    onwards = re.search(r'^\*\*Next:\*\*.*?\]\(([^)#]+)', '\n'.join(source), re.M)
    assert onwards and (page.parent / onwards[1]).exists()


@pytest.mark.parametrize('page', pages(), ids=lambda p: p.stem)
def test_a_page_lies_on_the_disk_as_it_should(page):
    "No view of a widget is stored, and hidden cells are folded: `make sync` does both."
    nb = json.loads(page.read_text(encoding='utf-8'))
    assert stored(json.loads(json.dumps(nb))) == nb


@pytest.mark.parametrize('page', pages(), ids=lambda p: p.stem)
def test_code_fits_the_page(page):
    "What a scroll bar hides is not read: 110 characters a line, comments behind the code and lines that are one string apart."
    long = []
    for source in code_of(page):
        if re.search(r'^[%!]', source, re.M):
            continue
        inside, code = set(), {}  # lines of strings; end of the code on each line
        for t in tokenize.generate_tokens(io.StringIO(source).readline):
            if t.type == tokenize.STRING and (t.start[0] != t.end[0] or not t.line[: t.start[1]].strip()):
                inside |= set(range(t.start[0], t.end[0] + 1))
            if t.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE):
                code[t.end[0]] = max(code.get(t.end[0], 0), t.end[1])
        long += [source.split('\n')[k - 1] for k, end in code.items() if end > 110 and k not in inside]
    assert not long, '\n'.join(long)


def test_the_front_page_shows_the_committed_figures():
    from vidlankd_nb.comparison import in_short

    report = json.loads((root / 'benchmarks' / 'ablation' / 'report.json').read_text(encoding='utf-8'))
    text = (root / 'README.md').read_text(encoding='utf-8')
    assert in_short(report) in text and report['command'] in text
    sst2 = json.loads((root / 'benchmarks' / 'sst2.json').read_text(encoding='utf-8'))
    assert sst2['command'] in text and f"| {sst2['model']} | {100 * sst2['value']:.1f} |" in text


def test_the_front_page_shows_the_committed_figures_in_pictures():
    assert not pictures.outdated(), 'draw them: make sync'


def links(text):
    return [
        m
        for m in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S))
        if not re.match(r'[a-z]+:', m)
    ]


def prose(p):
    "Markdown of a page or a text file."
    text = p.read_text(encoding='utf-8')
    return (
        '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')
        if p.suffix == '.ipynb'
        else text
    )


def leads(p, link):
    "Is there a file, and in it a heading, where a link of page `p` leads?"
    name, _, anchor = link.partition('#')
    to = p.parent / name if name else p
    if not to.exists():
        return False
    return not anchor or anchor.lower() in {
        re.sub(r'[^\w\s-]', '', h.lower()).strip().replace(' ', '-')
        for h in re.findall(r'^#+ (.+)$', prose(to), re.M)
    }


def test_links_lead_somewhere():
    texts = {p: prose(p) for p in [*root.glob('*.md'), *(root / 'data_samples').glob('*.md'), *pages()]}
    lost = [
        f'{p.relative_to(root)}: {link}'
        for p, text in texts.items()
        for link in links(text)
        if not leads(p, link)
    ]
    assert sum(len(links(t)) for t in texts.values()) > 10
    assert not lost, '\n'.join(lost)


def test_links_of_pages_hold_wherever_a_page_is_read():
    "JupyterLab, GitHub and the site each name a heading's anchor in a way of their own, and a site knows nothing outside nbs/: a page leads to pages and pictures, and names a section in words."
    odd = [
        f'{p.relative_to(root)}: {link}'
        for p in pages()
        for link in links(prose(p))
        if '#' in link or not (p.parent / link).resolve().is_relative_to(root / 'nbs')
    ]
    assert not odd, '\n'.join(odd)


@pytest.mark.parametrize('page', pages(), ids=lambda p: p.stem)
def test_a_page_shows_its_results(page):
    code = [c for c in cells_of(page) if c['cell_type'] == 'code']
    shown = [o for c in code for o in c['outputs']]
    assert not [o for o in shown if o['output_type'] == 'error']
    assert shown or len(code) < 4, 'no stored outputs: a reader on the web sees no result'
    assert page.stat().st_size < 1_500_000
    text = json.dumps(
        [
            o.get('text') or {k: v for k, v in o.get('data', {}).items() if k.startswith('text/')}
            for o in shown
        ]
    )
    assert not re.search(r'0x[0-9a-f]{8,}|/tmp/|/home/|/work/|/root/', text), (
        'an address or a path of one machine in an output'
    )


@pytest.mark.parametrize(
    'form', sorted((root / '.github' / 'ISSUE_TEMPLATE').glob('*.yml')), ids=lambda p: p.stem
)
def test_issue_forms_say_what_they_mean(form):
    "A comma in an unquoted value of {…} would make a key of what follows it."
    asked = yaml.safe_load(form.read_text(encoding='utf-8'))
    assert {'name', 'description', 'body'} <= set(asked)
    for part in asked['body']:
        assert set(part['attributes']) <= {'label', 'description', 'render'} and all(
            part['attributes'].values()
        ), part


def reads_text_by_locale(call):
    "Does a call open a file, or read a process, as text without saying in which encoding?"
    name = ast.unparse(call.func)
    given = {k.arg: k.value for k in call.keywords}
    if 'encoding' in given or None in given:
        return False
    if name.endswith(('.read_text', '.write_text')):
        return len(call.args) == name.endswith('.write_text')
    if name.startswith('subprocess.'):
        return 'text' in given or 'universal_newlines' in given
    if name.split('.')[0] in {'av', 'os', 'Image', 'tarfile', 'zipfile'} or not re.search(
        r'(^|[.])open$', name
    ):
        return False
    by_path = name not in {'open', 'io.open', 'gzip.open'}
    mode = given.get('mode', call.args[not by_path] if len(call.args) > (not by_path) else None)
    written = ast.literal_eval(mode) if isinstance(mode, ast.Constant) else 'rb' if mode is not None else 'r'
    return 't' in written if name == 'gzip.open' else 'b' not in written


def test_text_is_utf8_on_every_platform():
    "On Windows the locale is not UTF-8, so each text says what it is. Ruff sees that of names whose type it knows; here the others are found, in pages and tests, too."
    odd = []
    for page in pages():
        for source in code_of(page):
            if not re.search(r'^\s*[%!]', source, re.M):
                odd += [(page.name, n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    listed = subprocess.run(
        ['git', 'ls-files', '*.py'], cwd=root, capture_output=True, encoding='utf-8'
    ).stdout
    for name in listed.split():
        tree = ast.parse((root / name).read_text(encoding='utf-8'))
        odd += [(name, n) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    odd = [f'{where}: {ast.unparse(call)[:100]}' for where, call in odd if reads_text_by_locale(call)]
    assert not odd, '\n'.join(odd)


def test_the_changelog_keeps_its_form_and_names_the_version():
    text = (root / 'CHANGELOG.md').read_text(encoding='utf-8')
    versions = re.findall(r'^## (.+)$', text, re.M)
    assert all(re.fullmatch(r'\[Unreleased\]|\[\d+[.]\d+[.]\d+\] - \d{4}-\d\d-\d\d', v) for v in versions)
    kinds = re.findall(r'^### (.+)$', text, re.M)
    assert set(kinds) <= {'Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'}
    assert f'\n## [{__version__}] - ' in text
    cited = yaml.safe_load((root / 'CITATION.cff').read_text(encoding='utf-8'))
    assert str(cited['version']) == __version__


def test_nothing_is_left_to_do():
    found = subprocess.run(
        ['git', 'grep', '-nE', 'TO' + 'DO|FIX' + 'ME'],
        cwd=root,
        capture_output=True,
        encoding='utf-8',
    ).stdout.splitlines()
    found = [line for line in found if '"image/png": ' not in line]  # letters of a picture spell anything
    assert not found, '\n'.join(found)
