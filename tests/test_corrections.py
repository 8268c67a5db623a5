"A run whose settings change: what stays, what is set aside, what is asked for."

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.trainings import CLI, call, refused

from vidlankd_nb import experiments, training
from vidlankd_nb.config import Data, Distillation
from vidlankd_nb.experiments import Experiment
from vidlankd_nb.files import UserError
from vidlankd_nb.pieces import lies_at, parts_of_stage
from vidlankd_nb.presets import load_run, to_yaml
from vidlankd_nb.report import collect, plot_student_losses

ALL = ['world', 'features', 'pairs', 'corpus', 'teacher', 'ground', 'student', 'evaluate', 'report']


@pytest.fixture
def fake(monkeypatch):
    "Stages that only leave something behind; the list says which were done."
    done = []

    def work(name):
        def fill(places):
            done.append(name)
            for piece in parts_of_stage(places, name):
                at = lies_at(places, piece)
                if piece.stage == 'evaluate':
                    at.parent.mkdir(exist_ok=True)
                    at.write_text('{}', encoding='utf-8')
                elif not (at / 'model.safetensors').exists():
                    at.mkdir(parents=True, exist_ok=True)
                    (at / 'model.safetensors').write_text(piece.key, encoding='utf-8')

        return fill

    for name in experiments.WORK:
        monkeypatch.setitem(experiments.WORK, name, work(name))
    return done


def ask(run, folder, redo=(), stages=()):
    x = Experiment(run, folder, show=False, redo=redo)
    try:
        x.do(*stages)
    finally:
        x.close()


# one row: a setting, another value, and the stages that read it or what rests on it – by hand
TOY = [
    ('seed', 1, ALL),
    ('threads', 2, []),
    ('world__noun_clips', 224, ALL),
    ('features__fps', 2.0, ['features', 'pairs', 'teacher', 'ground', 'student', 'evaluate']),
    ('features__workers', 1, []),
    ('features__batch', 8, []),
    ('pairs__max_frames', 4, ['pairs', 'teacher', 'ground', 'student', 'evaluate']),
    ('pairs__max_tokens', 12, ['teacher', 'ground', 'student', 'evaluate']),
    ('corpus__block', 20, ['corpus', 'teacher', 'ground', 'student', 'evaluate']),
    ('corpus__mask_share', 0.2, ['teacher', 'ground', 'student', 'evaluate']),
    ('teacher__lr', 0.01, ['teacher', 'ground', 'student', 'evaluate']),
    ('teacher__save_every', 3, []),
    ('student__lr', 0.01, ['student', 'evaluate']),
    ('student__accumulate', 2, []),
    ('students__l2__weight', 7.0, ['student', 'evaluate']),
    ('controls__caption_teacher__weight', 7.0, ['student', 'evaluate']),
    ('vokens__count', 7, []),
    ('evaluation__splits', 3, ['evaluate']),
]


QUICK = load_run('quick')


def changed_by(key, value, run=QUICK):
    section, _, field = key.partition('__')
    if section in ('students', 'controls'):
        name, _, field = field.partition('__')
        models = getattr(run, section)
        return replace(run, **{section: models | {name: replace(models[name], **{field: value})}})
    if field:
        value = replace(getattr(run, section), **{field: value})
    return replace(run, **{section: value})


def test_each_setting_makes_the_stages_that_read_it_run_again_and_no_other(fake, tmp_path):
    folder = tmp_path / 'run'
    ask(QUICK, folder)
    assert fake == ALL
    for key, value, again in TOY:
        shutil.copytree(folder, copy := tmp_path / key)
        before = {
            p: p.read_text(encoding='utf-8') for p in copy.rglob('*') if p.is_file() and p.suffix != '.yaml'
        }
        fake.clear()
        if again:
            with pytest.raises(UserError) as e:
                ask(changed_by(key, value), copy)
            asked = str(e.value).split('or --redo ')[1].split(')')[0].split()
            assert asked == [s for s in again if s != 'report'], key
            assert {p: p.read_text(encoding='utf-8') for p in before} == before and fake == [], key
        ask(changed_by(key, value), copy, redo=True)
        assert fake == [s for s in ALL if s in again or s == 'report'], key
        fake.clear()
        ask(changed_by(key, value), copy)
        assert fake == ['report'], key


def own(tmp_path, seed=0, **data_changes):
    (tmp_path / 'v').mkdir(exist_ok=True)
    for name in ('v/a.mp4', 'c.json', 't.txt'):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text('{}', encoding='utf-8')
    data = Data(videos=str(tmp_path / 'v'), captions=str(tmp_path / 'c.json'), text=[str(tmp_path / 't.txt')])
    return replace(QUICK, data=replace(data, **data_changes), seed=seed)


