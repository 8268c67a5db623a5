"A run about real nouns on a handful of made pictures and norms: no leak, who is withheld, what is reckoned, and wrong inputs."

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from vidlankd_nb.cli import main
from vidlankd_nb.config import Corpus
from vidlankd_nb.evaluation.benchmarks import Task
from vidlankd_nb.evaluation.norms import COLOUR_WORDS, Norm
from vidlankd_nb.evaluation.records import Rows
from vidlankd_nb.named_pictures import open_pictures
from vidlankd_nb.nouns import Nouns, sift_text
from vidlankd_nb.presets import config_file, load_run
from vidlankd_nb.word_pictures import copy_pictures, sort_pictures, unreadable, words_of_norms

PAINTED = {
    'banana': 'yellow',
    'lemon': 'yellow',
    'canary': 'yellow',
    'butter': 'yellow',
    'coal': 'black',
    'raven': 'black',
    'tar': 'black',
    'tire': 'black',
    'ruby': 'red',
    'rose': 'red',
    'brick': 'red',
    'lobster': 'red',
    'frog': 'green',
    'fern': 'green',
    'lime': 'green',
    'cucumber': 'green',
    'cherry': 'red',
    'panther': 'black',
}


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n', encoding='utf-8')


def norms(folder, things=PAINTED):
    "CoDa with one annotator, and THINGS' sizes."
    none = dict.fromkeys(COLOUR_WORDS, 0)
    lines(
        folder / 'coda' / 'objects.jsonl',
        [
            {'class_id': t, 'object_s': t, 'areis_s': 'is', 'object_pl': t + 's', 'areis_pl': 'are'}
            for t in things
        ],
    )
    lines(
        folder / 'coda' / 'annotations.jsonl',
        [{'class_id': t, 'action': 'submitted', 'included': True} | none | {c: 1} for t, c in things.items()],
    )
    (folder / 'things').mkdir()
    sizes = ['word;meanSize', *(f'{t};{len(t)}' for t in things)]
    (folder / 'things' / 'size_fixed.csv').write_text('\n'.join(sizes), encoding='utf-8')
    return folder


def pictures(folder, things=PAINTED):
    for thing, colour in {**things, 'red circle': 'red', 'green frog': 'green', 'luck': 'white'}.items():
        (folder / thing).mkdir(parents=True)
        for k in range(2):
            Image.new('RGB', (12, 12 + k), colour).save(folder / thing / f'{k}.png')
    return folder


def text(file):
    rows = [f'they saw the {t} there' for t in PAINTED] * 3
    rows += [f'a {c} {t}' for t, c in PAINTED.items()] + ['it rained', 'a red car', 'Yellowish bananas!']
    file.write_text('\n'.join(rows), encoding='utf-8')
    return file


SMALL = [
    '--teacher.steps=4',
    '--teacher.batch=8',
    '--student.steps=3',
    '--student.batch=8',
    '--words.drawn=2',
    '--words.shuffles=3',
    '--threads=1',
    '--vokens.count=16',
    '--corpus.vocab_size=200',
]
TINY = '{"layers": 1, "width": 32, "heads": 2}'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A whole run with encoders from scratch; the report, and the folder."
    folder = tmp_path_factory.mktemp('words')
    preset = yaml.safe_load(Path(config_file('words')).read_text(encoding='utf-8'))
    for name in ('nst', 'crd'):
        preset['students'].pop(name)
    preset['controls'].pop('caption_teacher')
    (folder / 'words.yaml').write_text(yaml.safe_dump(preset, sort_keys=False), encoding='utf-8')
    words = [
        'run',
        '--config',
        str(folder / 'words.yaml'),
        '--out',
        str(folder / 'run'),
        f'--data.pictures={pictures(folder / "pictures")}',
        f'--data.text=[{text(folder / "text.txt")}]',
        f'--evaluation.norms={norms(folder / "norms")}',
        f'--teacher.text={TINY}',
        f'--student.text={TINY}',
        *SMALL,
    ]
    main(words)
    return folder / 'run', words


def withheld_by_hand():
    return {t for t in PAINTED if int(hashlib.sha256(t.encode()).hexdigest()[:2], 16) < 64}


