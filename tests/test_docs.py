"The course as a site: every page, every public name, every link."
import json
import re
from pathlib import Path

import docs
import house
import pytest

root = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    docs.site = tmp_path_factory.mktemp('docs')/'site'
    docs.build()
    return docs.site


def test_every_link_leads_somewhere(site):
    assert docs.lost(site) == []
    assert {p.name for p in site.iterdir()} > {'index.html', 'teacher.html', 'course.css', 'search.js', 'index.js', 'images', 'source', 'tutorials'}
    (site/'lost.html').write_text('<a href="teacher.html#nowhere">x</a><a href="absent.html">y</a><img src="images/architecture.svg">')
    assert sorted(docs.lost(site)) == ['lost.html: absent.html', 'lost.html: teacher.html#nowhere']
    (site/'lost.html').unlink()


def test_every_public_name_is_documented_and_found(site):
    from vidlankd_nb._modidx import d
    index = json.loads((site/'index.js').read_text(encoding='utf-8').removeprefix('const INDEX = ').removesuffix(';'))
    places = {address for address, *_ in index}
    assert len(places) == len(index) > 500
    missing = [name for module, names in d['syms'].items() for name in (n.removeprefix(f'{module}.') for n in names) if not name.startswith('_') and '.' not in name
               and not any(p.endswith(f'#{docs.slug(name)}') for p in places)]
    assert not missing


def test_pages_are_whole(site):
    for page in house.notebooks().values():
        text = (site/docs.target(page)).read_text(encoding='utf-8')
        prose = re.sub(r'<pre.*?</pre>|<code.*?</code>|<img[^>]*>', '', text, flags=re.S)
        assert '$$' not in prose and not re.search(r'\$\\?[a-zA-Z]\w*\$', prose), f'a formula of {page} is left as it was written'
        assert '#|' not in prose and 'class="source"' in text
    assert '<math' in (site/'teacher.html').read_text(encoding='utf-8') and 'The course' in (site/'index.html').read_text(encoding='utf-8')