AFTER_PAIRS = ['pairs', 'teacher', 'ground', 'student', 'evaluate']
OWN = [  # a file that changes, the stages that run again, those whose finished work is asked for
    ('v/b.mp4', ['features', *AFTER_PAIRS], AFTER_PAIRS),  # features take up a new video by themselves
    (
        'c.json',
        [s for s in ALL if s not in ('world', 'report')],
        [*AFTER_PAIRS[:1], 'corpus', *AFTER_PAIRS[1:]],
    ),
    ('t.txt', ['corpus', *AFTER_PAIRS[1:]], ['corpus', *AFTER_PAIRS[1:]]),
]


def test_files_of_ones_own_count_with_what_they_hold(fake, tmp_path):
    ask(own(tmp_path), tmp_path / 'run')
    for file, again, asked in OWN:
        fake.clear()
        (tmp_path / file).write_text('{"other": 1}', encoding='utf-8')
        with pytest.raises(UserError) as e:
            ask(own(tmp_path), tmp_path / 'run')
        assert str(e.value).split('or --redo ')[1].split(')')[0].split() == asked, file
        ask(own(tmp_path), tmp_path / 'run', redo=True)
        assert fake == [s for s in ALL if s in again or s == 'report'], file
    fake.clear()
    ask(own(tmp_path, seed=5), tmp_path / 'run', redo=True)
    assert fake == ['teacher', 'ground', 'student', 'evaluate', 'report']  # no other stage reads the seed
    fake.clear()
    (tmp_path / 'v2').mkdir()
    said = 'data.videos names other files'
    with pytest.raises(UserError, match=said):
        ask(own(tmp_path, seed=5, videos=str(tmp_path / 'v2')), tmp_path / 'run')


def test_weights_that_a_setting_names_count_with_what_they_hold(fake, tmp_path):
    (tmp_path / 'weights').mkdir()
    (tmp_path / 'weights' / 'model.safetensors').write_text('one', encoding='utf-8')
    text = replace(QUICK.teacher.text, pretrained=str(tmp_path / 'weights'))
    run = changed_by('teacher__text', text)
    ask(run, tmp_path / 'run')
    (tmp_path / 'weights' / 'model.safetensors').write_text('another', encoding='utf-8')
    with pytest.raises(UserError, match='redo teacher ground student evaluate'):
        ask(run, tmp_path / 'run')


def test_only_models_that_changed_are_trained_again(fake, tmp_path):
    ask(QUICK, tmp_path / 'run')
    (tmp_path / 'run' / 'students' / 'crd' / 'mine').write_text('', encoding='utf-8')
    run = changed_by('students__l2__weight', 7.0)
    run.students['more'] = Distillation('l2')
    run.students.pop('nst')
    with pytest.raises(
        UserError, match=r'student \(students/l2, \d+ s of work: students.l2.weight was 5.0, is 7.0\)'
    ):
        ask(run, tmp_path / 'run')
    ask(run, tmp_path / 'run', redo=True)
    left = {p.name for p in (tmp_path / 'run' / 'students').iterdir()}
    assert left == {'text_only', 'l2', 'nst', 'infonce', 'crd', 'more'}  # one that is asked for no more stays
    assert (tmp_path / 'run' / 'students' / 'crd' / 'mine').exists()


def test_a_stage_that_is_named_is_made_again_with_all_that_rests_on_it(fake, tmp_path):
    folder = tmp_path / 'run'
    ask(QUICK, folder)
    fake.clear()
    with pytest.raises(UserError, match=r'redo teacher ground student evaluate\)'):
        ask(QUICK, folder, redo=['teacher'])
    ask(QUICK, folder)
    assert fake == ['report']
    ask(QUICK, folder, redo=['teacher', 'ground', 'student', 'evaluate'])
    assert fake[1:] == ['teacher', 'ground', 'student', 'evaluate', 'report']
    fake.clear()
    ask(QUICK, folder, redo=['pairs'], stages=['pairs'])
    with pytest.raises(UserError, match=r"'ground' needs 'teacher' first|redo ground"):
        ask(QUICK, folder, stages=['ground'])
    with pytest.raises(UserError, match="did you mean 'teacher'"):
        ask(QUICK, folder, redo=['techer'])


def test_a_single_stage_on_stale_inputs_is_refused(fake, tmp_path):
    ask(QUICK, tmp_path / 'run', stages=['world', 'features', 'pairs', 'corpus'])
    with pytest.raises(UserError, match="'teacher' needs 'pairs' first, which was made with other settings"):
        ask(changed_by('pairs__max_frames', 4), tmp_path / 'run', stages=['teacher'])