def test_no_sentence_puts_a_noun_and_a_colour_together(finished):
    run, _ = finished
    captions = json.loads((run / 'pictures' / 'caption.json').read_text(encoding='utf-8'))
    said = [t for entry in captions.values() for t in entry['text']]
    read = (run / 'corpus' / 'chosen.txt').read_text(encoding='utf-8').splitlines()
    for sentence in said + read:
        words = set(re.findall('[a-z]+', sentence.lower()))
        nouns = words & set(PAINTED)
        colours = words & {*COLOUR_WORDS, 'grey', 'yellowish'}
        assert not (nouns and colours), sentence
    assert any('red' in s for s in said), 'colours are named over other things'
    chosen = json.loads((run / 'corpus' / 'chosen.json').read_text(encoding='utf-8'))
    assert chosen['counts'] == {'kept': 54, 'leaking': 19, 'about nothing': 1, 'coloured': 1}
    assert chosen['leaking'][0] == {
        'where': 'text.txt, line 55',
        'nouns': ['banana'],
        'colours': ['yellow'],
        'line': 'a yellow banana',
    }
    left = json.loads((run / 'pictures' / 'nouns.json').read_text(encoding='utf-8'))['left_out']
    assert left['it names a colour and shows a noun that is asked for']['pictures'] == 2  # the green frogs
    assert left['no norm asks about it']['pictures'] == 2  # luck


def test_a_quarter_by_hash_is_never_pictured(finished):
    run, _ = finished
    nouns = json.loads((run / 'pictures' / 'nouns.json').read_text(encoding='utf-8'))
    gone = withheld_by_hand()
    assert gone and set(nouns['withheld']) == gone
    assert set(nouns['pictured']) == set(PAINTED) - gone
    shown = {p.parent.name for p in (run / 'pictures' / 'shown').rglob('*.png')}
    assert shown == {*nouns['pictured'], '_drawn', '_named_colours'}


def taught(run):
    "The nouns of pictures that the teacher of a run learned from, by the table of its pairs."
    with pa.OSFile(str(run / 'pairs' / 'train.arrow')) as source:
        videos = pa.ipc.open_stream(source).read_all()['video'].to_pylist()
    return {Path(video).parent.name for video in videos} & set(PAINTED)


def test_a_noun_whose_pictures_were_all_held_out_counts_as_withheld(finished):
    run, _ = finished
    seen = taught(run)
    assert 0 < len(seen) < len(PAINTED) - len(withheld_by_hand())  # one was held out
    asked = json.loads((run / 'norms' / 'students-l2.json').read_text(encoding='utf-8'))['nouns']['coda']
    assert set(asked['shown']['words']) == seen
    assert set(asked['withheld']['words']) == set(PAINTED) - seen
    told = json.loads((run / 'report.json').read_text(encoding='utf-8'))['words']['nouns']
    assert set(told['pictured']) == seen and set(told['withheld']) == set(PAINTED) - seen


def test_the_report_has_every_model_twice_and_every_norm(finished):
    run, _ = finished
    words = json.loads((run / 'report.json').read_text(encoding='utf-8'))['words']
    students = ['text_only', 'l2', 'voken', 'wrong_pictures', 'captions_as_text']
    assert list(words['models']) == ['teacher', *students]
    for model in words['models'].values():
        assert set(model['nouns']) == {'coda', 'things_size'}
        for groups in model['nouns'].values():
            assert groups['shown']['nouns'] == len(taught(run))
            assert groups['withheld']['nouns'] == len(PAINTED) - len(taught(run))
    page = (run / 'report.html').read_text(encoding='utf-8')
    assert 'What people say of nouns' in page and 'withheld' in page and 'things_size' in page
    assert {p.stem for p in (run / 'figures').glob('*.png')} >= {
        'colour_wheel',
        'colours',
        'turned',
        'gain_by_pictures',
    }


def test_the_gain_is_that_of_the_written_figures(finished):
    run, _ = finished
    words = json.loads((run / 'report.json').read_text(encoding='utf-8'))['words']
    right = {}
    for name in ('l2', 'text_only'):
        found = json.loads((run / 'norms' / f'students-{name}.json').read_text(encoding='utf-8'))
        asked = found['nouns']['coda']['shown']
        right[name] = []
        for noun in asked['words']:
            said = asked['said'][noun]
            right[name].append(COLOUR_WORDS[int(np.argmax(said))] == PAINTED[noun])
    gap = words['models']['l2']['gaps']['coda']['shown']
    assert gap['mean'] == pytest.approx(np.mean(right['l2']) - np.mean(right['text_only']))
    assert gap['per_seed'] == [pytest.approx(gap['mean'])] and gap['low'] is None


