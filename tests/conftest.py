import gc
import os
from pathlib import Path

gc.set_threshold(20_000)  # looking for garbage among a million objects of libraries took a tenth of the time

# equal bits are what a processor promises; CUDA_VISIBLE_DEVICES=0 uses a GPU
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')

import pytest
import torch
from support.trainings import CLI, SMALL, STAGES, call

# The files that take longest, in seconds; they begin, so that both processes end together.
LONG = {
    'test_cluster.py': 114,
    'test_training.py': 86,
    'test_cli.py': 81,
    'test_presets.py': 80,
    'test_ablation.py': 65,
    'test_docs.py': 64,
    'test_finetuning.py': 45,
    'test_engine.py': 43,
    'test_machines.py': 42,
    'test_browser.py': 42,
    'test_video.py': 41,
}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: -LONG.get(Path(item.path).name, 0))


def pytest_addoption(parser):
    parser.addoption(
        '--every-page',
        action='store_true',
        help="run every page of the course in JupyterLab, cell by cell (about a quarter of an hour)",
    )
    parser.addoption(
        '--photographs',
        metavar='FOLDER',
        help="keep the pages' screenshots and the seconds of their cells here",
    )


@pytest.fixture(scope='module')
def one_thread():
    "One processor thread for the tests of a file."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
    "A run of `SMALL` up to the teacher; trainings of students start from copies of it."
    folder = tmp_path_factory.mktemp('runs') / 'prepared'
    call(
        CLI[0],
        '-c',
        'import sys\nfrom vidlankd_nb.cli import main\nfor stage in sys.argv[1].split(): main([stage, *sys.argv[2:]])',
        ' '.join(STAGES),
        *SMALL,
        '--out',
        folder,
    )
    return folder