def test_a_piece_that_was_removed_is_made_again(fake, tmp_path):
    ask(QUICK, tmp_path / 'run')
    fake.clear()
    shutil.rmtree(tmp_path / 'run' / 'students' / 'l2')
    (tmp_path / 'run' / 'evaluation' / 'students-l2.json').unlink()
    ask(QUICK, tmp_path / 'run')
    assert fake == ['student', 'evaluate', 'report']


def test_two_runs_that_share_nothing(fake, tmp_path):
    "Another world in the same folder: everything is asked for, and then everything is new."
    ask(QUICK, tmp_path / 'run')
    other = replace(QUICK, seed=3, students={'only': Distillation('none')}, controls={})
    with pytest.raises(UserError, match='redo world features pairs corpus teacher ground evaluate'):
        ask(other, tmp_path / 'run')
    fake.clear()
    ask(other, tmp_path / 'run', redo=True)
    assert fake == ALL
    assert load_run(tmp_path / 'run' / 'config.yaml').seed == 3
    fake.clear()
    ask(other, tmp_path / 'run')
    assert fake == ['report']


def test_a_folder_of_an_earlier_version_goes_on(fake, tmp_path, capsys):
    "Its finished stages stay, its settings are those that it was held to, and it says what that rests on."
    folder = tmp_path / 'run'
    ask(QUICK, folder)
    (folder / 'pieces.json').unlink()
    for file in (folder / 'stages').iterdir():
        file.write_text(
            json.dumps({'key': '0123456789abcdef', 'seconds': 3.0, 'version': '0.1'}), encoding='utf-8'
        )
    (folder / 'stages' / 'student.json').unlink()
    shutil.copytree(folder, tmp_path / 'other')
    fake.clear()
    x = Experiment(QUICK, folder)
    x.do()
    x.close()
    said = capsys.readouterr().out
    assert 'was begun by an earlier version' in said and '--redo STAGE' in said
    assert fake == ['student', 'report']
    with pytest.raises(UserError, match='teacher.lr was 0.001, is 0.01'):
        ask(changed_by('teacher__lr', 0.01), tmp_path / 'other')


def test_no_features_are_made_where_they_are_ready(fake, tmp_path):
    "`teacher` then needs pairs and corpus alone; without students a run ends with what can be done."
    own(tmp_path)
    ready = Data(captions=str(tmp_path / 'c.json'), features_2d=str(tmp_path / 'v'))
    run = replace(QUICK, data=ready, students={}, controls={})
    ask(run, tmp_path / 'run', stages=['pairs', 'corpus', 'teacher'])
    ask(run, tmp_path / 'run')
    assert fake == ['pairs', 'corpus', 'teacher', 'ground', 'evaluate', 'report']


# --- with real stages


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A run of the preset `quick` as far as its corpus, with one small student to come."
    folder = tmp_path_factory.mktemp('data') / 'run'
    ask(small(), folder, stages=['world', 'features', 'pairs', 'corpus'])
    return folder


def small(**changes):
    students = {'l2': {'objective': 'l2', 'weight': 5}}
    return load_run(
        'quick', students=students, controls={}, teacher__save_every=3, teacher__steps=8, **changes
    )


def weights(folder):
    return load_file(folder / 'teachers' / 'video' / 'model.safetensors')


def equal(a, b):
    return a.keys() == b.keys() and all(bool((a[k] == b[k]).all()) for k in a)


def test_a_killed_training_is_corrected_and_goes_on_when_it_is_corrected_back(data, tmp_path, monkeypatch):
    "No weights of other settings are resumed; those that were begun come back with their settings."
    fresh, killed = tmp_path / 'fresh', tmp_path / 'killed'
    shutil.copytree(data, killed)
    shutil.copytree(data, fresh)
    step = training.optimizer_step

    def dies(*args):
        if args[-1] == 5:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(training, 'optimizer_step', dies)
    with pytest.raises(KeyboardInterrupt):
        ask(small(), killed, stages=['teacher'])
    monkeypatch.undo()
    assert (killed / 'teachers' / 'video' / 'checkpoints' / 'step-00000003').is_dir()
    made = {p: p.stat().st_mtime_ns for p in (killed / 'features').rglob('*')}
    ask(small(teacher__lr=0.01), killed, stages=['teacher'])
    ask(small(teacher__lr=0.01), fresh, stages=['teacher'])
    assert equal(weights(killed), weights(fresh))
    assert {p: p.stat().st_mtime_ns for p in (killed / 'features').rglob('*')} == made
    aside = next((killed / 'set_aside').iterdir())
    assert (aside / 'checkpoints' / 'step-00000003').is_dir()
    ask(small(), killed, stages=['teacher'], redo=True)
    lines = (killed / 'teachers' / 'video' / 'log.jsonl').read_text(encoding='utf-8').splitlines()
    assert [json.loads(x)['step'] for x in lines if 'terms' in x][0] == 5  # and none of the first steps anew
    ask(small(), fresh, stages=['teacher'], redo=True)
    assert equal(weights(killed), weights(fresh)) and not list((killed / 'set_aside').iterdir())


