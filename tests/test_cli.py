"""The command line as a user meets it: bad input, interruption, resumption."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.trainings import CLI, ENV, SMALL, python, start


def vidlankd(*args):
    return python(*CLI[1:], *args)


def refused(*args):
    "Standard error of a command that must end with exit code 2 and one sentence."
    out = vidlankd(*args)
    assert out.returncode == 2, (out.returncode, out.stderr[-2000:])
    assert 'Traceback' not in out.stderr and len(out.stderr.strip().splitlines()) == 1, out.stderr
    return out.stderr


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A finished run of the preset `quick`."
    folder = tmp_path_factory.mktemp('runs') / 'quick'
    out = vidlankd('run', '--config', 'quick', '--out', folder)
    assert out.returncode == 0, out.stderr[-3000:]
    return folder


def files(folder, pattern='*'):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob(pattern)) if p.is_file()}


def test_help_and_version():
    assert (
        'vidlankd COMMAND'
        in subprocess.run([*CLI, '--help'], capture_output=True, env=ENV, encoding='utf-8').stdout
    )  # a cold Python, once
    assert vidlankd('--version').stdout.strip()
    assert '--teacher.lr' in vidlankd('run', '--help').stdout


def test_print_config():
    shown = yaml.safe_load(
        vidlankd('run', '--config', 'quick', '--teacher.lr', '1e-4', '--print_config').stdout
    )
    assert shown['teacher']['lr'] == 1e-4 and shown['students']['crd']['objective'] == 'crd'


def test_typos_name_what_was_meant():
    assert "did you mean 'demo'" in refused('dmeo')
    assert "did you mean '--teacher.steps'" in refused('run', '--config', 'quick', '--teacher.stepz', '3')
    assert "did you mean 'quick'" in refused('run', '--config', 'quik')
    assert 'teacher.steps is many; a whole number is expected.' in refused(
        'run', '--config', 'quick', '--teacher.steps', 'many'
    )
    assert 'threads is x; a whole number or null is expected.' in refused(
        'run', '--config', 'quick', '--threads', 'x'
    )
    assert "'objektive' in students: did you mean 'objective'" in refused(
        'run', '--config', 'quick', '--students', '{a: {objektive: l2}}'
    )
    for key, value, meant in (
        ('vokens.source', 'frame', 'frames'),
        ('world.kind', 'huors', 'hours'),
        ('teacher.pooling', 'fisrt', 'first'),
    ):
        assert f"Unknown {key} '{value}': did you mean '{meant}'?" in refused(
            'run', '--config', 'quick', f'--{key}', value
        )
    assert "Unknown students.head 'mpl': did you mean 'mlp'?" in refused(
        'run', '--config', 'quick', '--students', '{a: {head: mpl}}'
    )
    assert 'students.weight is x; a number or null is expected.' in refused(
        'run', '--config', 'quick', '--students', '{a: {weight: x}}'
    )


def test_unknown_key_in_a_file(tmp_path):
    (tmp_path / 'c.yaml').write_text('teacher: {stepz: 3}\n', encoding='utf-8')
    assert "did you mean 'teacher.steps'" in refused('run', '--config', tmp_path / 'c.yaml')
    (tmp_path / 'd.yaml').write_text('teacher: [unfinished\n', encoding='utf-8')
    assert 'd.yaml' in refused('run', '--config', tmp_path / 'd.yaml')


def test_missing_data(tmp_path):
    (tmp_path / 'empty.txt').write_text('\n\n', encoding='utf-8')
    captions = tmp_path / 'captions.json'
    captions.write_text(
        json.dumps({'absent': {'start': [0], 'end': [2], 'text': ['a thing happens']}}), encoding='utf-8'
    )
    (tmp_path / 'videos').mkdir()

    def own(videos='videos', captions='captions.json', text='empty.txt'):
        return [
            '--config',
            'quick',
            '--out',
            tmp_path / f'run-{videos}-{captions}-{text}',
            '--data.videos',
            tmp_path / videos,
            '--data.captions',
            tmp_path / captions,
            '--data.text',
            f'["{tmp_path / text}"]',
        ]

    assert 'absent_folder' in refused('features', *own('absent_folder'))
    assert 'none.json' in refused('features', *own(captions='none.json'))
    assert 'empty.txt' in refused('corpus', *own())
    assert 'absent.txt' in refused('corpus', *own(text='absent.txt'))
    world = Path(__file__).parent.parent / 'data_samples' / 'toyworld'
    few = tmp_path / 'few'
    few.mkdir()
    (few / 'toy0000.mp4').write_bytes((world / 'videos' / 'toy0000.mp4').read_bytes())
    assert "captions know ids such as 'absent'" in refused('features', *own('few'))
    (tmp_path / 'late.json').write_text(
        json.dumps({'toy0000': {'start': [900], 'end': [902], 'text': ['a thing happens']}}), encoding='utf-8'
    )
    words = own('few', 'late.json')
    assert vidlankd('features', *words).returncode == 0
    assert 'No video-text pairs' in refused('pairs', *words)


def test_stage_before_its_inputs(tmp_path):
    assert "needs 'pairs' first" in refused('teacher', '--config', 'quick', '--out', tmp_path / 'run')


@pytest.mark.parametrize(
    'words, said',
    [
        ('run --config quick --out FILE/run', 'choose another folder'),
        ('demo --config quick --out FILE', 'choose another folder'),
        ('ablate --config quick --grid smallest --out FILE/grid', 'choose another folder'),
        ('run --config quick --seed -1 --out HERE/run', 'seed is -1; it must be from 0 to'),
        ('run --config quick --threads 0 --out HERE/run', 'threads is 0; it must be 1 or more'),
        (
            'ablate --config quick --grid smallest --first-seed -2 --out HERE/run',
            '--first-seed must be 0 or more',
        ),
        ('demo --first-seed -2 --out HERE/run', '--first-seed must be 0 or more'),
        ('features', "'vidlankd features FILES… --out DIR'"),
    ],
)
def test_numbers_and_places_that_cannot_be(words, said, tmp_path, capsys):
    from vidlankd_nb import cli

    (tmp_path / 'file').write_text('mine', encoding='utf-8')
    with pytest.raises(SystemExit) as e:
        cli.main(words.replace('FILE', str(tmp_path / 'file')).replace('HERE', str(tmp_path)).split())
    error = capsys.readouterr().err
    assert (
        e.value.code == 2
        and said in error
        and len(error.splitlines()) == 1
        and not (tmp_path / 'run').exists()
    )


TWO_USES = ('features', 'pairs', 'corpus', 'vocabulary', 'ground', 'evaluate')


def in_process(words, capsys):
    "Exit code, standard output and standard error of a command."
    from vidlankd_nb import cli

    code = 0
    try:
        cli.main(words.split())
    except SystemExit as e:
        code = e.code or 0
    return code, *capsys.readouterr()


@pytest.mark.parametrize('command', TWO_USES)
def test_both_uses_of_a_command_have_one_help(command, capsys):
    "The words before --help change nothing, and the command's own options stand before those of a run."
    texts = {
        in_process(f'{command} {before} --help', capsys)
        for before in ('', 'x', '--config tiny', 'x --config tiny', '--out y')
    }
    assert len(texts) == 1
    code, text, said = texts.pop()
    assert code == 0 and not said
    own = '--text' if command == 'ground' else '--out'
    assert 0 < text.index(f'\n  {own} ') < text.index('\n  --teacher.lr ')


@pytest.mark.parametrize(
    'words, said',
    [
        (
            'features VIDEOS --config tiny',
            "'vidlankd features' works on files (VIDEOS) or on a run (--config …), not on both",
        ),
        ('ground RUN --text x --config tiny', "leave out 'RUN' or --config"),
        ('features --config tiny --fps 4', 'of a run it is --features.fps.'),
        ('features --config tiny --fps=4 --print_config', 'of a run it is --features.fps.'),
        ('pairs --config tiny --captions c.json', 'of a run it is --data.captions.'),
        ('evaluate --config tiny --tasks rte', 'of a run it means nothing.'),
        ('features VIDEOS --out y --features.fps 4', 'on files it is --fps.'),
        ('features VIDEOS --out y --students.nst.weight 4', 'on files it means nothing.'),
        ('evaluate MODEL --tasks rte --out y --data.videos z', 'on files it means nothing.'),
        ('features VIDEOS --fps 4', "'vidlankd features VIDEOS' needs --out"),
        ('pairs FEATURES --out y', "needs --captions"),
        ('vocabulary captions.json --out y', 'at least one text file'),
        ('ground RUN', "needs --text"),
        ('ground --text x', "'vidlankd ground RUN --text SENTENCE'"),
        ('features --config FILE', "Unknown key 'fps' in the configuration; a run has it as 'features.fps'."),
    ],
)
def test_the_two_uses_are_not_mixed(words, said, tmp_path, capsys):
    (tmp_path / 'c.yaml').write_text('fps: 4\n', encoding='utf-8')
    code, _, error = in_process(words.replace('FILE', str(tmp_path / 'c.yaml')), capsys)
    assert code == 2 and said in error and len(error.splitlines()) == 1


def test_options_of_both_uses_where_they_belong(capsys):
    "What a run's configuration is, whatever the command; and what files are worked on with, in any order of the words."
    from vidlankd_nb.arguments import command_parser, file_words, means_files
    from vidlankd_nb.cli import FILES

    _, shown, _ = in_process(
        'ground --config quick --seed 3 --students {"a":{"objective":"l2"}} --features.fps 4 --print_config',
        capsys,
    )
    made = yaml.safe_load(shown)
    assert (
        (made['seed'], made['features']['fps'], list(made['students'])) == (3, 4.0, ['a'])
        and 'readers' not in made
        and 'text' not in made
    )

    def read(command, words):
        parser = command_parser(command, '', FILES[command])
        assert means_files(words.split(), parser, FILES[command])
        return file_words(words.split(), parser, FILES[command])

    for words in (
        'VIDEOS --fps 4 --strict --out y',
        '--strict VIDEOS --out=y --fps 4',
        '--out y --fps=4 --strict -- VIDEOS',
    ):
        plain, section, given = read('features', words)
        assert (
            plain == ['VIDEOS']
            and section.fps == 4.0
            and given.strict
            and (given.out, given.captions) == ('y', None)
        )
    plain, section, given = read(
        'evaluate', 'a --tasks rte b=c --data GLUE --out y --lr 1e-4 --keep_models true'
    )
    assert (
        plain == ['a', 'b=c']
        and section.lr == 1e-4
        and (given.benchmarks, given.seeds, given.keep_models) == ('GLUE', 5, True)
    )
    assert read('ground', 'RUN --text x --students=none')[2].readers == 'none'
    assert read('vocabulary', 'c.json --seed 3 --out y t.txt')[0::2][1].seed == 3


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    from vidlankd_nb import cli

    def full(args):
        raise OSError(errno.ENOSPC, 'No space left on device', 'runs/mine/x')

    def broken(args):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setitem(cli.COMMANDS, 'run', (full, ''))
    with pytest.raises(SystemExit) as e:
        cli.main(['run'])
    assert e.value.code == 2 and 'runs/mine/x: no space left on device. Make room' in capsys.readouterr().err
    monkeypatch.setitem(cli.COMMANDS, 'run', (broken, ''))
    with pytest.raises(OSError):
        cli.main(['run'])


def test_a_run_without_anything_held_out(tmp_path):
    "Few videos, or few lines: none may fall to the held-out side. What then is not known is said, and nobody is left out of the table."
    from vidlankd_nb.ablation import live_table
    from vidlankd_nb.config import Distillation
    from vidlankd_nb.grids import Cell

    out = vidlankd(
        'run',
        *SMALL,
        '--corpus.valid_share',
        '0',
        '--pairs.valid_share',
        '0',
        '--student.steps',
        '4',
        '--world.noun_clips',
        '192',
        '--world.generic_clips',
        '40',
        '--world.two_event_clips',
        '0',
        '--evaluation.finetune_steps',
        '2',
        '--students',
        '{text_only: {objective: none}}',
        '--out',
        tmp_path / 'run',
    )
    assert out.returncode == 0, out.stderr[-3000:]
    page, report = (
        (tmp_path / 'run' / 'report.html').read_text(encoding='utf-8'),
        json.loads((tmp_path / 'run' / 'report.json').read_text(encoding='utf-8')),
    )
    assert report['teacher']['retrieval'] == {} and report['students']['text_only']['mlm_loss'] is None
    assert '<th>text_only</th>' in page and '<td>–</td></tr>' in page and 'No pair was held out' in page
    assert 'done' in live_table(
        [Cell('a', 't', Distillation())], [0], {('a', 0): {'status': 'done', 'result': {'mlm_loss': None}}}
    )


def test_files_are_looked_at_once(tmp_path, monkeypatch):
    "A folder of a hundred thousand videos takes seconds to look through, and every stage after `features` rests on it."
    from vidlankd_nb import plan
    from vidlankd_nb.experiments import Experiment
    from vidlankd_nb.presets import load_run

    for name in ('videos', 'c.json', 't.txt'):
        (tmp_path / name).mkdir() if name == 'videos' else (tmp_path / name).write_text(
            '{}', encoding='utf-8'
        )
    x = Experiment(
        load_run(
            'quick',
            data__videos=str(tmp_path / 'videos'),
            data__captions=str(tmp_path / 'c.json'),
            data__text=[str(tmp_path / 't.txt')],
        ),
        tmp_path / 'run',
        show=False,
    )
    looked = []
    monkeypatch.setattr(plan, 'contents', lambda path: looked.append(Path(path).name))
    for name in x.chain():
        plan.stage_key(x, plan.STAGES[name])
    x.close()
    assert looked.count('videos') == 1 and len(looked) <= 5


def test_a_folder_that_is_not_a_run(tmp_path):
    (tmp_path / 'precious.txt').write_text('mine', encoding='utf-8')
    assert 'Nothing was written' in refused('run', '--config', 'quick', '--out', tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['precious.txt']


def test_report_is_complete(finished):
    r = json.loads((finished / 'report.json').read_text(encoding='utf-8'))
    assert set(r['students']) == {'text_only', 'l2', 'nst', 'infonce', 'crd'}
    for s in r['students'].values():
        for probe in ('property', 'physical', 'order'):
            assert set(s[probe]) >= {'mean', 'sd', 'per_seed'} and 0 <= s[probe]['mean'] <= 1
        assert s['mlm_loss'] > 0
    assert {'r1', 'r5', 'chance_r1'} <= set(r['teacher']['retrieval'])
    assert 0 <= r['controls']['caption_teacher']['property']['mean'] <= 1
    assert 0.2 < r['baseline']['property']['permutation'] < 0.7
    assert r['seconds']['total'] > 0 and r['seconds']['teacher'] > 0 and r['config']['teacher']['steps'] == 20


def test_report_page_carries_its_pictures(finished):
    page = (finished / 'report.html').read_text(encoding='utf-8')
    assert page.count('<img src="data:image/png;base64,') >= 3 and '<table>' in page
    assert 'src="http' not in page and 'href="http' not in page


def test_a_finished_run_is_not_run_again(finished):
    before = files(finished, '*.safetensors')
    out = vidlankd('run', '--config', 'quick', '--out', finished)
    assert out.returncode == 0 and out.stdout.count('done before') == 8
    assert files(finished, '*.safetensors') == before


def test_another_configuration_is_refused(finished):
    before = {p: v for p, v in files(finished).items()}
    assert 'teacher.lr' in refused('run', '--config', 'quick', '--teacher.lr', '5e-4', '--out', finished)
    assert files(finished) == before


def test_students_load_without_this_package(finished):
    code = """
