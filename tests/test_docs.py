"The course and the API as a site: every page, every public name, every link."

import html
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import house
import links
import pytest

root = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The site as `make docs` builds it: a warning is an error."
    folder = tmp_path_factory.mktemp('docs')
    command = [
        sys.executable,
        '-m',
        'sphinx',
        '-W',
        '--keep-going',
        '-q',
        '-c',
        'docs',
        '-d',
        folder / 'doctrees',
        'nbs',
        folder / 'site',
    ]
    built = subprocess.run(command, cwd=root, capture_output=True, encoding='utf-8')
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / 'site'


def objects(site):
    "Name → address of everything that the site's inventory knows of the package."
    rows = zlib.decompress((site / 'objects.inv').read_bytes().split(b'\n', 4)[4]).decode().splitlines()
    found = [re.fullmatch(r'(\S+) py:\S+ \S+ (\S+) .*', row) for row in rows]
    return {m[1]: m[2].replace('$', m[1]) for m in found if m}


def api(site, module):
    return (site / 'api' / f'vidlankd_nb.{module}.html').read_text(encoding='utf-8')


def page_of(site, notebook):
    return (site / notebook).with_suffix('.html').read_text(encoding='utf-8')


def without_code(text):
    return re.sub(r'<pre.*?</pre>|<code.*?</code>|<img[^>]*>', '', text, flags=re.S)


def in_words(text):
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', '', text)).split())


def test_the_site_is_whole(site):
    "Links were followed when it was built."
    assert {p.name for p in site.iterdir()} > {
        'index.html',
        '05_teacher.html',
        'search.html',
        'searchindex.js',
        'objects.inv',
        '_images',
        '_modules',
        'api',
        'tutorials',
        'bench',
    }


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / 'there.html').write_text('<p id="here"><a name="too">x</a></p>', encoding='utf-8')
    (tmp_path / 'lost.html').write_text(
        '<a href="there.html#nowhere">x</a><a href="absent.html">y</a><img src="there.html">'
        '<a href="there.html#here">x</a><a href="there.html#too">x</a><a href="https://a.b/c">x</a>',
        encoding='utf-8',
    )
    assert sorted(links.lost(tmp_path)) == ['lost.html: absent.html', 'lost.html: there.html#nowhere']


def test_every_public_name_is_documented_and_found(site):
    from vidlankd_nb._modidx import d

    inventory = objects(site)
    index = json.loads(
        (site / 'searchindex.js')
        .read_text(encoding='utf-8')
        .removeprefix('Search.setIndex(')
        .removesuffix(')')
    )
    searched = {f'{prefix}.{row[-1]}' for prefix, rows in index['objects'].items() for row in rows}
    assert len(set(inventory.values())) == len(inventory) > 500
    public = [
        name
        for module, names in d['syms'].items()
        for name in names
        if not re.search(r'^_|\.', name.removeprefix(f'{module}.'))
    ]
    assert len(public) > 400
    assert not [name for name in public if name not in inventory or name not in searched]
    anchors = {
        page: links.read(site / page).ids
        for page in {address.partition('#')[0] for address in inventory.values()}
    }
    lost = [
        address
        for page, _, anchor, address in ((*a.partition('#'), a) for a in inventory.values())
        if anchor not in anchors[page]
    ]
    assert not lost


def test_what_stands_behind_a_parameter_is_in_the_api(site):
    from fastcore.docments import docments

    from vidlankd_nb.config import Data
    from vidlankd_nb.heatmaps import similarity

    for thing, text in ((Data, in_words(api(site, 'config'))), (similarity, in_words(api(site, 'heatmaps')))):
        comments = [about.docment for about in docments(thing, full=True).values() if about.docment]
        assert len(comments) > 2
        assert not [comment for comment in comments if ' '.join(comment.split()) not in text]


@pytest.mark.parametrize(
    'page, title, unfolded',
    [
        ('course/06_the_student', ['6. The student'], 0),
        ('api/vidlankd_nb.files', ['files'], 1),
        ('api/vidlankd_nb.teacher', ['teacher'], 1),
        ('api/index', ['API'], 1),
        ('_modules/vidlankd_nb/teacher', [], 0),
    ],
)
def test_the_tree_beside_a_page_shows_where_its_reader_is(site, page, title, unfolded):
    "Pages of a folder share a tree; in each its own entry is marked, and what it stands under is unfolded."
    text = (site / f'{page}.html').read_text(encoding='utf-8')
    here = r'current-page"><a class="current reference internal" href="#">(.*?)</a>'
    assert re.findall(here, text) == title
    assert len(re.findall('<input [^>]*checked=""', text)) == unfolded


def test_pages_are_whole(site):
    for module, notebook in house.notebooks().items():
        text = page_of(site, notebook)
        prose = without_code(text)
        assert '$$' not in prose and not re.search(r'\$\\?[a-zA-Z]\w*\$', prose), (
            f'a formula of {notebook} is left as it was written'
        )
        assert '#|' not in prose and f'api/vidlankd_nb.{module}.html' in text
        assert 'viewcode-link' in api(site, module)
    assert '<math' in page_of(site, '05_teacher.ipynb') and 'The course' in page_of(site, 'index.ipynb')


@pytest.mark.parametrize('notebook', ['01_toyworld.ipynb', '06_matching.ipynb', '12c_statistics.ipynb'])
def test_hidden_cells_are_not_shown_and_outputs_are(site, notebook):
    "Tests of checkers would give answers away."
    text = in_words(page_of(site, notebook))
    code = [
        c
        for c in json.loads((root / 'nbs' / notebook).read_text(encoding='utf-8'))['cells']
        if c['cell_type'] == 'code'
    ]
    sources = [(''.join(c['source']), c['outputs']) for c in code]
    hidden = [' '.join(s.partition('\n')[2].split()) for s, _ in sources if s.startswith('#| hide')]
    shown = [
        ' '.join(''.join(o['data']['text/plain']).split())
        for s, outputs in sources
        if not s.startswith('#| hide')
        for o in outputs
        if list(o.get('data', {})) == ['text/plain']
    ]
    assert hidden and not [s for s in hidden if s in text]
    assert shown and not [s for s in shown if s not in text]


def test_pages_need_nothing_from_the_web(site):
    loaded = r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]*|<link[^>]+href="(?:https?:)?//[^"]*'
    outside = {
        p.name: found
        for p in site.rglob('*.html')
        if (found := re.findall(loaded, p.read_text(encoding='utf-8')))
    }
    assert not outside
