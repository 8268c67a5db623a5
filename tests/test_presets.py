"""The presets' true architectures, for three steps, through the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.trainings import CLI, call
from transformers import AutoModelForMaskedLM

from vidlankd_nb.presets import load_run
from vidlankd_nb.teacher import VideoTeacher

root = Path(__file__).parent.parent


def vidlankd(*args):
    return call(*CLI, *args).stdout


def steps(folder):
    "Every step of a training, with finite loss terms."
    records = [
        r
        for r in map(json.loads, (folder / 'log.jsonl').read_text(encoding='utf-8').splitlines())
        if 'terms' in r
    ]
    assert all(
        torch.isfinite(torch.tensor([*r['terms'].values(), r['gradient_norm']])).all() for r in records
    ), records
    return [(r['step'], sorted(r['terms'])) for r in records]


def shape(model):
    return (
        model.config.model_type,
        model.config.num_hidden_layers,
        model.config.hidden_size,
        model.config.num_attention_heads,
    )


@pytest.mark.parametrize('name', ['small', 'base'])
def test_smoke_is_the_preset_itself(name):
    "Architectures, losses and optimizer are those of the full preset; only data and lengths differ."
    full, smoke = load_run(name), load_run(f'{name}-smoke')
    assert (
        smoke.students == full.students
        and smoke.student.text == full.student.text
        and smoke.teacher.text == full.teacher.text
    )
    for key in (
        'video_layers',
        'contrast',
        'margin',
        'contrast_weight',
        'mlm_weight',
        'pooling',
        'frozen_video',
        'lr',
        'weight_decay',
        'max_grad_norm',
    ):
        assert getattr(smoke.teacher, key) == getattr(full.teacher, key), key
    for key in ('lr', 'weight_decay', 'max_grad_norm', 'adam_eps'):
        assert getattr(smoke.student, key) == getattr(full.student, key), key
    assert smoke.corpus.packed == full.corpus.packed and (smoke.teacher.steps, smoke.student.steps) == (3, 3)


def test_the_demo_has_the_world_and_the_losses_of_tiny():
    demo, tiny, fast = (load_run(name) for name in ('demo', 'tiny', 'demo-fast'))
    assert (demo.world, demo.pairs, demo.corpus) == (tiny.world, tiny.pairs, tiny.corpus)
    assert demo.teacher.text == tiny.teacher.text and demo.student.text == tiny.student.text
    assert list(demo.students) == list(tiny.students) and demo.controls == tiny.controls
    for run in (demo, fast):
        for name, student in run.students.items():
            assert (student.objective, student.weight) == (
                tiny.students[name].objective,
                tiny.students[name].weight,
            )


def test_small_goes_the_whole_road(tmp_path):
    run = tmp_path / 'small'
    said = vidlankd('run', '--config', 'small-smoke', '--out', run)
    assert 'report.html' in said and (run / 'report.html').is_file()
    teacher = VideoTeacher.from_pretrained(run / 'teachers' / 'video')
    assert shape(teacher.text) == ('bert', 6, 512, 8) and teacher.config.video_layers == 6
    assert steps(run / 'teachers' / 'video') == [(k, ['contrast', 'mlm']) for k in (1, 2, 3)]
    for name, terms in (('text_only', ['mlm']), ('nst+crd', ['distillation/crd', 'distillation/nst', 'mlm'])):
        assert shape(AutoModelForMaskedLM.from_pretrained(run / 'students' / name)) == ('bert', 6, 512, 8)
        assert steps(run / 'students' / name) == [(k, terms) for k in (1, 2, 3)]
    assert 'nst+crd' in json.loads((run / 'report.json').read_text(encoding='utf-8'))['students']


def test_base_teaches_and_distils(tmp_path):
    run, words = (
        tmp_path / 'base',
        [
            '--config',
            'base-smoke',
            '--teacher.batch',
            2,
            '--student.batch',
            2,
            '--students',
            '{nst+crd: {objective: nst+crd}}',
        ],
    )
    for stage in ('world', 'features', 'pairs', 'corpus', 'teacher', 'student'):
        vidlankd(stage, *words, '--out', run)
    assert steps(run / 'teachers' / 'video') == [(k, ['contrast', 'mlm']) for k in (1, 2, 3)]
    assert steps(run / 'students' / 'nst+crd') == [
        (k, ['distillation/crd', 'distillation/nst', 'mlm']) for k in (1, 2, 3)
    ]
    config = json.loads((run / 'teachers' / 'video' / 'config.json').read_text(encoding='utf-8'))
    assert (config['text']['num_hidden_layers'], config['text']['hidden_size'], config['video_layers']) == (
        12,
        768,
        12,
    )
    with safe_open(
        run / 'students' / 'nst+crd' / 'model.safetensors', 'pt'
    ) as f:  # layers 0 to 11, width 768
        assert (
            f.get_slice('bert.encoder.layer.11.output.dense.weight').get_shape() == [768, 3072]
            and 'bert.encoder.layer.12.output.dense.weight' not in f.keys()  # noqa: SIM118 – it is no mapping
        )


# --- what the presets promise

PUBLISHED = ('small', 'base')


@pytest.mark.parametrize('name', [*PUBLISHED, 'large-world', 'tiny', 'hours'])
def test_every_preset_that_claims_something_brings_its_control(name):
    run = load_run(name)
    taught = [d for d in run.controls.values() if d.teacher == 'captions' and d.objective != 'none']
    assert taught, f'{name} has no student of a teacher that saw no video'
    assert {d.objective for d in taught} <= {d.objective for d in run.students.values()}


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_released_decay_is_laid_out_over_ten_times_the_training(name):
    "20 epochs of 200: the learning rate falls along a line that would reach 0 after 200, so it ends at nine tenths."
    from vidlankd_nb.schedule import decay_steps, learning_rate, total_steps

    cfg = load_run(name).teacher
    examples = 1000 * cfg.batch
    total, decay = total_steps(cfg, examples), decay_steps(cfg, examples)
    assert (total, decay) == (20_000, 200_000)
    assert [learning_rate(step, decay, cfg) for step in (0, 10_000, 19_999)] == pytest.approx(
        [5e-5, 5e-5 * 0.95, 5e-5 * 180_001 / 200_000]
    )
    text = (root / 'vidlankd_nb' / 'configs' / f'{name}.yaml').read_text(encoding='utf-8')
    assert (
        'windows: all' in text and '--pairs.windows one' in text
    )  # it says which it takes, and how to take the other


@pytest.mark.parametrize('epochs', [20.0, None])
def test_a_decay_shorter_than_the_training_is_refused(epochs):
    from vidlankd_nb.files import UserError

    with pytest.raises(UserError, match='decay_epochs is 10.0'):
        load_run('tiny', teacher__epochs=epochs, teacher__decay_epochs=10.0)


def test_the_grid_of_controls():
    "Wrong videos, two stages from a teacher of captions, as many operations without a teacher (its training counted and not), captions as text."
    from vidlankd_nb.grids import read_grid

    cells = {c.name: c for c in read_grid('controls')}
    assert cells['shuffled_videos'].student.teacher == 'shuffled'
    two = cells['two_stage_captions'].student
    assert (two.objective, two.start, two.teacher) == ('none', 'teacher', 'captions')
    assert [cells[n].student.budget for n in ('text_only_longer', 'text_only_longest')] == [
        'distilled',
        'distilled_and_teacher',
    ]
    assert cells['captions_as_text'].settings == {'corpus.captions': True}
    assert {
        'shuffled_videos',
        'two_stage_captions',
        'text_only_longer',
        'text_only_longest',
        'captions_as_text',
        'caption_teacher',
    } <= {c.name for c in read_grid('smallest')}


# --- a name that changed

NOW = "The setting '{0}clip' is called '{0}max_grad_norm' now; the old name is read until the next release.\n"


def test_an_old_name_in_a_file_is_read_with_one_sentence(tmp_path, capsys):
    "In either style of YAML, beside numbers that a rewritten file would turn into text."
    file = tmp_path / 'mine.yaml'
    file.write_text(
        'teacher: {lr: 1e-4, clip: 2.5}\nstudent:\n  clip: 0.5   # not the clip of a video\n  lr: 2e-4\n',
        encoding='utf-8',
    )
    run = load_run('tiny', file)
    assert (run.teacher.max_grad_norm, run.student.max_grad_norm, run.teacher.lr, run.student.lr) == (
        2.5,
        0.5,
        1e-4,
        2e-4,
    )
    assert sorted(capsys.readouterr().err.splitlines(True)) == [
        NOW.format('student.'),
        NOW.format('teacher.'),
    ]
    file.write_text('teacher: {max_grad_norm: 2.5}', encoding='utf-8')
    assert load_run('tiny', file).teacher.max_grad_norm == 2.5 and capsys.readouterr().err == ''


@pytest.mark.parametrize(
    'words', [['--config', 'tiny', '--student.clip', '3'], ['--config=tiny', '--student.clip=3']]
)
def test_an_old_name_on_the_command_line_is_read_with_one_sentence(words, capsys):
    from vidlankd_nb.presets import parse_run

    run, _ = parse_run(words)
    assert run.student.max_grad_norm == 3 and run.teacher.max_grad_norm == 1
    assert capsys.readouterr().err == NOW.format('student.')


def test_an_old_name_is_read_where_a_fine_tuning_is_told(capsys):
    "`vidlankd ground RUN --clip VIDEO:SECOND` means something else, and is left alone."
    from vidlankd_nb.arguments import command_parser, file_words
    from vidlankd_nb.cli import FILES

    def read(command, *words):
        return file_words(words, command_parser(command, '', FILES[command]), FILES[command])

    _, cfg, _ = read('evaluate', 'MODEL', '--tasks', 'rte', '--out', 'results', '--clip', '2')
    assert cfg.max_grad_norm == 2 and capsys.readouterr().err == NOW.format('')
    _, _, given = read('ground', 'RUN', '--text', 'a ball', '--clip', 'v:1')
    assert given.clip == 'v:1' and capsys.readouterr().err == ''


@pytest.mark.parametrize('wrong', ['teacher.clips', 'pairs.clip', 'clip'])
def test_no_other_name_is_read_as_the_old_one(wrong):
    from vidlankd_nb.files import UserError
    from vidlankd_nb.presets import parse_run

    with pytest.raises(UserError, match=f"--{wrong}'"):
        parse_run(['--config', 'tiny', f'--{wrong}', '2'])


def test_folders_of_before_a_new_name_stay_valid():
    "Keys as they were reckoned when the setting was called `clip`."
    from vidlankd_nb.evaluation.grid import Grid, settings
    from vidlankd_nb.plan import what_counts
    from vidlankd_nb.recipes import digest

    run = load_run('tiny', student__max_grad_norm=2.5)
    assert (digest(what_counts(run.student)), digest(what_counts(run.teacher))) == (
        '80118612cc9fec5b',
        '833149abd88203f3',
    )
    assert digest(settings(Grid({'a': 'b'}, ['toy'], 'x'))) == 'eebf3d6fddb1ee3b'
