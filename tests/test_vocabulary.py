"Which words captions cover, on ordinary and on broken files."

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.trainings import CLI, python

from vidlankd_nb.config import Corpus
from vidlankd_nb.files import UserError
from vidlankd_nb.vocabulary import coverage, vocabulary_of_run, word_gap, word_interval, words

SAMPLES = Path(__file__).parent.parent / 'data_samples' / 'toyworld'


def vidlankd(*args):
    return python(*CLI[1:], 'vocabulary', *args)


def refused(*args):
    out = vidlankd(*args)
    assert (
        out.returncode == 2 and 'Traceback' not in out.stderr and len(out.stderr.strip().splitlines()) == 1
    ), (out.returncode, out.stderr)
    return out.stderr


def test_files(tmp_path):
    out = vidlankd(SAMPLES / 'caption.json', SAMPLES / 'text' / 'corpus.txt', '--out', tmp_path / 'v')
    assert out.returncode == 0, out.stderr
    found = json.loads((tmp_path / 'v' / 'vocabulary.json').read_text(encoding='utf-8'))
    assert (tmp_path / 'v' / 'vocabulary.png').read_bytes()[:4] == b'\x89PNG'
    said = {
        w
        for c in json.loads((SAMPLES / 'caption.json').read_text(encoding='utf-8')).values()
        for t in c['text']
        for w in t.split()
    }
    text = Counter((SAMPLES / 'text' / 'corpus.txt').read_text(encoding='utf-8').split())
    end = found['curve'][-1]
    assert end['captions'] == found['captions'] == 1440 and end['own']['mean'] == len(said)
    assert (
        end['types']['low']
        == pytest.approx(len(said & set(text)) / len(text))
        == pytest.approx(end['types']['high'])
    )
    assert end['tokens']['mean'] == pytest.approx(sum(text[w] for w in said & set(text)) / text.total())
    assert dict(found['uncovered']).keys() <= set(text) - said
    for key in ('types', 'tokens', 'own'):
        assert all(
            a[key]['mean'] <= b[key]['mean']
            and b[key]['low'] - 1e-9 <= b[key]['mean'] <= b[key]['high'] + 1e-9
            for a, b in zip(found['curve'], found['curve'][1:], strict=False)
        )


def timed(*texts):
    "Captions of one video, a second each."
    return {'v': {'start': [*range(len(texts))], 'end': [*range(1, len(texts) + 1)], 'text': [*texts]}}


def test_the_same_seed_the_same_curve():
    captions, text = (
        timed(*[f'word{chr(97 + i)} thing{chr(97 + i % 3)}' for i in range(20)]),
        Counter({'worda': 2, 'thinga': 1, 'thingb': 5}),
    )
    assert (
        coverage(captions, text, seed=1)
        == coverage(captions, text, seed=1)
        != coverage(captions, text, seed=2)
    )


def test_words():
    assert words("Straße don't CAFÉ naïve 12th <unk> @-@ x_y") == [
        'straße',
        'don',
        't',
        'café',
        'naïve',
        'th',
        'x',
        'y',
    ]


def test_broken_captions_are_counted_and_named_as_everywhere(tmp_path):
    "The reader of features, pairs and corpus, and its reasons; a caption of digits has no words."
    captions = timed('the ball', '', None, '12 34', 'half \ud83d', 'late')
    captions['v']['end'][5] = 1
    captions |= {'b': {'start': []}, 'c': [1], 'd': {'text': 'the'}}
    (tmp_path / 'c.json').write_text(json.dumps(captions), encoding='utf-8')
    (tmp_path / 't.txt').write_text('the ball and the dog\n', encoding='utf-8')
    out = vidlankd(tmp_path / 'c.json', tmp_path / 't.txt', '--out', tmp_path / 'v')
    assert out.returncode == 0, out.stderr
    said = out.stdout
    assert 'captions: HowTo100M JSON' in said and '2 empty text (v, caption 1)' in said
    found = json.loads((tmp_path / 'v' / 'vocabulary.json').read_text(encoding='utf-8'))
    assert found['left_out'] == {
        'empty text': 2,
        'half a character': 1,
        'ends before it starts': 1,
        'start, end and text are not three lists of one length': 3,
        'no words': 1,
    }
    assert [(c['video'], c.get('caption')) for c in found['skipped']] == [
        *[('v', i) for i in (1, 2, 4, 5)],
        *[(v, None) for v in 'vbcd'],
    ]
    assert found['curve'][-1]['tokens']['mean'] == 0.6


