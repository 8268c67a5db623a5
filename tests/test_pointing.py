"Scores of pointing on rows that are right, wrong and random, against a timetable written by hand or by the toy world."

import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow.ipc as ipc
import pytest
from support.trainings import CLI, call
from tokenizers import Tokenizer
from transformers import BertTokenizerFast

from vidlankd_nb.config import Pairs, World
from vidlankd_nb.files import UserError
from vidlankd_nb.filming import generate
from vidlankd_nb.pointing import (
    Aim,
    aims,
    auc,
    bootstrap,
    hit_rates,
    pointing_scores,
    read_whole,
    show_scores,
    word_rows,
)

WORLD = World(noun_clips=192, generic_clips=10, two_event_clips=200, sentences=20, size=16)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return generate(tmp_path_factory.mktemp('w') / 'world', WORLD, seed=5)


@pytest.fixture(scope='module')
def data(world):
    "All clips as pairs: their times and words, without features."
    captions = json.loads((world / 'caption.json').read_text(encoding='utf-8'))
    pairs = [
        SimpleNamespace(video=v, start=s, text=t, times=s + np.arange(round((e - s) * 8)) / 8)
        for v, c in captions.items()
        for s, e, t in zip(c['start'], c['end'], c['text'], strict=True)
    ]

    class Data:
        def __len__(self):
            return len(pairs)

    d = Data()
    d.pairs, d.cfg = pairs, Pairs(max_frames=16)
    return d


def rows(data, wanted, right=True):
    "Rows that peak where they should, or anywhere else."
    out = [np.zeros((len(p.text.split()), len(p.times))) for p in data.pairs]
    for a in wanted:
        out[a.pair][a.word, np.flatnonzero(a.right == right)[0]] = 1
    return out


def test_right_is_one_and_wrong_is_nought(data, world):
    for kind in ('noun', 'verb', 'glows', 'jumps'):
        wanted = [a for a in aims(data, world) if a.kind == kind]
        for right in (True, False):
            found = hit_rates(rows(data, wanted, right), wanted, 20)[kind]
            assert (found['mean'], found['low'], found['high']) == (right,) * 3
        assert found['n'] == len({a.pair for a in wanted}) and found['chance'] == (
            0.5 if kind in ('noun', 'verb') else pytest.approx(0.3, abs=0.03)
        )


def test_random_rows_score_as_chance(data, world):
    wanted, rng = aims(data, world), np.random.default_rng(0)
    found = [hit_rates([rng.random(r.shape) for r in rows(data, wanted)], wanted, 5) for _ in range(20)]
    for kind in ('noun', 'verb', 'event'):
        assert np.mean([f[kind]['mean'] for f in found]) == pytest.approx(found[0][kind]['chance'], abs=0.04)


def test_what_is_asked(data, world):
    names, events = (
        json.loads((world / 'probes.json').read_text(encoding='utf-8'))['names'],
        json.loads((world / 'events.json').read_text(encoding='utf-8')),
    )
    captions = json.loads((world / 'caption.json').read_text(encoding='utf-8'))
    wanted = aims(data, world)
    assert (
        150 < len({a.pair for a in wanted}) < 200
    )  # clips of one event are not asked, nor what happens twice
    for a in wanted:
        p = data.pairs[a.pair]
        word, entries = p.text.split()[a.word], events[p.video][captions[p.video]['start'].index(p.start)]
        assert len(p.times) == 16 and (word in names) == (a.kind == 'noun')
        if a.kind in ('noun', 'verb'):
            assert a.right.sum() == 8 and a.right[:8].all() != a.right[8:].all()
        else:
            (e,) = [e for e in entries if e['event'] == word]
            assert (
                set(np.flatnonzero((p.times >= e['start']) & (p.times < e['end'])))
                < set(np.flatnonzero(a.right))
                and a.right.sum() == 5
            )
        if a.kind == 'verb' and entries[0]['noun'] in names:
            assert len({e['event'] for e in entries if e['word']}) == 2