def test_a_second_time_nothing_is_done_again(finished, capsys):
    run, words = finished
    before = {
        p: p.stat().st_mtime_ns for p in run.rglob('*') if p.suffix in ('.safetensors', '.arrow', '.txt')
    }
    main(words)
    said = capsys.readouterr().out
    assert all(f'{s}: done before' in said for s in ('pictures', 'corpus', 'teacher', 'student', 'norms'))
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_wrong_pictures_are_another_nouns(finished):
    from vidlankd_nb.batches import PairBatches
    from vidlankd_nb.pairs import PairSet
    from vidlankd_nb.plan import RunFolder
    from vidlankd_nb.presets import load_run
    from vidlankd_nb.run_texts import names_of
    from vidlankd_nb.tokenizer import load_tokenizer

    run, _ = finished
    places = RunFolder(load_run(run / 'config.yaml'), run, show=False)
    pairs = PairSet.load(run / 'pairs', 'train')
    names = names_of(places, 'train')
    tokenizer = load_tokenizer(run / 'corpus' / 'tokenizer')
    control = PairBatches(pairs, tokenizer, places.run.pairs, 0, shuffled=True, names=names)
    partner = control.partners_of(np.arange(len(pairs)))
    pictured = {name for name in names if name}
    for row, name in enumerate(names):
        other = names[partner[row]]
        assert partner[row] == row if name is None else other != name and other in pictured
        if name:
            assert pairs.meta(row)[3] == f'look at the {name}'
            assert pairs.meta(int(partner[row]))[0].startswith(other)


def refused(capsys, *words):
    with pytest.raises(SystemExit) as e:
        main(list(words))
    assert e.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.count('\n') == 0, said
    return said


def test_wrong_inputs_are_refused_in_a_sentence(tmp_path, capsys):
    made = norms(tmp_path / 'norms')
    seen = pictures(tmp_path / 'pictures')
    read = text(tmp_path / 'text.txt')

    def stage(name, p=seen, t=read, n=made, out='run'):
        return refused(
            capsys,
            name,
            '--config=words',
            f'--out={tmp_path / out}',
            f'--data.pictures={p}',
            f'--data.text=[{t}]',
            f'--evaluation.norms={n}',
            *SMALL,
        )

    strange = tmp_path / 'strange'
    (strange / 'hope').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(strange / 'hope' / '1.png')
    assert 'hope' in (said := stage('pictures', p=strange)) and 'CoDa' in said and 'four or more' in said
    (tmp_path / 'empty').mkdir()
    said = stage('pictures', n=tmp_path / 'empty')
    assert 'CoDa is not there' in said and 'github.com/nala-cub/coda' in said
    rain = tmp_path / 'rain.txt'
    rain.write_text('it rained\nthe red car', encoding='utf-8')
    given = [f'--data.pictures={seen}', f'--data.text=[{rain}]', f'--evaluation.norms={made}', *SMALL]
    main(['pictures', '--config=words', f'--out={tmp_path / "rain"}', *given])
    capsys.readouterr()
    said = stage('corpus', t=rain, out='rain')
    assert 'rain.txt' in said and 'about none of the nouns' in said and 'data.text' in said
    said = refused(
        capsys, 'run', '--config=words', f'--out={tmp_path / "none"}', f'--evaluation.norms={made}'
    )
    assert 'data.pictures' in said
    words = [f'--out={tmp_path / "text"}', f'--evaluation.norms={made}', f'--data.text=[{read}]']
    assert 'data.pictures' in refused(capsys, 'run', '--config=words', *words)


def test_too_few_clips_for_vokens_are_named_before_a_teacher_is_trained(tmp_path, capsys):
    given = [
        f'--data.pictures={pictures(tmp_path / "pictures")}',
        f'--data.text=[{text(tmp_path / "text.txt")}]',
        f'--evaluation.norms={norms(tmp_path / "norms")}',
    ]
    small = [word for word in SMALL if 'vokens' not in word]
    with pytest.raises(SystemExit):
        main(['run', '--config=words', f'--out={tmp_path / "run"}', *given, *small, '--vokens.count=5000'])
    assert 'vokens.count is 5,000 and there are' in capsys.readouterr().err
    assert not (tmp_path / 'run' / 'teachers').exists()


def test_a_text_of_any_kind_serves_a_run_on_pictures(tmp_path):
    "Without norms, lines are about what the pictures are called."
    seen = pictures(tmp_path / 'pictures')
    read = text(tmp_path / 'text.txt')
    given = [f'--data.pictures={seen}', f'--data.text=[{read}]', '--corpus.about=pictured', *SMALL]
    for stage in ('pictures', 'corpus'):
        main([stage, '--config=quick', f'--out={tmp_path / "run"}', *given])
    counts = json.loads((tmp_path / 'run' / 'corpus' / 'chosen.json').read_text(encoding='utf-8'))['counts']
    assert counts == {'kept': 54, 'leaking': 19, 'about nothing': 1, 'coloured': 1}