import sys
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer
m, info = AutoModelForMaskedLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not info['missing_keys'] and not info['unexpected_keys'], info
AutoModel.from_pretrained(sys.argv[1]); AutoTokenizer.from_pretrained(sys.argv[1])
assert 'vidlankd_nb' not in sys.modules
"""
    out = subprocess.run(
        [sys.executable, '-c', code, str(finished / 'students' / 'crd')],
        capture_output=True,
        env=ENV,
        cwd='/',
        encoding='utf-8',
    )
    assert out.returncode == 0, out.stderr[-2000:]


def test_killed_at_any_moment_it_goes_on(finished, tmp_path):
    "kill -9 in four places, the same command each time; then every weight and every figure is the uninterrupted run's."
    folder = tmp_path / 'killed'
    moments = [
        'world/videos',
        'teachers/video/checkpoints/step-00000010',
        'students/nst/checkpoints/step-00000010',
        'evaluation',
    ]
    for moment in moments:
        p, began = start(*CLI[1:], 'run', '--config', 'quick', '--out', folder), time.monotonic()
        while not (folder / moment).exists() and p.is_alive() and time.monotonic() - began < 120:
            time.sleep(0.002)
        assert (folder / moment).exists(), f'{moment} did not come to be'
        p.kill()
        p.join()
        assert p.exitcode == -signal.SIGKILL
    out = vidlankd('run', '--config', 'quick', '--out', folder)
    assert out.returncode == 0, out.stderr[-3000:]
    ours, theirs = ({p: v for p, v in files(f, 'model.safetensors').items()} for f in (folder, finished))
    assert len(ours) == 8 and ours == theirs
    a, b = (json.loads((f / 'report.json').read_text(encoding='utf-8')) for f in (folder, finished))
    for r in (a, b):
        r.pop('seconds')
    assert a == b


def test_two_processes_on_one_folder(tmp_path):
    from vidlankd_nb.experiments import Experiment
    from vidlankd_nb.presets import load_run

    x = Experiment(load_run('quick'), tmp_path / 'run', show=False)
    assert 'in use' in refused('world', '--config', 'quick', '--out', tmp_path / 'run')
    x.close()


def test_demo_with_two_worlds(tmp_path):
    small = [
        *SMALL,
        '--student.steps',
        '4',
        '--world.noun_clips',
        '192',
        '--world.generic_clips',
        '40',
        '--world.two_event_clips',
        '0',
        '--evaluation.finetune_steps',
        '2',
    ]
    out = vidlankd(
        'demo',
        *small,
        '--students',
        '{text_only: {objective: none}, l2: {objective: l2, weight: 5}}',
        '--seeds',
        '2',
        '--first-seed',
        '3',
        '--out',
        tmp_path / 'demo',
    )
    assert out.returncode == 0, out.stderr[-3000:] + out.stdout[-2000:]
    r = json.loads((tmp_path / 'demo' / 'report.json').read_text(encoding='utf-8'))
    assert r['seeds'] == [3, 4] and len(r['students']['l2']['property']['per_seed']) == 2
    assert out.stdout.strip().splitlines()[-2] == f"report: {tmp_path / 'demo' / 'report.html'}"
    used = f"Of the worlds in {tmp_path / 'demo'} (seeds 3, 4), {tmp_path / 'demo' / 'seed-3'} is used."
    for words in (['report', tmp_path / 'demo'], ['evaluate', '--out', tmp_path / 'demo']):
        asked = vidlankd(*words)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.splitlines()[0] == used and f'\n{words[0]}: ' in asked.stdout
    looked = vidlankd('ground', tmp_path / 'demo', '--text', 'look at the red one')
    assert looked.returncode == 0, looked.stderr
    assert looked.stdout.splitlines()[0] == used
    assert (tmp_path / 'demo' / 'seed-3' / 'looks' / 'look.png').is_file()
    assert 'There is no run in' in refused('report', tmp_path / 'nowhere')


def test_a_fast_demo_is_a_configuration_of_its_own(tmp_path):
    out = tmp_path / 'demo'
    assert 'leave out --fast or --config' in refused('demo', '--fast', '--config', 'tiny', '--out', out)
    assert '--seeds must be 1 or more' in refused('demo', '--fast', '--seeds', 0, '--out', out)
    assert not out.exists()


MINE = '''
import torch
from vidlankd_nb.objectives import Objective

class Cosine(Objective):
    "One minus the cosine of the two states of a token."
    def __init__(self, student_width, teacher_width, power: float = 1.0):
        super().__init__(student_width, teacher_width)
        self.power = power
    def compare(self, s, t, mask, ids):
        return self.mean((1 - torch.cosine_similarity(s, t, dim=-1)) ** self.power, mask), {}
'''


def test_an_objective_of_ones_own(tmp_path):
    (tmp_path / 'mine.py').write_text(MINE, encoding='utf-8')
    words = [
        '--config',
        'quick',
        '--out',
        tmp_path / 'run',
        '--controls',
        '{}',
        '--students',
        f'{{mine: {{objective: "{tmp_path}/mine.py:Cosine", weight: 2, options: {{power: 2}}}}}}',
    ]
    for stage in ('world', 'features', 'pairs', 'corpus', 'teacher', 'student'):
        out = vidlankd(stage, *words)
        assert out.returncode == 0, out.stderr[-2000:]
    rows = [
        json.loads(line)
        for line in (tmp_path / 'run' / 'students' / 'mine' / 'log.jsonl')
        .read_text(encoding='utf-8')
        .splitlines()
    ]
    losses = [r['terms']['distillation'] for r in rows if 'terms' in r]
    assert losses[-1] < losses[0]
    wrong = [w if not str(w).startswith('{mine') else w.replace('power: 2', 'pover: 2') for w in words[4:]]
    assert "did you mean 'power'" in refused(
        'run', '--config', 'quick', '--out', tmp_path / 'other', *wrong[0:]
    )