def test_auc_and_bootstrap():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 40), rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(np.mean(pairs)) and np.isnan(auc(scores, np.ones(40, bool)))
    groups = [rng.normal(3, 1, 4) for _ in range(100)]
    found = bootstrap(groups, np.mean)
    assert (
        found['low'] < found['mean'] < found['high']
        and found['n'] == 100
        and 0.05 < found['high'] - found['low'] < 0.6
    )
    assert found == bootstrap(groups, np.mean)


@pytest.mark.parametrize('row', [[np.nan] * 3, [0.1, np.nan, 0.3], [0.1, np.inf, 0.3]])
def test_a_diverged_teacher_points_nowhere(row):
    "The largest of NaN is the first of them, so a teacher without states hit whatever began a clip."
    wanted = [Aim(0, 0, 'noun', np.array([True, False, False]))]
    with pytest.raises(UserError, match='not finite'):
        hit_rates([np.array([row])], wanted)


def test_nothing_to_score_and_nothing_to_read(data, world):
    with pytest.raises(UserError, match='teacher.word_weight'):
        word_rows(SimpleNamespace(config=SimpleNamespace(has_words=False)), data)

    class Empty:
        pairs = []

        def __len__(self):
            return 0

    with pytest.raises(UserError, match='world.two_event_clips'):
        pointing_scores(None, Empty(), world)


def test_a_table_for_people():
    cell = dict(mean=0.9, low=0.85, high=0.95, chance=0.5)
    table = show_scores({'words': {'noun': cell}, 'shuffled': {'noun': cell | {'mean': 0.5}}})
    assert (
        table.loc['words', 'noun'] == '0.90 (0.85–0.95)'
        and table.loc['chance', 'noun'] == '0.50'
        and list(table.index) == ['words', 'shuffled', 'chance']
    )


def test_rows_are_those_that_the_teacher_is_shown(data, world):
    whole, wanted = {(a.pair, a.word, a.kind): a.right for a in aims(data, world)}, 8
    data.cfg.max_frames = wanted
    try:
        half = aims(data, world)
    finally:
        data.cfg.max_frames = 16
    assert half and all(len(a.right) == min(wanted, len(whole[a.pair, a.word, a.kind])) for a in half)
    data.cfg.max_frames = 1
    try:
        assert aims(data, world) == []  # a still points nowhere
    finally:
        data.cfg.max_frames = 16


def test_words_that_are_cut_off_their_captions_are_not_asked():
    "Of letters alone, seven tokens hold the first word and a part of the second; two of them are special."
    letters = [chr(n) for n in range(ord('a'), ord('z') + 1)]
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    pieces = [*special, *letters, *(f'##{c}' for c in letters)]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    captions = ['the zem glows', 'a zem glows']
    data = SimpleNamespace(tokenizer=tokenizer, cfg=Pairs(max_tokens=7))
    data.pairs = SimpleNamespace(meta=lambda i: (None, None, None, captions[i]))
    right = np.array([True, False])
    wanted = [Aim(pair, word, 'noun', right) for pair in (0, 1) for word in (0, 1, 2)]
    assert [(a.pair, a.word) for a in read_whole(data, wanted)] == [(0, 0), (1, 0), (1, 1)]


def test_a_run_whose_captions_are_cut_says_so_and_ends(tmp_path):
    words = ['--config', 'quick', '--students', '{a: {objective: none}}', '--controls', '{}']
    said = call(*CLI, 'run', *words, '--pairs.max_tokens', 4, '--out', tmp_path).stdout
    found = re.search(
        r'pointing: (\d+) of (\d+) words that should point are cut off .*pairs.max_tokens is 4', said
    )
    assert found and 0 < int(found[1]) < int(found[2]), said
    pairs = ipc.open_stream(tmp_path / 'pairs' / 'train.arrow').read_all()
    tokenizer = Tokenizer.from_file(str(tmp_path / 'corpus' / 'tokenizer' / 'tokenizer.json'))
    long = sum(len(tokenizer.encode(text).ids) > 4 for text in pairs['text'].to_pylist())
    assert (
        f'teacher (video): {long} of {len(pairs)} captions have more than 4 tokens, and lose their end'
        in said
    )
    pointed = json.loads((tmp_path / 'evaluation' / 'teachers-video.json').read_text(encoding='utf-8'))
    assert pointed['pointing'].keys() == {'words', 'tokens'}
