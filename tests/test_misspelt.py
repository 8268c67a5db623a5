"Keys that are not there, in files and on the command line: the sentence names what was written, and the nearest valid key."

import pytest

from vidlankd_nb.config import Distillation, Run
from vidlankd_nb.files import UserError
from vidlankd_nb.presets import dotted, parse_run, run_parser


def said(call, *args):
    with pytest.raises(UserError) as e:
        call(*args)
    return str(e.value)


PARSER = run_parser()  # made once: it takes longer than a sentence


def said_to(words):
    return said(parse_run, words, PARSER)


def in_file(folder, text):
    (folder / 'mine.yaml').write_text(text, encoding='utf-8')
    return said_to(['--config', str(folder / 'mine.yaml')])


# what stands in a file, the key that is wrong, the one that was meant
FILES = [
    ('seeed: 1', 'seeed', 'seed'),
    ('treads: 2', 'treads', 'threads'),
    ('featurs: {backbone: pixels}', 'featurs', 'features'),
    ('studnets: {mine: {objective: nst}}', 'studnets', 'students'),
    ('controlls: {mine: {objective: nst}}', 'controlls', 'controls'),
    ('techer: {text: {layers: 2}}', 'techer', 'teacher'),
    ('lr: 0.1', 'lr', 'teacher.lr'),  # its section was forgotten
    ('teacher: {lrr: 1}', 'teacher.lrr', 'teacher.lr'),
    ('teacher.lrr: 1', 'teacher.lrr', 'teacher.lr'),
    ('data: {txt: [a]}', 'data.txt', 'data.text'),
    ('data: {captoins: a.json}', 'data.captoins', 'data.captions'),
    ('student: {trackrs: [tensorboard]}', 'student.trackrs', 'student.trackers'),
    ('teacher: {log-every: 5}', 'teacher.log-every', 'teacher.log_every'),
    ('teacher: {texts: {layers: 2}}', 'teacher.texts', 'teacher.text'),
    ('teacher: {text: {layrs: 2}}', 'teacher.text.layrs', 'teacher.text.layers'),
    ('student: {text: {widht: 96, heads: 4}}', 'student.text.widht', 'student.text.width'),
    ('teacher: {text: {layers: {first: 1}}}', None, 'teacher.text.layers is'),
    ('seed: 1\nworld: {names: 64}\nevalution: {splits: 3}', 'evalution', 'evaluation'),
]


@pytest.mark.parametrize(('text', 'wrong', 'meant'), FILES, ids=[wrong or meant for _, wrong, meant in FILES])
def test_in_a_file(text, wrong, meant, tmp_path):
    sentence = in_file(tmp_path, text)
    if wrong is None:
        assert sentence.startswith(meant)
    else:
        assert sentence == f"Unknown key '{wrong}': did you mean '{meant}'?"


@pytest.mark.parametrize(
    ('mapping', 'text', 'wrong', 'meant'),
    [
        ('students', '{mine: {objectve: nst}}', 'objectve', 'objective'),
        ('students', '{first: {objective: nst}, second: {objective: l2, wieght: 2}}', 'wieght', 'weight'),
        ('students', '{mine: {objective: nst, optoins: {normalise: unit}}}', 'optoins', 'options'),
        ('controls', '{mine: {objective: none, budgte: steps}}', 'budgte', 'budget'),
    ],
)
def test_behind_a_name_of_ones_own(mapping, text, wrong, meant, tmp_path):
    sentence = f"Unknown key '{wrong}' in {mapping}: did you mean '{meant}'?"
    assert in_file(tmp_path, f'{mapping}: {text}') == sentence
    assert said_to([f'--{mapping}', text]) == sentence


@pytest.mark.parametrize(
    ('word', 'meant'),
    [
        ('--seeed', '--seed'),
        ('--studnets', '--students'),
        ('--techer.lr', '--teacher.lr'),
        ('--teacher.lrr', '--teacher.lr'),
        ('--teacher.textt.layers', '--teacher.text.layers'),
        ('--teacher.text.layrs', '--teacher.text.layers'),
        ('--studnets.mine.objective', '--students.mine.objective'),
        ('--contrls.mine.objectiv', '--controls.mine.objective'),
        ('--seed.first', '--seed'),
        ('--data.text.x', '--data.text'),
        ('--teacher.text.layers.x', '--teacher.text.layers'),
    ],
)
def test_on_the_command_line(word, meant):
    assert said_to([word, '1']) == f"Unknown option '{word}': did you mean '{meant}'?"
    assert said_to([f'{word}=1']) == f"Unknown option '{word}': did you mean '{meant}'?"


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--teacher', '{lrr: 1}'], "Unknown key 'teacher.lrr': did you mean 'teacher.lr'?"),
        (
            ['--teacher.text', '{layrs: 1}'],
            "Unknown key 'teacher.text.layrs': did you mean 'teacher.text.layers'?",
        ),
        (
            ['--students.mine.objectve', 'nst'],
            "Unknown key 'objectve' in students: did you mean 'objective'?",
        ),
        (
            ['--students.mine', '{objectve: nst}'],
            "Unknown key 'objectve' in students: did you mean 'objective'?",
        ),
        (
            ['--students.mine.options.normalise', 'unit'],
            "students.options has no key 'normalise' on the command line: give its value whole, as '{normalise: …}'.",
        ),
    ],
)
def test_keys_inside_a_word(words, sentence):
    assert said_to(words) == sentence


def test_nothing_near_lists_what_stands_at_that_depth(tmp_path):
    top = ', '.join(
        sorted(
            [
                'seed',
                'threads',
                'data',
                'world',
                'features',
                'pairs',
                'corpus',
                'teacher',
                'student',
                'students',
                'controls',
                'vokens',
                'words',
                'evaluation',
            ]
        )
    )
    assert in_file(tmp_path, 'zzz: 1') == f"Unknown key 'zzz': valid names: {top}."
    assert in_file(tmp_path, 'students: {mine: {zzz: 1}}') == (
        f"Unknown key 'zzz' in students: valid names: {', '.join(sorted(dotted(Distillation)))}."
    )


@pytest.mark.parametrize(('section', 'value'), [('teacher', '3'), ('data', '[a, b]'), ('corpus', 'true')])
def test_a_section_that_is_no_mapping(section, value, tmp_path):
    assert in_file(tmp_path, f'{section}: {value}').startswith(f'{section} is ')
    assert 'a mapping with keys such as' in in_file(tmp_path, f'{section}: {value}')


def test_a_word_where_a_section_belongs(tmp_path):
    assert (
        in_file(tmp_path, 'vokens: clips')
        == 'vokens is clips; a mapping is expected, or a file that holds one.'
    )
    assert said_to(['--teacher', '3']) == 'teacher is 3; a mapping is expected, or a file that holds one.'


@pytest.mark.parametrize('key', sorted(dotted(Run).keys() - {'students', 'controls'}))
def test_every_key_is_found_again_when_a_letter_is_doubled(key, tmp_path):
    wrong = key + key[-1]
    *sections, name = wrong.split('.')
    text = f'{name}: 1'
    for section in reversed(sections):
        text = f'{section}: {{{text}}}'
    assert in_file(tmp_path, text) == f"Unknown key '{wrong}': did you mean '{key}'?"