def test_bytes_that_are_no_text_are_passed_over_as_in_a_corpus(tmp_path):
    (tmp_path / 'c.json').write_text(json.dumps(timed('the ball')), encoding='utf-8')
    (tmp_path / 't.txt').write_bytes('the ball\ncaf\xe9 and milk\n'.encode('latin-1'))
    words = [tmp_path / 'c.json', tmp_path / 't.txt', '--out', tmp_path / 'v']
    assert "errors (corpus.errors) to 'replace' or 'skip'" in refused(*words)
    assert '1 lines or texts skipped' in vidlankd(*words, '--errors', 'skip').stdout
    found = json.loads((tmp_path / 'v' / 'vocabulary.json').read_text(encoding='utf-8'))
    assert found['text_types'] == 2 and found['text_left_out']['places'][0]['where'].endswith('at byte 12')
    (tmp_path / 't.jsonl').write_text('{"words": "the ball"}\n', encoding='utf-8')
    vidlankd(tmp_path / 'c.json', tmp_path / 't.jsonl', '--field', 'words', '--out', tmp_path / 'w')
    assert json.loads((tmp_path / 'w' / 'vocabulary.json').read_text(encoding='utf-8'))['text_types'] == 2


def test_wrong_words(tmp_path):
    good, text = SAMPLES / 'caption.json', SAMPLES / 'text' / 'corpus.txt'
    (tmp_path / 'torn.json').write_text('{"a": {"text": ["the', encoding='utf-8')
    (tmp_path / 'none.json').write_text('{}', encoding='utf-8')
    (tmp_path / 'latin.txt').write_bytes('caf\xe9\n'.encode('latin-1'))
    (tmp_path / 'empty.txt').write_text('12 34\n\n', encoding='utf-8')
    assert 'torn.json' in refused(tmp_path / 'torn.json', text, '--out', tmp_path / 'v')
    assert 'No captions' in refused(tmp_path / 'none.json', text, '--out', tmp_path / 'v')
    assert 'absent.json' in refused(tmp_path / 'absent.json', text, '--out', tmp_path / 'v')
    assert 'absent.txt' in refused(good, tmp_path / 'absent.txt', '--out', tmp_path / 'v')
    assert 'UTF-8' in refused(good, tmp_path / 'latin.txt', '--out', tmp_path / 'v')
    assert 'No words' in refused(good, tmp_path / 'empty.txt', '--out', tmp_path / 'v')
    assert 'orders' in refused(good, text, '--orders', 0, '--out', tmp_path / 'v')
    assert "did you mean '--orders'" in refused(good, text, '--order', 3, '--out', tmp_path / 'v')
    assert 'out' in refused(good, text)
    assert not (tmp_path / 'v').exists()


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / 'v').write_text('mine', encoding='utf-8')
    assert (
        'is a file'
        in refused(SAMPLES / 'caption.json', SAMPLES / 'text' / 'corpus.txt', '--out', tmp_path / 'v')
        and (tmp_path / 'v').read_text(encoding='utf-8') == 'mine'
    )


def test_gap_is_paired():
    base, better = [('red', 2.0), ('dog', 3.0), ('red', 4.0)], [('red', 1.0), ('dog', 3.0), ('red', 3.0)]
    found = word_gap(
        {'a': base, 'b': better}, {'covered': {'red'}, 'uncovered': {'dog', 'cat'}, 'none': {'x'}}, 'a'
    )
    assert found['covered']['b']['gap'] == {'mean': 1.0, 'low': 1.0, 'high': 1.0, 'tokens': 2, 'types': 1}
    assert (
        found['uncovered']['b']['gap']['mean'] == 0
        and found['none']['b']['gap']['mean'] is None
        and 'gap' not in found['covered']['a']
    )
    rng = np.random.default_rng(0)
    many = word_interval([f'w{i % 30}' for i in range(600)], rng.normal(0.5, 1, 600))
    assert many['low'] < 0.5 < many['high'] and many['types'] == 30
    with pytest.raises(UserError, match='text_only'):
        vocabulary_of_run({'l2': '.'}, {}, [], Corpus(), {}, '.')
