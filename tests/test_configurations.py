"Keys that are given twice, and old names wherever a configuration may hold them."

import json
from pathlib import Path

import pytest
from support.trainings import CLI, refused

from vidlankd_nb.evaluation.results import read_published
from vidlankd_nb.files import UserError
from vidlankd_nb.grids import read_grid
from vidlankd_nb.presets import load_run, parse_run


def in_file(folder, text, name='mine.yaml'):
    file = folder / name
    file.write_text(text, encoding='utf-8')
    return file


TWICE = [  # a file, the key, its line and the line where it is first
    ('student: {lr: 1e-3, lr: 2e-3}', 'student.lr', 1, 1),
    ('student:\n  lr: 1e-3\n  steps: 3\n  lr: 1e-3\n', 'student.lr', 4, 2),
    ('student: {steps: 3}\nseed: 1\nstudent: {lr: 1}\n', 'student', 3, 1),
    ('student:\n  text:\n    "layers": 1\n    layers: 2\n', 'student.text.layers', 4, 3),
    ('{teacher.lr: 1, teacher: {lr: 2}}', 'teacher.lr', 1, 1),
    ('teacher.lr: 1\nteacher:\n  lr: 2\n', 'teacher.lr', 3, 1),
    ('teacher:\n  text: {layers: 2}\nteacher.text.layers: 3\n', 'teacher.text.layers', 3, 2),
    ('students:\n  a: {objective: none}\n  a: {objective: l2}\n', 'students.a', 3, 2),
    ('students:\n  a: {objective: l2, options: {x: [{y: 1, y: 2}]}}', 'students.a.options.x.y', 2, 2),
]


@pytest.mark.parametrize('text, key, line, first', TWICE)
def test_a_key_that_a_file_has_twice_is_refused_with_its_line(text, key, line, first, tmp_path):
    file = in_file(tmp_path, text)
    again = f"'{key}' is given twice" if line == first else f"'{key}' is given again (first in line {first})"
    with pytest.raises(UserError) as e:
        load_run('quick', file)
    assert str(e.value).startswith(f'{file}, line {line}: {again}')


def test_what_is_merged_may_be_said_otherwise(tmp_path):
    "`<<` brings values that a mapping's own keys replace: that is what it is for."
    file = in_file(tmp_path, 'teacher: &t {lr: 3e-3, steps: 7}\nstudent: {<<: *t, lr: 5e-4}\n')
    run = load_run('quick', file)
    assert (run.student.lr, run.student.steps, run.teacher.lr) == (5e-4, 7, 3e-3)


def test_a_key_is_refused_twice_in_every_file_and_value(tmp_path):
    grid = in_file(tmp_path, 'a:\n  x: {objective: none}\na:\n  y: {objective: none}\n')
    section = in_file(tmp_path, 'lr: 1e-3\nlr: 5e-3\n', 'teacher.yaml')
    within = in_file(tmp_path, f'teacher: {json.dumps(str(section))}\n', 'within.yaml')
    published = in_file(tmp_path, 'rte: {BERT: 1}\nrte: {BERT: 2}\n', 'published.yaml')
    for read, what in (
        (read_grid, grid),
        (read_published, published),
        (load_run, within),
        (parse_run, ['--teacher', str(section)]),
        (parse_run, [f'--teacher={section}']),
        (parse_run, ['--teacher', '{lr: 1, lr: 2}']),
        (parse_run, ['--students', '{a: {objective: none}, a: {objective: l2}}']),
        (parse_run, ['--students.a', '{objective: l2, objective: none}']),
        (parse_run, ['--student.text={layers: 3, layers: 4}']),
    ):
        with pytest.raises(UserError, match='is given (again|twice)'):
            read(what)
    assert parse_run(['--data.template', '{name} is here'])[0].data.template == '{name} is here'


OLD = [  # a configuration, and the norms of teacher and student
    ('teacher: &t {clip: 3.0}\nstudent: *t\n', 3, 3),
    ('student: {<<: &b {clip: 3.0}, lr: 1e-3}\nteacher: {<<: *b}\n', 3, 3),
    ('student: {<<: [&b {clip: 3.0}, {clip: 2.0}]}\nteacher: {<<: [{lr: 1}, *b]}\n', 3, 3),
    ('teacher: &t {clip: 3.0}\nstudent: {<<: *t, max_grad_norm: 2.0}\n', 3, 2),
    ('teacher: {"clip": 3.0}\n', 3, 1),
    ('teacher.clip: 3.0\nstudent: {clip: 2.0}\n', 3, 2),
    ('student: &s\n  clip: 0.5\n  lr: 1e-3\n', 1, 0.5),
]


@pytest.mark.parametrize('text, teacher, student', OLD)
def test_an_old_name_is_read_inside_what_is_repeated_and_merged(text, teacher, student, tmp_path, capsys):
    run = load_run('quick', in_file(tmp_path, text))
    assert (run.teacher.max_grad_norm, run.student.max_grad_norm) == (teacher, student)
    assert "clip' is called" in capsys.readouterr().err


