"""Students that read a teacher's states from the disk: no forward pass, a kill in mid-write, another teacher, and a disk that is too small."""

import json
import signal
import sys

import pytest
from support.text_teachers import save_teacher
from support.trainings import CLI, call, here, log, refused

from vidlankd_nb.config import samples
from vidlankd_nb.corpus import read_lines

LINES = list(read_lines(samples() / 'toyworld' / 'text' / 'corpus.txt'))[:300]
OBJECTIVES = ('l2', 'nst', 'crd', 'sentence')


def words_of(folder, teacher='clip'):
    "A run of text alone with a CLIP, of four steps."
    students = {name: {'objective': name, 'teacher': str(folder / teacher)} for name in OBJECTIVES}
    return [
        *('--config', 'quick', '--controls', '{}', '--students', json.dumps(students)),
        *('--data.text', json.dumps([str(folder / 'text.txt')]), '--corpus.valid_share', '0.2'),
        *('--student.steps', '4', '--student.batch', '8', '--student.save_every', '2'),
    ]


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    "Text, a CLIP, and a run whose students read it without a cache."
    folder = tmp_path_factory.mktemp('begun')
    (folder / 'text.txt').write_text('\n'.join(LINES), encoding='utf-8')
    save_teacher(folder / 'clip', 'clip', LINES)
    plain = [*words_of(folder), '--student.log_every', '1', '--out', folder / 'plain']
    prepare(folder, plain)
    call(*CLI, 'student', *plain)
    return folder


def prepare(folder, words):
    for stage in ('corpus', 'views'):
        call(*CLI, stage, *words)


@pytest.mark.parametrize('kind, bound', [('float16', 2e-3), ('int8', 3e-2)])
def test_students_from_a_cache_are_those_of_their_teacher_to_rounding(begun, tmp_path, kind, bound):
    "Losses of the first step, which no difference of weights has touched yet; and the second start asks no teacher at all."
    cache = ['--states-cache', begun / f'cache-{kind}', '--student.states_type', kind]
    words = [*words_of(begun), *cache, '--student.log_every', '1', '--out', tmp_path / 'run']
    prepare(begun, words)
    said = call(*CLI, 'student', *words).stdout
    assert said.count(f'numbers in {kind}, about') == 1
    for name in OBJECTIVES:
        mine, theirs = (log(at / 'students' / name)[0] for at in (tmp_path / 'run', begun / 'plain'))
        assert mine['terms'].keys() == theirs['terms'].keys()
        for term, loss in theirs['terms'].items():
            assert mine['terms'][term] == pytest.approx(loss, rel=bound), (name, term)


ASKS_NOBODY = """
import sys
from vidlankd_nb.cli import main
from vidlankd_nb.text_teachers import TextTeacher

def asked(*args, **kwargs):
    sys.exit('a teacher was asked')

TextTeacher._run = asked
main(sys.argv[1:])
"""


def test_from_a_full_cache_nobody_is_asked(begun, tmp_path):
    words = [*words_of(begun), '--states-cache', begun / 'cache-counted', '--out']
    for at in ('first', 'second'):
        prepare(begun, [*words, tmp_path / at])
    said = call(CLI[0], '-c', ASKS_NOBODY, 'student', *words, tmp_path / 'second', code=1).stderr
    assert 'a teacher was asked' in said
    call(*CLI, 'student', *words, tmp_path / 'first')
    call(CLI[0], '-c', ASKS_NOBODY, 'student', *words, tmp_path / 'second')
    for name in OBJECTIVES:
        files = [tmp_path / at / 'students' / name / 'model.safetensors' for at in ('first', 'second')]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_kill_in_mid_write_costs_a_shard(begun, tmp_path):
    words = [*words_of(begun), '--states-cache', tmp_path / 'cache', '--out', tmp_path / 'run']
    prepare(begun, words)
    dies = [sys.executable, here / 'support' / 'dies_at.py', 'vidlankd_nb.cached_states:_record_batch', 5]
    call(*dies, 'student', *words, code=-signal.SIGKILL)
    (folder,) = (tmp_path / 'cache').iterdir()
    before = {file: file.stat().st_mtime_ns for file in folder.glob('*.arrow') if file.name[0] != '.'}
    assert before and not (folder / 'states.json').exists()
    call(*CLI, 'student', *words)
    assert (folder / 'states.json').exists()
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_what_cannot_be_read_from_a_cache_is_one_sentence(begun, tmp_path, monkeypatch):
    words = [*words_of(begun), '--states-cache', tmp_path / 'cache']
    prepare(begun, [*words, '--out', tmp_path / 'run'])
    call(*CLI, 'student', *words, '--out', tmp_path / 'run')
    (begun / 'text.txt').write_text('\n'.join(LINES[:-1]), encoding='utf-8')
    try:
        prepare(begun, [*words, '--out', tmp_path / 'other'])
        said = refused(*CLI, 'student', *words, '--out', tmp_path / 'other')
    finally:
        (begun / 'text.txt').write_text('\n'.join(LINES), encoding='utf-8')
    assert 'holds states of something else (text is ' in said and 'choose another folder' in said
    from vidlankd_nb import cached_states
    from vidlankd_nb.files import UserError

    monkeypatch.setattr(cached_states.shutil, 'disk_usage', lambda _: type('Disk', (), {'free': 1000}))
    with pytest.raises(UserError, match='GB are free: choose another folder, int8'):
        cached_states.check_room(tmp_path, 2000)
