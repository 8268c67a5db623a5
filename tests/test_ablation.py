"""The grid through the command line: wrong keys, a kill in the middle, reuse, a failed cell, locks, inputs that change."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from vidlankd_nb import ablation, cli
from vidlankd_nb.ablation import check_grid, clear, open_grid, run_cell, write_cells
from vidlankd_nb.cells import CellRun, artifacts_of, cell_file, state_of
from vidlankd_nb.grids import read_grid
from vidlankd_nb.jobs import Job, changed, next_job, record_of
from vidlankd_nb.presets import load_run, to_yaml

BASE = [sys.executable, '-m', 'vidlankd_nb.cli', 'ablate']
ENV = os.environ | {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
GRID = """
objectives:
  text_only: {objective: none}
  l2: {objective: l2, weight: 5, head: linear}
  teacher: {model: teacher}
controls:
  lost: {objective: l2, teacher: no/such/folder}
"""
SMALL = dict(
    world__noun_clips=192,
    world__generic_clips=40,
    world__two_event_clips=0,
    world__sentences=200,
    teacher__steps=60,
    teacher__save_every=2,
    student__steps=6,
    student__save_every=2,
    evaluation__finetune_steps=2,
)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Configuration and grid as files."
    folder = tmp_path_factory.mktemp('grid')
    (folder / 'small.yaml').write_text(to_yaml(load_run('quick', **SMALL)), encoding='utf-8')
    (folder / 'grid.yaml').write_text(GRID, encoding='utf-8')
    return folder


def words(files, out, *more):
    return [
        '--config',
        str(files / 'small.yaml'),
        '--grid',
        str(files / 'grid.yaml'),
        '--seeds',
        '1',
        '--out',
        str(out),
        *map(str, more),
    ]


def refused(capsys, *args):
    "Standard error of a command that must end with exit code 2 and one sentence."
    with pytest.raises(SystemExit) as e:
        cli.main(['ablate', *map(str, args)])
    said = capsys.readouterr().err
    assert e.value.code == 2 and len(said.strip().splitlines()) == 1, said
    return said


@pytest.fixture(scope='module')
def killed(files):
    "A grid whose command was killed by SIGKILL in the middle of the teacher's training, and then finished by the same command."
    out = files / 'out'
    p = subprocess.Popen(
        [*BASE, *words(files, out, '--processes', 2)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENV,
    )
    began = time.monotonic()
    while (
        not list(out.glob('store/teacher-*/checkpoints/step-*'))
        and p.poll() is None
        and time.monotonic() - began < 1200
    ):
        time.sleep(0.002)
    assert list(out.glob('store/teacher-*/checkpoints/step-*')), 'no checkpoint came to be'
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert (
        json.loads((out / 'clock.json').read_text(encoding='utf-8'))['seconds'] > 0
    )  # what a killed command took counts
    while time.monotonic() - began < 1500:  # its processes leave by themselves
        try:
            for lock in out.glob('cells/.*.lock'):
                with open(lock, encoding='utf-8') as f:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.05)
    else:
        pytest.fail('a cell of a killed grid is still running')
    again = subprocess.run(
        [*BASE, *words(files, out, '--processes', 2)],
        capture_output=True,
        env=ENV,
        encoding='utf-8',
    )
    return out, again


def cells_of(files):
    return load_run(files / 'small.yaml', students={}, controls={}), {
        c.name: c for c in read_grid(files / 'grid.yaml')
    }


def test_a_failed_cell_is_shown_and_the_others_go_on(killed):
    out, again = killed
    assert (
        again.returncode == 2
        and 'lost (seed 0)' in again.stderr
        and 'no/such/folder' in again.stderr
        and 'Traceback' not in again.stderr
    ), again.stderr
    report = json.loads((out / 'report.json').read_text(encoding='utf-8'))
    assert {c['name']: c['status'] for c in report['cells']} == {
        'text_only': 'done',
        'l2': 'done',
        'teacher': 'done',
        'lost': 'failed',
    }
    assert 'no/such/folder' in report['cells'][3]['failed']['0'] and 'no/such/folder' in (
        out / 'report.html'
    ).read_text(encoding='utf-8')
    assert (
        report['command'].startswith('vidlankd ablate --config')
        and report['cells'][2]['metrics']['retrieval.r1']['n'] == 1
    )
    assert (
        '*' not in ''.join(report['cells'][1]['name'])
        and not report['cells'][1]['against']['text_only']['property']['star']
    )


def test_after_a_kill_the_figures_are_those_of_an_uninterrupted_run(killed, files, tmp_path):
    (out, _), (base, cells) = killed, cells_of(files)
    alone = run_cell(cells['l2'], base, 0, tmp_path / 'alone', say=lambda text: None)
    assert alone['result'] == json.loads(cell_file(out, 'l2', 0).read_text(encoding='utf-8'))['result']


def test_shared_work_is_done_once(killed):
    out, _ = killed
    kinds = [json.loads(f.read_text(encoding='utf-8'))['unit'] for f in out.glob('store/*.json')]
    assert sorted(kinds) == ['corpus', 'features', 'pairs', 'student', 'student', 'teacher', 'world']
    made = [
        u for f in out.glob('cells/*.json') for u in json.loads(f.read_text(encoding='utf-8')).get('made', {})
    ]
    assert len(made) == len(set(made) - {'student'}) + made.count('student')
    assert not list(out.glob('store/*/checkpoints'))


def test_a_finished_grid_is_not_run_again(killed, files, capsys):
    out, _ = killed
    before = {f: f.stat().st_mtime_ns for f in out.glob('store/*/*.safetensors')}
    cli.main(['ablate', *words(files, out, '--cell', 1)])
    assert 'done before' in capsys.readouterr().out
    cli.main(['ablate', *words(files, out, '--table')])
    table = capsys.readouterr().out
    assert 'failed' in table and '3 of 4 done' in table
    assert before == {f: f.stat().st_mtime_ns for f in out.glob('store/*/*.safetensors')}


def test_locks(killed, files, capsys):
    out, _ = killed
    with open(out / '.lock', 'w', encoding='utf-8') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert 'in use by another process' in refused(capsys, *words(files, out))
    with open(out / 'cells' / '.lost-seed-0.lock', 'w', encoding='utf-8') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert 'is being run by another process' in refused(capsys, *words(files, out, '--cell', 3))


def everything_in(folder):
    "Every file with what it holds, locks left out, which hold nothing."
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob('*'))
        if f.is_file() and '.lock' not in f.name
    }


def test_nothing_is_written_by_a_command_that_only_reads_or_is_refused(files, tmp_path, capsys):
    "A running grid's cells are told to their processes by number: another list in their folder sends these elsewhere."
    out = tmp_path / 'out'
    other = tmp_path / 'other.yaml'
    other.write_text('other: {x: {objective: none}, y: {objective: none}}', encoding='utf-8')
    with_other = ['--config', files / 'small.yaml', '--grid', other, '--seeds', '2', '--out', out]
    cli.main(['ablate', *map(str, with_other), '--table'])
    assert '0 of 4 done' in capsys.readouterr().out and not out.exists()
    assert '0 to 3' in refused(capsys, *with_other, '--cell', 4) and not out.exists()
    cells = list(cells_of(files)[1].values())
    open_grid(load_run(files / 'small.yaml', students={}, controls={}), out)
    write_cells(cells, out)
    cell_file(out, 'x', 0).write_text(
        '{"status": "done", "version": "0.0.1", "result": {}}', encoding='utf-8'
    )
    before = everything_in(out)
    assert {'base.yaml', 'grid.yaml'} < before.keys()
    assert [c.name for c in read_grid(out / 'grid.yaml')] == [c.name for c in cells]
    cli.main(['ablate', *map(str, with_other), '--table'])
    assert 'made by version 0.0.1' in refused(capsys, *with_other)
    assert 'made by version 0.0.1' in refused(capsys, *with_other, '--cell', 0)
    assert '0 to 3' in refused(capsys, *with_other, '--cell', 4)
    assert 'another configuration' in refused(capsys, *with_other, '--student.steps', 7)
    with open(out / '.lock', 'w', encoding='utf-8') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert 'in use by another process' in refused(capsys, *with_other, '--again')
    assert everything_in(out) == before


def test_cells_that_were_not_run_are_named_at_the_end(files, tmp_path, capsys, monkeypatch):
    "Whatever their processes say."
    does_nothing = [sys.executable, '-c', "print('done before')"]

    def jobs(todo, *others):
        return [Job((cell.name, seed), does_nothing) for _, cell, seed in todo]

    monkeypatch.setattr(ablation, 'grid_jobs', jobs)
    said = refused(capsys, *words(files, tmp_path / 'out', '--first-seed', 5))
    assert '4 of 4 cells failed' in said and 'text_only (seed 5)' in said and 'done before' in said


def test_inputs_that_changed_are_named_and_made_anew_when_asked(killed, files, capsys):
    (out, _), (base, cells) = killed, cells_of(files)
    x = CellRun(cells['l2'], base, 0, out / 'store')
    model = x.path('teachers', 'video') / 'model.safetensors'
    os.utime(model, (1, 1))
    assert changed(model.parent) is None  # another time, the same content
    first, data = (
        json.loads(cell_file(out, 'l2', 0).read_text(encoding='utf-8')),
        bytearray(model.read_bytes()),
    )
    data[-1] ^= 1
    model.write_bytes(data)
    said = refused(capsys, *words(files, out))
    assert (
        "cell 'l2', seed 0" in said
        and 'model.safetensors' in said
        and 'Nothing was run' in said
        and 'text_only' not in said
    )
    found = {(c, 0): state_of(c, base, 0, out) for c in cells.values()}
    clear(found, base, out)
    assert (
        state_of(cells['text_only'], base, 0, out)['status'] == 'done'
        and state_of(cells['l2'], base, 0, out)['status'] == 'waiting'
    )
    assert cell_file(out, 'l2', 0).with_suffix('.before').exists()
    anew = run_cell(cells['l2'], base, 0, out, say=lambda text: None)
    assert list(anew['made']) == ['teacher', 'student'] and anew['result'] == first['result']


def test_a_cell_whose_definition_changed(killed, files, capsys):
    out, _ = killed
    other = files / 'other.yaml'
    other.write_text(
        GRID.replace('text_only: {objective: none}', 'text_only: {objective: none, student.steps: 5}'),
        encoding='utf-8',
    )
    said = refused(capsys, '--config', files / 'small.yaml', '--grid', other, '--seeds', '1', '--out', out)
    assert "cell 'text_only', seed 0" in said and "'student'" in said
    assert 'another configuration (student.steps' in refused(capsys, *words(files, out, '--student.steps', 7))


@pytest.mark.parametrize(
    'grid, said',
    [
        ('a: {b: {objective: l2, teacher.frozen_vide: true}}', "did you mean 'teacher.frozen_video'?"),
        ('a: {b: {objectiv: l2}}', "did you mean 'objective'?"),
        ('a: {b: {objective: l3}}', "No objective 'l3'"),
        ('a: {b: {objective: l2, options: {wait: 1}}}', 'wait'),
        ('a: {b: {objective: none, student.steps: many}}', 'a whole number is expected'),
        ('a: {b: {objective: none}}\nc: {b: {objective: none}}', "two cells named 'b'"),
        ('a: [b, c]', 'tables of cells are expected'),
        ('a: {../b: {objective: none}}', "a name is made of"),
        ('a: {b: {unfinished', 'is not valid YAML'),
    ],
)
def test_wrong_grids_are_refused_before_anything_runs(grid, said, tmp_path, capsys):
    (tmp_path / 'g.yaml').write_text(grid, encoding='utf-8')
    assert said in refused(
        capsys, '--config', 'quick', '--grid', tmp_path / 'g.yaml', '--out', tmp_path / 'out'
    )
    assert not (tmp_path / 'out' / 'cells').exists()


def test_wrong_words(tmp_path, capsys):
    assert "did you mean 'smallest'" in refused(
        capsys, '--config', 'quick', '--grid', 'smalest', '--out', tmp_path / 'o'
    )
    assert 'needs --config' in refused(capsys, '--grid', 'paper')
    assert 'needs --grid' in refused(capsys, '--config', 'quick')
    assert '--seeds must be 1 or more' in refused(
        capsys, '--config', 'quick', '--grid', 'paper', '--seeds', '0'
    )
    assert '0 to 44' in refused(
        capsys, '--config', 'quick', '--grid', 'smallest', '--out', tmp_path / 'o', '--cell', '45'
    )
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'precious.txt').write_text('x', encoding='utf-8')
    assert 'Nothing was written' in refused(
        capsys, '--config', 'quick', '--grid', 'paper', '--out', tmp_path / 'mine'
    )


def test_slurm_line(capsys):
    cli.main(['ablate', '--config', 'tiny', '--grid', 'smallest', '--seeds', '3', '--slurm'])
    assert (
        capsys.readouterr().out.strip()
        == 'sbatch --array 0-44 scripts/ablate.slurm --config tiny --grid smallest --seeds 3'
    )


def test_every_grid_of_the_package_names_what_exists(tmp_path):
    for grid in ('smallest', 'controls', 'hours', 'paper', 'nst'):
        assert check_grid(read_grid(grid), load_run('tiny', students={}, controls={}), [0], tmp_path / grid)


def test_the_next_cell_is_one_that_waits_for_nobody(tmp_path):
    a, b, c = (tmp_path / n for n in 'abc')
    record_of(a).write_text('{}', encoding='utf-8')
    assert next_job({'x': [a, b], 'y': [a, c]}, {'z': [a, b]}) == 'y'
    assert next_job({'x': [a, b]}, {'z': [a, b]}) == 'x'
    assert next_job({}, {}) is None


def test_a_file_of_ones_own_that_changes_makes_another_cell(tmp_path):
    "The name of a caption file is not its content."
    (tmp_path / 'c.json').write_text('{}', encoding='utf-8')
    (tmp_path / 't.txt').write_text('one line\n', encoding='utf-8')
    own = load_run(
        'quick',
        data__captions=str(tmp_path / 'c.json'),
        data__text=[str(tmp_path / 't.txt')],
        students={},
        controls={},
    )
    cell = read_grid('smallest')[0]
    keys = lambda: [a.folder.name for a in artifacts_of(CellRun(cell, own, 0, tmp_path))]
    first = keys()
    os.utime(tmp_path / 't.txt', (1, 1))
    assert keys() == first
    (tmp_path / 't.txt').write_text('another line\n', encoding='utf-8')
    assert keys() != first