def test_an_old_name_is_read_in_a_section_of_its_own(tmp_path, capsys):
    section = in_file(tmp_path, 'lr: 2e-3\nclip: 3.0\n', 'teacher.yaml')
    within = in_file(tmp_path, f'teacher: {json.dumps(str(section))}\nseed: 4\n')
    for words in (
        ['--config', str(within)],
        ['--teacher', str(section)],
        [f'--teacher={section}'],
        ['--teacher', '{lr: 2e-3, clip: 3.0}'],
    ):
        run, _ = parse_run(words)
        assert (run.teacher.max_grad_norm, run.teacher.lr) == (3.0, 2e-3), words
        assert "'teacher.clip' is called 'teacher.max_grad_norm' now" in capsys.readouterr().err, words


def test_an_old_name_beside_its_new_one_is_refused(tmp_path):
    file = in_file(tmp_path, 'student:\n  clip: 1.0\n  max_grad_norm: 2.0\n')
    with pytest.raises(UserError) as e:
        load_run('quick', file)
    assert str(e.value).startswith(
        f"{file}, line 2: 'student.clip' is the old name of 'student.max_grad_norm'"
    )
    for words in (
        ['--student.clip', '2', '--student.max_grad_norm', '3'],
        ['--student.max_grad_norm=3', '--student.clip=2'],
        ['--student', '{clip: 1, max_grad_norm: 2}'],
    ):
        with pytest.raises(UserError, match="'student.clip' is the old name of 'student.max_grad_norm'"):
            parse_run(words)


def test_an_old_option_of_a_fine_tuning_beside_its_new_one_is_refused():
    from vidlankd_nb.arguments import command_parser, file_words
    from vidlankd_nb.cli import FILES

    words = ['MODEL', '--tasks', 'rte', '--out', 'results', '--clip', '2', '--max_grad_norm=3']
    with pytest.raises(UserError, match="'clip' is the old name of 'max_grad_norm'"):
        file_words(words, command_parser('evaluate', '', FILES['evaluate']), FILES['evaluate'])


PAST_THE_LAST = 2**64  # PyTorch's seeds are numbers of 64 bits

OUT_OF_RANGE = [
    ('seed', PAST_THE_LAST),
    ('seed', -1),
    ('threads', 10**11),
    ('teacher.adam_eps', -1.0),
    ('student.adam_eps', float('nan')),
    ('teacher.margin', float('nan')),
    ('teacher.margin', -1.0),
    ('teacher.temperature', float('inf')),
    ('teacher.epochs', float('inf')),
    ('teacher.word_temperature', float('inf')),
    ('world.fps', float('inf')),
    ('features.fps', float('inf')),
    ('features.seconds', float('inf')),
    ('corpus.block', 3),
    ('corpus.block', -5),
]


@pytest.mark.parametrize('key, value', OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_when_it_is_read(key, value):
    with pytest.raises(UserError) as e:
        load_run(
            'quick', **{key.replace('.', '__'): str(value).replace('inf', '.inf').replace('nan', '.nan')}
        )
    assert str(e.value).startswith(f'{key} is {value}; it must be ')


def test_a_decay_without_end_is_refused():
    with pytest.raises(UserError, match='student.decay_epochs is inf; it must be'):
        load_run('quick', student__epochs=1, student__decay_epochs='.inf')


def test_the_largest_numbers_that_mean_something_are_read():
    run = load_run('quick', seed=2**64 - 1, student__max_grad_norm='.inf', student__stop_norm='.inf')
    assert (run.seed, run.student.max_grad_norm) == (2**64 - 1, float('inf'))


def test_a_seed_out_of_range_is_refused_by_every_command(tmp_path):
    "Before anything is read or made: the files that are named here are nowhere."
    out = str(tmp_path / 'out')
    asked = ['evaluate', 'no/model', '--tasks', 'toy', '--out', out]
    for words in (
        ['run', '--config', 'quick', '--out', out, '--seed', PAST_THE_LAST],
        ['ablate', '--config', 'quick', '--grid', 'nst', '--out', out, '--first-seed', PAST_THE_LAST - 2],
        ['demo', '--out', out, '--first-seed', PAST_THE_LAST - 1],
        ['vocabulary', 'no.json', 'no.txt', '--out', out, '--seed', -1],
        ['vocabulary', 'no.json', 'no.txt', '--out', out, '--seed', PAST_THE_LAST],
        ['probe', 'no/model', '--tasks', 'norms', '--data', 'nowhere', '--seed', -1],
        [*asked, '--first_seed', PAST_THE_LAST - 4],
        [*asked, '--held_out_seed', -1],
    ):
        said = refused(*CLI, *words)
        assert 'a seed is from 0 to' in said or 'it must be from 0 to' in said, (words, said)
        assert not Path(out).exists(), words


def test_a_number_of_processes_below_one_builds_no_corpus(tmp_path):
    (tmp_path / 't.txt').write_text('a ball\n' * 200, encoding='utf-8')
    words = ['corpus', tmp_path / 't.txt', '--out', tmp_path / 'c', '--processes', -1]
    assert 'processes is -1; it must be 1 or more' in refused(*CLI, *words)
    assert not (tmp_path / 'c').exists()
