"A grid takes exactly the values that a configuration file takes for the same settings."

import json

import pytest

from vidlankd_nb.files import UserError
from vidlankd_nb.grids import keys_of, make_cell, read_grid
from vidlankd_nb.presets import load_run

BASE = load_run('quick', students={}, controls={})


def in_a_file(folder, text):
    file = folder / 'run.yaml'
    file.write_text(text, encoding='utf-8')
    return load_run('quick', file)


def in_a_grid(folder, keys):
    file = folder / 'grid.yaml'
    file.write_text(f'table: {{a: {{objective: l2, {keys}}}}}', encoding='utf-8')
    return read_grid(file)[0].run(BASE)


def said(read, *args):
    "The value, or None and the sentence."
    try:
        return read(*args), ''
    except UserError as e:
        return None, str(e)


OF_RUN = [  # a setting, a value as it is written, and what it is; None: it is refused
    ('student.lr', '1e-4', 1e-4),
    ('student.lr', '"0.5"', 0.5),
    ('student.lr', '3', 3.0),
    ('student.lr', 'null', None),
    ('student.lr', 'true', None),
    ('student.lr', '.inf', None),
    ('student.lr', '-1', None),
    ('student.lr', 'fast', None),
    ('student.steps', '"5"', 5),
    ('student.steps', '1e3', None),
    ('student.steps', '5.0', None),
    ('student.steps', 'true', None),
    ('student.steps', 'null', None),
    ('student.compile', '1', None),
    ('student.text.layers', '"2"', 2),
    ('student.precision', 'bf15', None),
    ('student.trackers', '[]', []),
    ('student.trackers', 'tensorboard', None),
    ('corpus.field', '2020-01-01', '2020-01-01'),
    ('corpus.field', '1e-4', None),
    ('corpus.field', '"1e-4"', '1e-4'),
    ('corpus.field', '5', None),
    ('data.text', '[x.txt]', ['x.txt']),
    ('data.text', 'x.txt', None),
    ('world.names', '65', None),
]


@pytest.mark.parametrize('key, written, value', OF_RUN)
def test_a_setting_of_the_run(key, written, value, tmp_path):
    section, name = key.rsplit('.', 1)
    text = f'{section}: {{{name}: {written}}}'
    if '.' in section:
        outer, inner = section.split('.')
        text = f'{outer}: {{{inner}: {{{name}: {written}}}}}'
    for read, what in ((in_a_file, text), (in_a_grid, f'{key}: {written}')):
        run, why = said(read, tmp_path, what)
        if value is None:
            assert run is None and name in why and 'Traceback' not in why, (read, run)
            continue
        assert run is not None, why
        found = run
        for part in key.split('.'):
            found = getattr(found, part)
        assert found == value and type(found) is type(value), read


OF_STUDENT = [
    ('weight', '"5"', 5.0),
    ('weight', '5e-1', 0.5),
    ('weight', 'heavy', None),
    ('weight', '-5', None),
    ('layer', '1', 1),
    ('layer', '"4,5"', '4,5'),
    ('layer', '1.5', None),
    ('layer', 'null', None),
    ('head', 'null', None),
    ('head', 'linaer', None),
    ('options', '{rate: 1e-4}', {'rate': 1e-4}),
    ('options', '5', None),
    ('fade_from', '2', None),
]


@pytest.mark.parametrize('key, written, value', OF_STUDENT)
def test_a_setting_of_the_student(key, written, value, tmp_path):
    whole = f'students: {{a: {{objective: l2, {key}: {written}}}}}'
    for read, what in ((in_a_file, whole), (in_a_grid, f'{key}: {written}')):
        run, why = said(read, tmp_path, what)
        if value is None:
            assert run is None and key in why, (read, run)
            continue
        assert run is not None, why
        found = getattr(run.students['a'], key)
        assert found == value and type(found) is type(value), read


def test_a_refusal_names_the_cell(tmp_path):
    for keys in ('student.steps: many', 'weight: -5', 'student.lr: -1', 'about: 5'):
        assert said(in_a_grid, tmp_path, keys)[1].startswith("Cell 'a': "), keys
    assert said(in_a_grid, tmp_path, 'student.steps: many')[1] == (
        "Cell 'a': student.steps is many; a whole number is expected."
    )


@pytest.mark.parametrize(
    'one, other',
    [
        ('world.names: 1024', 'world.noun_clips: 4000'),
        ('pairs.still: true', 'pairs.still_at: any'),
        ('fade_from: 0.5', 'fade_to: 0.8'),
        ('student.epochs: 2', 'student.decay_epochs: 3'),
    ],
)
def test_settings_that_go_together_may_stand_in_any_order(one, other, tmp_path):
    first = in_a_grid(tmp_path, f'{one}, {other}')
    assert in_a_grid(tmp_path, f'{other}, {one}') == first


def test_an_old_name_is_read_as_in_a_configuration(tmp_path, capsys):
    assert in_a_grid(tmp_path, 'student.clip: 0.5').student.max_grad_norm == 0.5
    assert "'student.clip' is called 'student.max_grad_norm' now" in capsys.readouterr().err
    both = said(in_a_grid, tmp_path, 'student.clip: 0.5, student.max_grad_norm: 2')[1]
    assert "'student.clip' is the old name of 'student.max_grad_norm'" in both


def test_folders_that_were_made_with_a_whole_number_stay_valid():
    "Where a setting may be null, 5 has been 5 in the keys of folders, and not 5.0."
    cell = make_cell('a', 't', {'objective': 'l2', 'weight': 5, 'student.epochs': 3, 'student.lr': 1})
    assert (
        json.dumps(keys_of(cell)) == '{"objective": "l2", "weight": 5, "student.epochs": 3, "student.lr": 1}'
    )
    assert json.dumps([cell.run(BASE).student.epochs, cell.run(BASE).student.lr]) == '[3, 1.0]'


def test_names_of_cells_are_as_they_were_written(tmp_path):
    file = tmp_path / 'grid.yaml'
    file.write_text('rate: {1e-4: {student.lr: 1e-4}, 2: {student.lr: 2}}', encoding='utf-8')
    assert [(c.name, c.settings) for c in read_grid(file)] == [
        ('1e-4', {'student.lr': 1e-4}),
        ('2', {'student.lr': 2}),
    ]