def test_a_batch_that_is_too_large_is_corrected(data, tmp_path):
    "The sentence says what to change; with the change the same command goes on, and features are kept."
    folder = tmp_path / 'run'
    shutil.copytree(data, folder)
    files = {p: p.stat().st_mtime_ns for p in (folder / 'features').rglob('*')}
    words = ['--config', folder / 'config.yaml', '--out', folder]
    said = refused(*CLI, 'run', *words, '--teacher.batch', 1000)
    assert 'fewer than one batch of 1000' in said and 'smaller batch: --teacher.batch ' in said
    out = call(*CLI, 'run', *words, '--teacher.batch', 8).stdout
    assert out.count('done before') == 4 and f'report: {folder}' in out
    assert {p: p.stat().st_mtime_ns for p in (folder / 'features').rglob('*')} == files


def test_a_run_without_students_says_what_it_left(data, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(data, folder)
    run = small()
    config = tmp_path / 'mine.yaml'
    config.write_text(to_yaml(replace(run, students={})), encoding='utf-8')
    done = call(*CLI, 'run', '--config', config, '--out', folder)
    assert 'left out: student. The configuration names no students' in done.stdout
    assert 'Warning' not in done.stderr and '<h2>' in (folder / 'report.html').read_text(encoding='utf-8')
    assert (folder / 'figures' / 'grounding-0.png').exists() and (folder / 'report.html').exists()
    out = call(
        *CLI, 'run', '--config', config, '--out', folder, '--students', '{a: {objective: none}}'
    ).stdout
    assert 'teacher: done before' in out and 'left out' not in out
    assert Path(folder / 'students' / 'a' / 'model.safetensors').exists()


# --- what config.yaml says


def test_a_command_that_does_nothing_or_is_refused_leaves_the_settings(fake, tmp_path):
    "What lies in the folder was made with them: commands without --config go on."
    folder = tmp_path / 'run'
    ask(QUICK, folder)
    written = (folder / 'config.yaml').read_text(encoding='utf-8')
    other = changed_by('teacher__lr', 0.5)
    ask(other, folder, stages=['world'])
    with pytest.raises(UserError, match='needs'):
        ask(other, folder, stages=['report'])
    assert (folder / 'config.yaml').read_text(encoding='utf-8') == written
    ask(other, folder, redo=True)
    assert load_run(folder / 'config.yaml').teacher.lr == 0.5


def test_loss_curves_are_those_of_the_students_the_run_has(tmp_path):
    for name in ('l2', 'dropped'):
        (tmp_path / 'students' / name).mkdir(parents=True)
        line = json.dumps({'step': 1, 'terms': {'mlm': 2.0}})
        (tmp_path / 'students' / name / 'log.jsonl').write_text(line + '\n', encoding='utf-8')
    assert plot_student_losses(tmp_path, ['l2']).get_legend_handles_labels()[1] == ['l2']


def test_vokens_are_reported_where_the_run_has_them_and_not_where_they_lie_from_before(tmp_path):
    plain = replace(QUICK, students={}, controls={})
    with_vokens = replace(plain, students={'v': Distillation('voken')})
    figures = {'count': 2, 'source': 'clips', 'tokens': 3, 'diversity': {'used': 1.0}, 'quantisation': []}
    for run, told in ((plain, False), (with_vokens, True)):
        folder = tmp_path / str(told)
        for name in ('evaluation', 'vokens'):
            (folder / name).mkdir(parents=True)
        for name in ('teachers-video', 'students-v'):
            (folder / 'evaluation' / f'{name}.json').write_text(
                '{"mlm_loss": 1.0, "retrieval": null}', encoding='utf-8'
            )
        (folder / 'vokens' / 'vokens.json').write_text(json.dumps(figures), encoding='utf-8')
        (folder / 'config.yaml').write_text(to_yaml(run), encoding='utf-8')
        report = collect([folder], [])
        assert ('vokens' in report) == told and report.get('vokens', [figures]) == [figures]
    shutil.rmtree(folder / 'vokens')  # a run of a preset may have been told without
    assert 'vokens' not in collect([folder], [])
