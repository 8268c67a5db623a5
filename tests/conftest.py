import pytest
from trainings import CLI, SMALL, STAGES, call


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
    "A run of `SMALL` up to the teacher; trainings of students start from copies of it."
    folder = tmp_path_factory.mktemp('runs')/'prepared'
    call(CLI[0], '-c', 'import sys\nfrom vidlankd_nb.cli import main\nfor stage in sys.argv[1].split(): main([stage, *sys.argv[2:]])', ' '.join(STAGES), *SMALL, '--out', folder)
    return folder
