"In a real browser: the explorer with a kernel and as a page without one; pages of the course in JupyterLab, cell by cell (with `--every-page` all of them, else two)."

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

CHROMIUM = next(
    (p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None
)
DRIVER = shutil.which('chromedriver')
if not (CHROMIUM and DRIVER):
    pytest.skip(
        "Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)",
        allow_module_level=True,
    )
webdriver = pytest.importorskip('selenium.webdriver', reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from vidlankd_nb.config import Encoder, Features, Pairs, Teacher, samples
from vidlankd_nb.corpus import train_tokenizer
from vidlankd_nb.extraction import extract_folder
from vidlankd_nb.grounding import Grounding, looks_page
from vidlankd_nb.pairs import PairSet, make_pairs
from vidlankd_nb.teacher import VideoTeacher, make_teacher

NBS = Path(__file__).parents[1] / 'nbs'


@pytest.fixture(scope='module')
def things(tmp_path_factory):
    "A folder with one sample video, its pairs, and a teacher that has learnt nothing."
    folder, toy = tmp_path_factory.mktemp('browser'), samples() / 'toyworld'
    (folder / 'videos').mkdir()
    shutil.copy(toy / 'videos' / 'toy0000.mp4', folder / 'videos')
    captions = {'toy0000': json.loads((toy / 'caption.json').read_text(encoding='utf-8'))['toy0000']}
    extract_folder(folder / 'videos', folder / 'features', Features(), captions=captions, progress=False)
    pairs, *_ = make_pairs(folder / 'features', captions, Pairs(valid_share=0), folder / 'pairs')
    (folder / 'text.txt').write_text('\n'.join(captions['toy0000']['text']), encoding='utf-8')
    tokenizer = train_tokenizer([folder / 'text.txt'], 300)
    tokenizer.save_pretrained(folder / 'teacher')
    make_teacher(
        Teacher(text=Encoder(layers=1, width=32, heads=2), word_weight=1), tokenizer, pairs.store.width, 16
    ).save_pretrained(folder / 'teacher')
    return folder


LOAD = """
from pathlib import Path
from vidlankd_nb.config import Pairs
from vidlankd_nb.corpus import load_tokenizer
from vidlankd_nb.grounding import Explorer, Grounding
from vidlankd_nb.pairs import PairSet
from vidlankd_nb.teacher import VideoTeacher
grounding = Grounding(VideoTeacher.from_pretrained('teacher'), load_tokenizer('teacher'), PairSet.load('pairs', 'train'), Pairs(max_frames=16), 'videos')
explorer = Explorer(grounding)
explorer.widget
"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--window-size=1200,1400',
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def lab(things, tmp_path_factory):
    "JupyterLab on the loopback, over a copy of the course: its address."
    shutil.copytree(NBS, things / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    for folder in ('benchmarks', 'data_samples', 'scripts'):
        (things / folder).symlink_to(NBS.parent / folder)  # that pages look into
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(LOAD)],
            metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}},
        ),
        things / 'explore.ipynb',
    )
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = tmp_path_factory.mktemp('jupyter')
    for name, wish in (
        (
            'notebook-extension/tracker',
            {'windowingMode': 'none'},
        ),  # the whole page stands in the document, not what is in sight
        ('apputils-extension/notification', {'fetchNews': 'false'}),
    ):  # no question in front of the page
        file = own / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(wish), encoding='utf-8')
    env = os.environ | {
        'JUPYTER_CONFIG_DIR': str(own / 'config'),
        'JUPYTER_RUNTIME_DIR': str(own / 'runtime'),
        'JUPYTERLAB_SETTINGS_DIR': str(own / 'settings'),
        'JUPYTERLAB_WORKSPACES_DIR': str(own / 'workspaces'),
    }
    log = open(own / 'log', 'w', encoding='utf-8')
    server = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'jupyterlab',
            '--no-browser',
            '--allow-root',
            '--ip=127.0.0.1',
            f'--port={port}',
            '--ServerApp.port_retries=0',
            '--IdentityProvider.token=',
            f'--ServerApp.root_dir={things}',
            '--expose-app-in-browser',
        ],
        env=env,
        stdout=log,
        stderr=log,
    )
    for _ in range(150):
        try:
            urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status', timeout=2)
            break
        except OSError:
            assert server.poll() is None, (own / 'log').read_text(encoding='utf-8')[-2000:]
            time.sleep(0.2)
    yield f'http://127.0.0.1:{port}'
    server.terminate()
    server.wait(20)
    log.close()


PIXELS = """const image = document.querySelector('img.widget-image, .widget-image img, img.jupyter-widgets');
if (!image || !image.complete || !image.naturalWidth) return null;
const c = document.createElement('canvas'); c.width = image.naturalWidth; c.height = image.naturalHeight;
c.getContext('2d').drawImage(image, 0, 0); return c.toDataURL();"""


def changed(driver, script, before, seconds=30):
    "What `script` gives once it differs from `before`."
    return WebDriverWait(driver, seconds, 0.1).until(
        lambda d: (now := d.execute_script(script)) not in (None, before) and now
    )


STEP = """const [k, done] = arguments, notebook = jupyterapp.shell.currentWidget.content;
notebook.activeCellIndex = k; notebook.deselectAll();
const from = performance.now();
jupyterapp.commands.execute('notebook:run-cell').then(() => done((performance.now() - from) / 1000), e => done(String(e)));"""


def walk(driver, address):
    "Open a notebook in JupyterLab and run it cell by cell, as one does with Shift-Enter: seconds by cell."
    driver.get(address)
    ready = "const s = window.jupyterapp?.shell?.currentWidget?.sessionContext?.session; return !!(s && s.kernel && s.kernel.status == 'idle' && document.querySelector('.jp-Notebook .jp-Cell'))"
    WebDriverWait(driver, 90, 0.1).until(
        lambda d: d.execute_script(ready)
    )  # run earlier, and JupyterLab asks for a kernel
    driver.set_script_timeout(300)
    return [
        driver.execute_async_script(STEP, k)
        for k in range(driver.execute_script('return jupyterapp.shell.currentWidget.content.widgets.length'))
    ]


PICTURES = "return [...document.querySelectorAll('.jp-Notebook img')].map(i => [i.complete && i.naturalWidth > 100, i.getAttribute('src').slice(0, 60)])"


def pytest_generate_tests(metafunc):
    if 'page' not in metafunc.fixturenames:
        return
    every = [
        p.relative_to(NBS).with_suffix('').as_posix()
        for p in sorted(NBS.rglob('*.ipynb'))
        if '.ipynb_checkpoints' not in p.parts
    ]
    metafunc.parametrize(
        'page', every if metafunc.config.getoption('--every-page') else ['index', 'course/01_ten_minutes']
    )


def test_page_cell_by_cell_in_jupyterlab(lab, browser, page, tmp_path, request):
    seconds = walk(browser, f'{lab}/doc/tree/nbs/{page}.ipynb')
    assert all(isinstance(s, (int, float)) for s in seconds), seconds
    now = json.loads(
        browser.execute_script(
            'return JSON.stringify(jupyterapp.shell.currentWidget.context.model.sharedModel.toJSON())'
        )
    )
    stored = json.loads((NBS / f'{page}.ipynb').read_text(encoding='utf-8'))
    photographs = Path(request.config.getoption('--photographs') or tmp_path) / page
    photographs.mkdir(
        parents=True, exist_ok=True
    )  # for people: the page as it looks, and what each cell takes
    cells = sorted(zip(seconds, now['cells'], strict=True), key=lambda x: -x[0])
    (photographs / 'seconds.json').write_text(
        json.dumps(
            {
                'all': round(sum(seconds), 1),
                'cells': {''.join(c['source'])[:80]: round(s, 1) for s, c in cells[:8]},
            },
            indent=1,
        ),
        encoding='utf-8',
    )
    panel = "document.querySelector('.jp-WindowedPanel-outer')"
    for k in range(-(-browser.execute_script(f'return {panel}.scrollHeight') // 1200)):
        browser.execute_script(f'{panel}.scrollTop = {1200 * k}')
        browser.save_screenshot(str(photographs / f'{k:02}.png'))
    widget = 'application/vnd.jupyter.widget-view+json'  # is taken out of what is stored
    kinds = lambda nb: [
        [
            sorted(o.get('data', {o['output_type']: 0}))
            for o in c['outputs']
            if widget not in o.get('data', {})
        ]
        for c in nb['cells']
        if c['cell_type'] == 'code'
    ]
    assert not [o for c in now['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert all(c['execution_count'] for c in now['cells'] if c['cell_type'] == 'code' and c['source'])
    assert kinds(now) == kinds(stored)  # a reader on the web and one in Jupyter are shown the same
    texts = [''.join(c['source']) for c in stored['cells'] if c['cell_type'] == 'markdown']
    html = [
        ''.join(o['data']['text/html'])
        for c in stored['cells']
        for o in c.get('outputs', [])
        if 'text/html' in o.get('data', {})
    ]
    expected = (
        json.dumps(kinds(stored)).count('image/png')
        + sum(t.count('![') for t in texts)
        + sum(h.count('<img') for h in html)
    )
    WebDriverWait(browser, 20, 0.2).until(lambda d: len(d.execute_script(PICTURES)) >= expected)
    shown = browser.execute_script(PICTURES)  # and what widgets draw
    assert all(ok for ok, _ in shown) and (len(shown) == expected or widget in json.dumps(now)), shown
    browser.execute_script('jupyterapp.shell.currentWidget.sessionContext.shutdown()')


def test_explorer_in_jupyterlab(lab, browser, tmp_path, request):
    walk(browser, f'{lab}/doc/tree/explore.ipynb')
    first = changed(browser, PIXELS, None, 300)
    browser.find_element(By.CSS_SELECTOR, '.noUi-handle').send_keys(Keys.ARROW_RIGHT)  # one step, one picture
    moved = changed(browser, PIXELS, first)
    tokens = browser.find_elements(By.CSS_SELECTOR, '.widget-toggle-buttons .widget-toggle-button')
    assert len(tokens) >= 3
    tokens[2].click()
    touched = changed(browser, PIXELS, moved)
    box = browser.find_element(By.CSS_SELECTOR, '.widget-text input')
    box.send_keys(Keys.CONTROL, 'a')
    box.send_keys('the ball jumps', Keys.ENTER)
    typed = changed(browser, PIXELS, touched)
    assert len({first, moved, touched, typed}) == 4
    browser.save_screenshot(str(Path(request.config.getoption('--photographs') or tmp_path) / 'explorer.png'))
    WebDriverWait(browser, 20, 0.1).until(
        lambda d: (
            d.execute_script(
                "return [...document.querySelectorAll('.widget-toggle-buttons .widget-toggle-button')].map(b => b.innerText.trim()).join(' ')"
            )
            == 'the ball jumps'
        )
    )


def test_page_without_a_kernel(things, browser):
    teacher = VideoTeacher.from_pretrained(things / 'teacher')
    from vidlankd_nb.tokenizer import load_tokenizer

    g = Grounding(
        teacher,
        load_tokenizer(things / 'teacher'),
        PairSet.load(things / 'pairs', 'train'),
        Pairs(max_frames=16),
        things / 'videos',
    )
    looks = [g.look(0), g.look(1, 'a <b>sentence</b> </script> of tags')]
    (things / 'page.html').write_text(looks_page(looks), encoding='utf-8')
    browser.get((things / 'page.html').as_uri())
    canvas = "return document.getElementById('picture').toDataURL()"
    pictures = [browser.execute_script(canvas)]

    def after(act):
        act()
        pictures.append(changed(browser, canvas, pictures[-1], 5))

    words = browser.find_elements(By.CSS_SELECTOR, '#words button')
    assert [w.text for w in words] == looks[0].words
    after(words[0].click if words[0].get_attribute('aria-pressed') == 'false' else words[1].click)
    colours = "return [...document.querySelectorAll('#words button')].map(w => getComputedStyle(w).backgroundColor).join()"
    frame = browser.find_element(By.ID, 'frame')
    seen = {browser.execute_script(colours)}
    for _ in range(
        int(frame.get_attribute('max'))
    ):  # two frames alone may be alike for a teacher that has learnt nothing
        after(lambda: frame.send_keys(Keys.ARROW_RIGHT))
        seen.add(browser.execute_script(colours))
    assert len(seen) > 1
    after(browser.find_element(By.ID, 'play').click)
    browser.find_element(By.ID, 'play').click()
    after(lambda: browser.find_element(By.CSS_SELECTOR, '#clip option:nth-child(2)').click())
    assert [w.text for w in browser.find_elements(By.CSS_SELECTOR, '#words button')] == looks[1].words
    assert not [
        e for e in browser.get_log('browser') if e['level'] == 'SEVERE' and 'page.html' in e['message']
    ] and 'src="http' not in (things / 'page.html').read_text(encoding='utf-8')
