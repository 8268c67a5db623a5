"Loss curves that grow in place: without a display, under a stand-in for one, and in a real kernel."

import contextlib
import subprocess
import sys

import nbformat
from nbclient import NotebookClient

from vidlankd_nb import monitoring
from vidlankd_nb.config import Distillation, Encoder, Training
from vidlankd_nb.corpus import Examples
from vidlankd_nb.encoders import text_encoder
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.monitoring import Curves, plot_losses, read_log
from vidlankd_nb.student import StudentTask
from vidlankd_nb.tokenizer import load_tokenizer
from vidlankd_nb.training import train


def new_task(tokenizer):
    return StudentTask(text_encoder(Encoder(layers=1, width=16, heads=2), tokenizer), Distillation('none'))


def test_records_come_as_they_are_logged_and_those_of_before_a_resume_first(prepared, tmp_path, capsys):
    tokenizer = load_tokenizer(prepared / 'corpus' / 'tokenizer')
    data, valid = (TextBatches(Examples(prepared / 'corpus', s), tokenizer) for s in ('train', 'valid'))
    cfg = Training(steps=8, batch=16, log_every=2, save_every=4, trackers=[])

    class Enough(Exception):
        pass

    first, told = Curves(8), []

    def watch(record):
        first(record)
        if record['step'] == 6:
            raise Enough

    with contextlib.suppress(Enough):
        train(new_task(tokenizer), data, cfg, tmp_path, valid=valid, show=watch)
    train(new_task(tokenizer), data, cfg, tmp_path, valid=valid, show=told.append)
    assert told == read_log(tmp_path / 'log.jsonl') and [r['step'] for r in told] == [
        1,
        2,
        4,
        4,
        6,
        8,
        8,
    ]  # the first has the pushes
    assert [r['step'] for r in first.records] == [1, 2, 4, 4, 6] and first.place is None
    assert capsys.readouterr().out == ''


def test_drawing_waits_and_the_last_picture_is_whole(monkeypatch):
    shown = []

    class Place:
        def update(self, fig):
            shown.append(fig)

    monkeypatch.setattr(monitoring, 'in_notebook', lambda: True)
    monkeypatch.setattr('IPython.display.display', lambda fig, display_id: shown.append(fig) or Place())
    curves = Curves(200, every=1e9)
    for step in range(1, 201):
        curves({'step': step, 'terms': {'mlm': 5 / step, 'distillation': 1 / step}})
    curves({'step': 200, 'valid': {'mlm': 0.1}})
    assert len(shown) == 3  # the first, and both records of the last step
    mlm, distillation = shown[-1].axes
    assert (
        [len(line.get_xdata()) for line in mlm.lines] == [200, 1]
        and len(distillation.lines) == 1
        and mlm.get_xlim() == (0, 200)
    )
    assert curves.due > 1e8


def test_a_picture_of_no_records():
    assert len(plot_losses([]).axes) == 1


def test_without_a_notebook_nothing_is_drawn():
    code = "import sys\nfrom vidlankd_nb.monitoring import Curves\nc = Curves(1); c({'step': 1, 'terms': {'mlm': 1.}})\nassert c.place is None and len(c.records) == 1 and 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)


def test_in_a_kernel_one_picture_is_left():
    code = "from vidlankd_nb.monitoring import Curves\nc = Curves(4, every=0)\nfor k in range(1, 5): c({'step': k, 'terms': {'mlm': 1/k}})"
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(page, timeout=120, kernel_name='python3').execute()
    assert [sorted(o['data']) for o in page.cells[0].outputs] == [['image/png', 'text/plain']]