def test_seeds_come_together_in_one_file(finished, tmp_path, monkeypatch):
    "Two seeds, the second with other answers written into its files: means and Student's interval by hand."
    from vidlankd_nb.bench import words as bench

    run, _ = finished
    for seed in (0, 1):
        shutil.copytree(
            run, tmp_path / 'runs' / f'seed-{seed}', ignore=shutil.ignore_patterns('*.safetensors')
        )
    file = tmp_path / 'runs' / 'seed-1' / 'norms' / 'students-l2.json'
    found = json.loads(file.read_text(encoding='utf-8'))
    asked = found['nouns']['coda']['shown']
    asked['items']['top1'] = [1.0] * len(asked['words'])
    asked['measures'][0]['value'] = 1.0
    file.write_text(json.dumps(found), encoding='utf-8')
    monkeypatch.setattr(bench, 'run_worlds', lambda *args: None)  # they are done
    given = dict(pictures='P', text=['T'], norms=str(run.parent / 'norms'), model='none', seeds='0,1')
    result = bench.bench_words(tmp_path / 'out', **given, runs=tmp_path / 'runs')
    assert (
        json.loads((tmp_path / 'out' / 'words.json').read_text(encoding='utf-8'))['seconds']
        == result['seconds']
    )
    l2 = result['models']['l2']['nouns']['coda']['shown']
    first = json.loads((run / 'report.json').read_text(encoding='utf-8'))['words']['models']
    values = [first['l2']['nouns']['coda']['shown']['mean'], 1.0]
    assert l2['per_seed'] == values and l2['mean'] == pytest.approx(sum(values) / 2)
    half = 12.706204736 * abs(values[1] - values[0]) / 2  # t(.975, 1) · sd/√2, with sd = |a − b|/√2
    assert l2['high'] - l2['mean'] == pytest.approx(half)
    plain = first['text_only']['nouns']['coda']['shown']['mean']
    gap = result['models']['l2']['gaps']['coda']['shown']
    assert gap['per_seed'] == pytest.approx([v - plain for v in values])
    assert 'Control wrong_pictures' in bench.summary(result)
    assert {p.stem for p in (tmp_path / 'out' / 'words').glob('*.png')} == {
        'colour_wheel',
        'colours',
        'turned',
        'gain_by_pictures',
    }
    assert str(run.parent) not in json.dumps(result)


def test_the_words_of_the_bench_are_checked(capsys):
    assert '--norms' in refused(capsys, 'bench', 'words', '--pictures', 'P', '--text', 'T')
    assert 'numbers with commas' in refused(
        capsys,
        *[
            'bench',
            'words',
            '--pictures',
            'P',
            '--text',
            'T',
            '--norms',
            'N',
            '--model',
            'none',
            '--seeds',
            'one',
        ],
    )


def test_a_noun_whose_pictures_cannot_be_read_was_not_seen(tmp_path):
    folder = pictures(tmp_path / 'pictures')
    for file in (folder / 'frog').iterdir():
        file.write_bytes(file.read_bytes()[:20])
    found = open_pictures(folder, load_run('words').features)
    broken = unreadable(found)
    assert {Path(id).parent.name for id in broken} == {'frog'} and len(broken) == 2


def test_what_is_not_said_of_a_thing_is_said_of_none_of_its_spellings(tmp_path):
    "Folders stay below the run's, whatever a norm calls a thing; 'jean' and 'jeans' are seen or withheld together."
    things = ('table.', 'table', 'jean', 'jeans', '../../lemon', '_bear')
    rows = Rows(Task('coda', 'norm', ''), 'all')
    norm = Norm(None, 'class', COLOUR_WORDS, list(things), np.eye(6, 11), rows)
    nouns = words_of_norms({'coda': norm}, ['coda'])
    assert nouns.named('table') == 'table' and nouns.named('lemon') == '../../lemon'
    for thing in ('table', 'jean', 'jeans', 'lemon', 'bear'):
        (tmp_path / 'p' / thing).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / 'p' / thing / '0.png')
    found = open_pictures(tmp_path / 'p', load_run('words').features)
    heaps = sort_pictures(found.names, nouns, 0, 'look at the {name}')
    files = [file for file, _ in copy_pictures(heaps, found, tmp_path / 'run' / 'shown')]
    assert sorted(files) == ['bear/0.png', 'jean/0.png', 'jeans/0.png', 'lemon/0.png', 'table/0.png']
    assert not (tmp_path / 'lemon').exists() and (tmp_path / 'run' / 'shown' / 'lemon' / '0.png').exists()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        heaps = sort_pictures(found.names, nouns, share, 'look at the {name}')
        assert ('jean' in heaps.pictured) == ('jeans' in heaps.pictured)


def test_lines_that_are_no_text_are_counted_and_named(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'a frog sat\nthe \xe9 rose\nthe yel\xc2\xadlow lemon\n')
    nouns = Nouns(('frog', 'rose', 'lemon'))
    sifted = sift_text([tmp_path / 'a.txt'], nouns, nouns, Corpus(errors='skip'), tmp_path / 'out.txt')
    assert dict(sifted.counts) == {'kept': 1, 'leaking': 1, 'skipped': 1} and 'no text' in sifted.said()
    assert [place['where'].split('/')[-1] for place in sifted.places] == ['a.txt at byte 15']
