"In a real browser: the explorer with a kernel and as a page without one; index and the ten-minute tutorial in JupyterLab, from top to bottom."
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

CHROMIUM = next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)
DRIVER = shutil.which('chromedriver')
if not (CHROMIUM and DRIVER): pytest.skip("Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)", allow_module_level=True)
webdriver = pytest.importorskip('selenium.webdriver', reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from vidlankd_nb.config import Encoder, Features, Pairs, Teacher, samples
from vidlankd_nb.corpus import train_tokenizer
from vidlankd_nb.explorer import page
from vidlankd_nb.grounding import Grounding
from vidlankd_nb.pairs import PairSet, make_pairs
from vidlankd_nb.teacher import VideoTeacher, make_teacher
from vidlankd_nb.video import extract_folder


@pytest.fixture(scope='module')
def things(tmp_path_factory):
    "A folder with one sample video, its pairs, and a teacher that has learnt nothing."
    folder, toy = tmp_path_factory.mktemp('browser'), samples()/'toyworld'
    (folder/'videos').mkdir()
    shutil.copy(toy/'videos'/'toy0000.mp4', folder/'videos')
    captions = {'toy0000': json.loads((toy/'caption.json').read_text())['toy0000']}
    extract_folder(folder/'videos', folder/'features', Features(), captions=captions, progress=False)
    pairs, *_ = make_pairs(folder/'features', captions, Pairs(valid_share=0), folder/'pairs')
    (folder/'text.txt').write_text('\n'.join(captions['toy0000']['text']))
    tokenizer = train_tokenizer([folder/'text.txt'], 300)
    tokenizer.save_pretrained(folder/'teacher')
    make_teacher(Teacher(text=Encoder(layers=1, width=32, heads=2), word_weight=1), tokenizer, pairs.store.width, 16).save_pretrained(folder/'teacher')
    return folder


LOAD = """
from pathlib import Path
from vidlankd_nb.config import Pairs
from vidlankd_nb.corpus import load_tokenizer
from vidlankd_nb.explorer import Explorer
from vidlankd_nb.grounding import Grounding
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
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--window-size=1200,1400', f"--user-data-dir={tmp_path_factory.mktemp('profile')}"): options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def lab(things, tmp_path_factory):
    "JupyterLab on the loopback, over a copy of the course: its address."
    for folder in ('nbs', 'benchmarks'): shutil.copytree(Path(__file__).parents[1]/folder, things/folder, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LOAD)], metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}), things/'explore.ipynb')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    own = tmp_path_factory.mktemp('jupyter')
    (own/'settings'/'@jupyterlab'/'notebook-extension').mkdir(parents=True)
    (own/'settings'/'@jupyterlab'/'notebook-extension'/'tracker.jupyterlab-settings').write_text('{"windowingMode": "none"}')   # the whole page stands in the document, not what is in sight
    env = os.environ | {'JUPYTER_CONFIG_DIR': str(own/'config'), 'JUPYTER_RUNTIME_DIR': str(own/'runtime'), 'JUPYTERLAB_SETTINGS_DIR': str(own/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(own/'workspaces')}
    log = open(own/'log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=', f'--ServerApp.root_dir={things}', '--expose-app-in-browser', '--LabApp.news_url=None'], env=env, stdout=log, stderr=log)
    for _ in range(150):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status', timeout=2); break
        except OSError:
            assert server.poll() is None, (own/'log').read_text()[-2000:]
            time.sleep(.2)
    yield f'http://127.0.0.1:{port}'
    server.terminate(); server.wait(20); log.close()


PIXELS = """const image = document.querySelector('img.widget-image, .widget-image img, img.jupyter-widgets');
if (!image || !image.complete || !image.naturalWidth) return null;
const c = document.createElement('canvas'); c.width = image.naturalWidth; c.height = image.naturalHeight;
c.getContext('2d').drawImage(image, 0, 0); return c.toDataURL();"""


def changed(driver, script, before, seconds=30):
    "What `script` gives once it differs from `before`."
    return WebDriverWait(driver, seconds, .1).until(lambda d: (now := d.execute_script(script)) not in (None, before) and now)


def run_all(driver, address):
    "Open a notebook in JupyterLab and run all its cells."
    driver.get(address)
    ready = "const s = window.jupyterapp?.shell?.currentWidget?.sessionContext?.session; return !!(s && s.kernel && s.kernel.status == 'idle' && document.querySelector('.jp-Notebook .jp-Cell'))"
    WebDriverWait(driver, 90, .1).until(lambda d: d.execute_script(ready))     # run earlier, and JupyterLab asks for a kernel
    driver.execute_script("window.ran = null; jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.ran = true, e => window.ran = String(e))")


PICTURES = "return [...document.querySelectorAll('.jp-Notebook img')].map(i => [i.complete && i.naturalWidth > 100, i.getAttribute('src').slice(0, 60)])"


@pytest.mark.parametrize('page', ['index', 'tutorials/ten_minutes'])
def test_page_from_top_to_bottom_in_jupyterlab(lab, browser, page, tmp_path):
    run_all(browser, f'{lab}/doc/tree/nbs/{page}.ipynb')
    assert WebDriverWait(browser, 400, .2).until(lambda d: d.execute_script('return window.ran')) is True
    now = json.loads(browser.execute_script('return JSON.stringify(jupyterapp.shell.currentWidget.context.model.sharedModel.toJSON())'))
    stored = json.loads((Path(__file__).parents[1]/'nbs'/f'{page}.ipynb').read_text(encoding='utf-8'))
    kinds = lambda nb: [[sorted(o.get('data', {o['output_type']: 0})) for o in c['outputs']] for c in nb['cells'] if c['cell_type'] == 'code']
    assert not [o for c in now['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert all(c['execution_count'] for c in now['cells'] if c['cell_type'] == 'code' and c['source'])
    assert kinds(now) == kinds(stored)            # a reader on the web and one in Jupyter are shown the same
    expected = json.dumps(kinds(stored)).count('image/png') + sum(''.join(c['source']).count('![') for c in stored['cells'] if c['cell_type'] == 'markdown')
    shown = WebDriverWait(browser, 20, .2).until(lambda d: len(i := d.execute_script(PICTURES)) >= expected and i)
    assert len(shown) == expected and all(ok for ok, _ in shown), shown
    panel = "document.querySelector('.jp-WindowedPanel-outer')"
    for k in range(-(-browser.execute_script(f'return {panel}.scrollHeight') // 1200)):     # for people
        browser.execute_script(f'{panel}.scrollTop = {1200 * k}')
        browser.save_screenshot(str(tmp_path/f'{k}.png'))


def test_explorer_in_jupyterlab(lab, browser):
    run_all(browser, f'{lab}/doc/tree/explore.ipynb')
    first = changed(browser, PIXELS, None, 300)
    browser.find_element(By.CSS_SELECTOR, '.noUi-handle').send_keys(Keys.ARROW_RIGHT)      # one step, one picture
    moved = changed(browser, PIXELS, first)
    tokens = browser.find_elements(By.CSS_SELECTOR, '.widget-toggle-buttons .widget-toggle-button')
    assert len(tokens) >= 3
    tokens[2].click()
    touched = changed(browser, PIXELS, moved)
    box = browser.find_element(By.CSS_SELECTOR, '.widget-text input')
    box.send_keys(Keys.CONTROL, 'a'); box.send_keys('the ball jumps', Keys.ENTER)
    typed = changed(browser, PIXELS, touched)
    assert len({first, moved, touched, typed}) == 4
    WebDriverWait(browser, 20, .1).until(lambda d: d.execute_script("return [...document.querySelectorAll('.widget-toggle-buttons .widget-toggle-button')].map(b => b.innerText.trim()).join(' ')") == 'the ball jumps')


def test_page_without_a_kernel(things, browser):
    teacher = VideoTeacher.from_pretrained(things/'teacher')
    from vidlankd_nb.corpus import load_tokenizer
    g = Grounding(teacher, load_tokenizer(things/'teacher'), PairSet.load(things/'pairs', 'train'), Pairs(max_frames=16), things/'videos')
    looks = [g.look(0), g.look(1, 'a <b>sentence</b> </script> of tags')]
    (things/'page.html').write_text(page(looks), encoding='utf-8')
    browser.get((things/'page.html').as_uri())
    canvas = "return document.getElementById('picture').toDataURL()"
    pictures = [browser.execute_script(canvas)]
    def after(act):
        act(); pictures.append(changed(browser, canvas, pictures[-1], 5))
    words = browser.find_elements(By.CSS_SELECTOR, '#words button')
    assert [w.text for w in words] == looks[0].words
    after(words[0].click if words[0].get_attribute('aria-pressed') == 'false' else words[1].click)
    colours = [w.value_of_css_property('background-color') for w in words]
    after(lambda: browser.find_element(By.ID, 'frame').send_keys(Keys.ARROW_RIGHT))
    assert [w.value_of_css_property('background-color') for w in words] != colours
    after(browser.find_element(By.ID, 'play').click)
    browser.find_element(By.ID, 'play').click()
    after(lambda: browser.find_element(By.CSS_SELECTOR, '#clip option:nth-child(2)').click())
    assert [w.text for w in browser.find_elements(By.CSS_SELECTOR, '#words button')] == looks[1].words
    assert not [e for e in browser.get_log('browser') if e['level'] == 'SEVERE' and 'page.html' in e['message']] and 'src="http' not in (things/'page.html').read_text()
