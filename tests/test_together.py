"""A run of text alone with a teacher from elsewhere, its students side by side or one after another, killed between two checkpoints."""

import json
import shutil
import signal
import sys

import pytest
from support.text_teachers import save_teacher
from support.trainings import CLI, agree, call, here, log, refused, together, weights

from vidlankd_nb.config import samples
from vidlankd_nb.corpus import read_lines

LINES = list(read_lines(samples() / 'toyworld' / 'text' / 'corpus.txt'))[:300]
STUDENTS = ('text_only', 'l2', 'nst', 'crd', 'infonce', 'sentence')


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "A folder with a text, a CLIP and a run of them, one student after another; and the words of the run."
    folder = tmp_path_factory.mktemp('alone')
    (folder / 'text.txt').write_text('\n'.join(LINES), encoding='utf-8')
    save_teacher(folder / 'clip', 'clip', LINES)
    students = {name: {'objective': name, 'teacher': str(folder / 'clip')} for name in STUDENTS}
    students['text_only'] = {'objective': 'none'}
    words = [
        *('--config', 'quick', '--controls', '{}', '--students', json.dumps(students)),
        *('--data.text', json.dumps([str(folder / 'text.txt')]), '--corpus.valid_share', '0.2'),
        *('--student.steps', '6', '--student.batch', '8', '--student.save_every', '2'),
        *('--student.text.dropout', '0.1', '--student.keep', '9'),
    ]
    said = call(*CLI, 'run', *words, '--out', folder / 'run').stdout
    return folder, words, said


def test_a_run_of_text_alone_ends_with_a_report_and_says_what_it_left_out(alone):
    folder, words, said = alone
    done = sorted(p.stem for p in (folder / 'run' / 'stages').iterdir())
    assert done == ['corpus', 'evaluate', 'report', 'student', 'views']
    left_out = [line for line in said.splitlines() if line.startswith('left out: ')]
    assert len(left_out) == 1 and 'world, features, pairs, teacher, ground: data.text' in left_out[0]
    report = json.loads((folder / 'run' / 'report.json').read_text(encoding='utf-8'))
    assert 'teacher' not in report and list(report['students']) == list(STUDENTS)
    page = (folder / 'run' / 'report.html').read_text(encoding='utf-8')
    assert 'What was left out' in page and 'world, features, pairs, teacher, ground' in page
    for name in STUDENTS:
        last = [r['valid']['mlm'] for r in log(folder / 'run' / 'students' / name) if 'valid' in r][-1]
        assert report['students'][name]['mlm_loss'] == last
        assert f'{name} {last:.2f}' in page


def test_what_needs_clips_is_refused_where_there_is_text_alone(alone, tmp_path):
    folder, words, _ = alone
    ask = [*CLI, 'run', *words, '--out', tmp_path / 'none']
    assert "'ground' needs something to see" in refused(*CLI, 'ground', folder / 'run', '--text', 'a dog')
    said = refused(*ask, '--students', '{mine: {objective: l2}}')
    assert "'mine' learns from the teacher 'video'" in said and 'data.videos' in said
    assert "'voken'" in refused(*ask, '--students', '{voken: {objective: voken}}')
    assert 'names no students' in refused(*ask, '--students', '{}')
    assert 'corpus.captions is true' in refused(*ask, '--corpus.captions', 'true')
    said = refused(*CLI, 'pairs', *words, '--out', tmp_path / 'none')
    assert "'pairs' needs something to see" in said
    assert not (tmp_path / 'none' / 'corpus').exists()


@pytest.mark.parametrize(
    'where', ['vidlankd_nb.training:optimizer_step 15', 'vidlankd_nb.checkpoints:Checkpoints.save 9']
)
def test_students_side_by_side_are_those_of_one_after_another(alone, tmp_path, where):
    "Bit for bit, dropout, a bank and a text-only student included, after a kill in a step and between two checkpoints of one step."
    folder, words, _ = alone
    words = [*words, '--student.together', 'true', '--out', tmp_path / 'run']
    call(*CLI, 'corpus', *words)
    call(*CLI, 'views', *words)
    dies = [sys.executable, here / 'support' / 'dies_at.py', *where.split()]
    call(*dies, 'student', *words, code=-signal.SIGKILL)
    said = call(*CLI, 'student', *words).stdout
    assert 'side by side: text_only, l2, nst, crd, infonce' in said and 'side by side: sentence' in said
    for name in STUDENTS:
        mine, theirs = (at / 'students' / name for at in (tmp_path / 'run', folder / 'run'))
        assert (mine / 'model.safetensors').read_bytes() == (theirs / 'model.safetensors').read_bytes(), name
        assert log(mine) == log(theirs), name
    assert 'student: done before' in call(*CLI, 'student', *words, '--student.together', 'false').stdout


def test_the_student_that_breaks_is_named(alone, tmp_path):
    folder, words, _ = alone
    broken = [*words, '--student.together', 'true', '--student.stop_norm', '1e-9', '--out', tmp_path / 'run']
    said = refused(*CLI, 'run', *broken)
    assert 'text_only: Step 1: gradient norm is ' in said, said


def test_what_differs_is_named(alone, tmp_path):
    folder, words, _ = alone
    layers = {n: {'objective': 'l2', 'teacher': str(folder / 'clip'), 'layer': n} for n in ('1', 'last')}
    students = json.dumps({f'layer_{name}': cfg for name, cfg in layers.items()})
    words = [*words, '--students', students, '--student.together', 'true', '--out', tmp_path / 'run']
    assert "'layer_1' and 'layer_last'" in (said := refused(*CLI, 'run', *words))
    assert "differ in layer: '1' and 'last'" in said


def test_another_teacher_joins_a_run(alone, tmp_path):
    "Nothing that was made is thrown away: its view lies beside the first one's."
    folder, words, _ = alone
    shutil.copytree(folder / 'run', tmp_path / 'run')
    save_teacher(tmp_path / 'short', 'bert', LINES, limit=20)
    students = json.loads(words[words.index('--students') + 1])
    students['short'] = {'objective': 'l2', 'teacher': str(tmp_path / 'short')}
    more = [*words, '--students', json.dumps(students), '--out', tmp_path / 'run']
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'run').rglob('*') if p.suffix == '.arrow'}
    said = call(*CLI, 'run', *more).stdout
    assert 'short' in said and 'corpus: done before' in said
    assert len(list((tmp_path / 'run' / 'views').glob('*/view.json'))) == 2
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (tmp_path / 'run' / 'students' / 'short' / 'model.safetensors').exists()


def test_two_processes_train_side_by_side_what_one_does(alone, tmp_path):
    "To rounding, with dropout off."
    folder, words, _ = alone
    words = [*words, '--student.text.dropout', '0', '--student.together', 'true']
    for name in ('one', 'two'):
        ask = [*words, '--out', tmp_path / name]
        call(*CLI, 'corpus', *ask)
        call(*CLI, 'views', *ask)
    call(*CLI, 'student', *words, '--out', tmp_path / 'one')
    together(2, '-m', 'vidlankd_nb.cli', 'student', *words, '--out', tmp_path / 'two')
    for name in STUDENTS:
        one, two = (weights(tmp_path / at / 'students' / name) for at in ('one', 'two'))
        agree(one, two, name, 2e-4)
