"Captions, alignment, splits, bad input, batches."

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from vidlankd_nb import captions as C
from vidlankd_nb import pairs as P
from vidlankd_nb import store as S
from vidlankd_nb.config import Pairs
from vidlankd_nb.files import UserError
from vidlankd_nb.masking import Masker
from vidlankd_nb.presets import load_run
from vidlankd_nb.store import FeatureStore, StoreWriter, id_hash


def make_store(folder, n=12, seconds=30, width=4, rate=1.0, start=0.0, difference=0):
    rng = np.random.default_rng(0)
    w = StoreWriter(folder, dict(width=width, difference=difference))
    for i in range(n):
        w.add(f'v{i:03d}', f'v{i:03d}.mp4', rng.normal(size=(int(seconds * rate), width)), rate, start)
    w.flush()
    return folder


def caption(*spans):
    return dict(start=[s[0] for s in spans], end=[s[1] for s in spans], text=[s[2] for s in spans])


# -- captions --


@pytest.mark.parametrize('piece', [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize('indent', [None, 1])
def test_captions_are_read_in_any_pieces(tmp_path, piece, indent):
    want = {
        'a': caption((0, 1.5, 'x "y" {z}, ü')),
        'b"{': caption((0, 1e3, 'ä\\'), (2, 3, '')),
        'c': 12345,
        'd': {},
        'e': None,
    }
    (tmp_path / 'c.json').write_text(json.dumps(want, indent=indent), encoding='utf-8')
    assert list(C.read_captions(tmp_path / 'c.json', piece)) == list(want.items())
    (tmp_path / 'u.json').write_text(json.dumps(want, indent=indent, ensure_ascii=False), encoding='utf-8')
    assert list(C.read_captions(tmp_path / 'u.json', piece)) == list(want.items())
    (tmp_path / 'bom.json').write_text(
        json.dumps(want, ensure_ascii=False), encoding='utf-8-sig'
    )  # as Windows writes it
    assert list(C.read_captions(tmp_path / 'bom.json', piece)) == list(want.items())
    (tmp_path / 'empty.json').write_text(' { } \n', encoding='utf-8')
    assert list(C.read_captions(tmp_path / 'empty.json', piece)) == []


@pytest.mark.parametrize(
    'text',
    ['', '[1]', '{"a": {"start": [1', '{"a"', '{"a": 1 "b": 2}', '{"a": 1,}', '{1: 2}', '{"a": tru}', '{'],
)
def test_what_is_no_caption_file_is_a_sentence(tmp_path, text):
    (tmp_path / 'c.json').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match='c.json is not a JSON object'):
        list(C.read_captions(tmp_path / 'c.json', 3))
    with pytest.raises(UserError, match='no caption file'):
        list(C.read_captions(tmp_path / 'd.json'))


def test_repeated_against_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(300):
        a, b = [list(rng.choice(['x', 'y', 'Z'], rng.integers(0, 6))) for _ in range(2)]
        k = C.repeated(a, b)
        assert a[len(a) - k :] == b[:k] and all(
            a[len(a) - j :] != b[:j] for j in range(k + 1, min(len(a), len(b)) + 1)
        )
    assert C.repeated(['The', 'pan'], ['the', 'PAN', 'is']) == 2


def test_overlap_is_only_cut_between_neighbours_in_time():
    spans = [C.Span(0, 2, 'stir it'), C.Span(60, 62, 'stir it well')]
    assert [s.text for s in C.without_overlap(spans)[0]] == ['stir it', 'stir it well']
    assert [s.text for s in C.without_overlap([spans[0], C.Span(1, 3, 'stir it well')])[0]] == [
        'stir it',
        'well',
    ]


def test_merging_respects_length_and_silence():
    spans = [C.Span(i, i + 1, f'w{i} w{i}') for i in range(5)] + [C.Span(100, 101, 'late one')]
    assert [(s.start, s.end, len(s.text.split())) for s in C.merged(spans, 4, 5)] == [
        (0, 2, 4),
        (2, 4, 4),
        (4, 5, 2),
        (100, 101, 2),
    ]
    assert [s.text for s in C.merged([C.Span(0, 9, 'a'), C.Span(1, 2, 'b')], 9, 5)] == ['a b'] and C.merged(
        [C.Span(0, 9, 'a'), C.Span(1, 2, 'b')], 9, 5
    )[0].end == 9


def test_every_kind_of_bad_caption_is_counted_and_named(tmp_path):
    make_store(tmp_path / 'f')
    bad = [
        (5, 2, 'reversed'),
        (5, 5, 'no time'),
        (40, 50, 'outside'),
        (25, 60, 'mostly outside'),
        (1, 2, '  '),
        (1, 2, None),
        ('x', 2, 'text'),
        (float('nan'), 3, 'nan'),
        (-4, 3, 'before'),
        (1, 1.2, 'short'),
    ]
    caps = {
        'v000': caption(*bad, (1, 3, 'good one'), (28, 31, 'a little over')),
        'v001': dict(start=[1], end=[2, 3], text=['a']),
        'v002': dict(start=[1], text=['a']),
        'v003': [1, 2],
        'zzz': caption((0, 1, 'no video')),
    }
    train, valid, r = P.make_pairs(tmp_path / 'f', caps, Pairs(valid_share=0), tmp_path / 'p')
    assert r['skipped_counts'] == {
        'ends before it starts': 2,
        'beyond the video': 2,
        'empty text': 2,
        'times that are no numbers': 2,
        'starts before the video': 1,
        'shorter than min_seconds': 1,
        'start, end and text are not three lists of one length': 3,
        'no features': 1,
    }
    assert (
        [p.text for p in (train[0], train[1])] == ['good one', 'a little over']
        and len(train) == 2
        and train[1].end == 30
        and r['cut_at_the_end'] == 1
    )
    lines = [
        json.loads(l) for l in (tmp_path / 'p' / 'skipped.jsonl').read_text(encoding='utf-8').splitlines()
    ]
    assert (
        lines == r['skipped']
        and len(lines) == 14
        and {(l['video'], l.get('caption')) for l in lines} >= {('v000', 0), ('v000', 6), ('zzz', None)}
    )
    assert json.loads((tmp_path / 'p' / 'report.json').read_text(encoding='utf-8')) == r


@pytest.mark.parametrize(
    'caps,said',
    [
        ({'v000': caption((5, 2, 'x'))}, 'v000, caption 0: ends before'),
        ({'nobody': caption((1, 2, 'x'))}, 'nobody: no features'),
    ],
)
def test_strict_turns_the_first_into_an_error(tmp_path, caps, said):
    make_store(tmp_path / 'f')
    with pytest.raises(UserError, match=said):
        P.make_pairs(tmp_path / 'f', caps, Pairs(), tmp_path / 'p', strict=True)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(max_frames=0),
        dict(max_tokens=2),
        dict(min_seconds=-1),
        dict(valid_share=1.5),
        dict(valid_share=float('nan')),
        dict(merge_words=-1),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, wrong):
    make_store(tmp_path / 'f')
    with pytest.raises(UserError, match=f'pairs.{next(iter(wrong))} is .*; it must be'):
        P.make_pairs(tmp_path / 'f', {}, Pairs(**wrong), tmp_path / 'p')
    assert not (tmp_path / 'p').exists()


def test_one_window_a_video_is_its_first_usable_one(tmp_path):
    "Captions out of order, the first in time unusable: by hand, 'second' of v000, the merged 'a b' of v001."
    make_store(tmp_path / 'f', 4)
    caps = {
        'v000': caption(
            (9, 12, 'fourth'), (2, 1, 'reversed'), (1, 1.2, 'short'), (3, 5, 'second'), (6, 8, 'third')
        ),
        'v001': caption((1, 2, 'a'), (2, 3, 'b'), (20, 22, 'c')),
        'v002': caption((7, 9, 'alone')),
        'v003': caption((1, 1.1, 'x'), (2, 2.1, 'y')),
    }
    train, valid, said = P.make_pairs(
        tmp_path / 'f', caps, Pairs(windows='one', merge_words=2, merge_gap=0, valid_share=0), tmp_path / 'p'
    )
    assert [train.meta(i) for i in range(len(train))] == [
        ('v000', 3, 5, 'second'),
        ('v001', 1, 3, 'a b'),
        ('v002', 7, 9, 'alone'),
    ]
    assert said['skipped_counts'] == {
        'ends before it starts': 1,
        'shorter than min_seconds': 3,
        'not the first window of its video': 3,
    }
    assert said['captions'] == 11 and said['pairs'] == dict(train=3, valid=0)
    assert {s['reason'] for s in said['skipped']} == {
        'ends before it starts',
        'shorter than 0.5 s at 1.00 s',
        'shorter than 0.5 s at 2.00 s',
    }
    every, _, said = P.make_pairs(
        tmp_path / 'f', caps, Pairs(merge_words=2, merge_gap=0, valid_share=0), tmp_path / 'q'
    )
    assert len(every) == 6 and 'not the first window of its video' not in said['skipped_counts']


def test_one_window_is_no_fault_and_not_a_share_of_the_validation(tmp_path):
    make_store(tmp_path / 'f', 200)
    caps = {f'v{i:03d}': caption((0, 2, 'a'), (3, 5, 'b'), (6, 9, 'c')) for i in range(200)}
    train, valid, said = P.make_pairs(
        tmp_path / 'f', caps, Pairs(windows='one', valid_share=0.2), tmp_path / 'p', strict=True
    )
    assert {valid.meta(i)[0] for i in range(len(valid))} == {v for v in caps if id_hash(v) < 0.2 * 2**63}
    assert (
        len(train) + len(valid) == 200
        and said['skipped_counts'] == {'not the first window of its video': 400}
        and not said['skipped']
    )


def test_unknown_windows_are_refused(tmp_path):
    make_store(tmp_path / 'f')
    with pytest.raises(UserError, match="Unknown pairs.windows 'al': did you mean 'all'?"):
        P.make_pairs(tmp_path / 'f', {}, Pairs(windows='al'), tmp_path / 'p')
    assert not (tmp_path / 'p').exists()
    with pytest.raises(UserError, match="Unknown pairs.windows 'on': did you mean 'one'?"):
        load_run('tiny', pairs__windows='on')
    assert (
        load_run('tiny').pairs.windows == 'all'
        and load_run('tiny', pairs__windows='one').pairs.windows == 'one'
    )


def test_duplicate_ids_of_a_file_are_seen(tmp_path):
    make_store(tmp_path / 'f')
    one = json.dumps(caption((1, 2, 'first')))
    (tmp_path / 'c.json').write_text(
        '{{"v000": {}, "v001": {}, "v000": {}}}'.format(one, one, json.dumps(caption((1, 2, 'second')))),
        encoding='utf-8',
    )
    train, _, r = P.make_pairs(tmp_path / 'f', tmp_path / 'c.json', Pairs(valid_share=0), tmp_path / 'p')
    assert r['skipped'] == [dict(video='v000', reason='duplicate id')] and [
        train[i].text for i in range(2)
    ] == ['first', 'first']


# -- features --


def test_howto100m_files_as_published(tmp_path):
    rng = np.random.default_rng(0)
    for d, w, n in (('2d', 6, 20), ('3d', 4, 30)):
        (tmp_path / d).mkdir()
        for i in range(6):
            np.save(
                tmp_path / d / (f'v{i}.npy' if i % 2 else f'v{i}.mp4.npy'),
                rng.normal(size=(n, w)).astype([np.float16, np.float32][i % 2]),
            )
    caps = {f'v{i}': caption((0, 4, 'one'), (4.2, 9, 'two')) for i in range(6)}
    train, valid, r = P.make_pairs(
        tmp_path / '2d', caps, Pairs(normalise=True), tmp_path / 'p', features_3d=tmp_path / '3d'
    )
    assert (
        sum(r['pairs'].values()) == 12
        and train.store.width == 10
        and r['videos_used'] == dict(train=5, valid=1)
    )
    p = train[1]
    a, b = (
        np.load(next((tmp_path / '2d').glob(f'{p.video}.*'))),
        np.load(next((tmp_path / '3d').glob(f'{p.video}.*'))),
    )
    assert p.times.tolist() == [5, 6, 7, 8] and p.values.shape == (4, 10)
    for k, t in enumerate(p.times):
        want = np.zeros(4)
        for j in range(30):
            w = max(0, min(t + 1, (j + 1) / 1.5) - max(t, j / 1.5))
            want += w * b[j].astype(float)
        x, y = a[int(t)].astype(float), want
        np.testing.assert_allclose(
            p.values[k].astype(float),
            np.concatenate([x / np.linalg.norm(x), y / np.linalg.norm(y)]),
            atol=3e-3,
        )
    again = P.PairSet.load(tmp_path / 'p', 'train')
    assert np.array_equal(again[1].values, p.values) and again[1].text == p.text


# -- single pictures in place of clips --


def clips(folder, still, seconds=6, **kwargs):
    "Forty clips of six seconds, four rows a second; half of the columns are a difference in time."
    store = make_store(folder / 'features', n=2, seconds=20 * seconds, rate=4.0, difference=2)
    spoken = caption(*((k * seconds, (k + 1) * seconds, f'word {k}') for k in range(20)))
    cfg = Pairs(valid_share=0, still=bool(still), still_at=still or 'middle', max_frames=64)
    return P.make_pairs(store, {'v000': spoken, 'v001': spoken}, cfg, folder / 'pairs', **kwargs)[0]


def test_the_middle_of_a_clip_is_one_picture_without_its_motion(tmp_path):
    whole, middle = clips(tmp_path / 'a', None), clips(tmp_path / 'b', 'middle')
    for clip, one in zip(whole, middle, strict=True):
        assert len(clip.times) == 24 and one.times.tolist() == [clip.start + 3]
        shown = clip.values[clip.times.tolist().index(one.times[0])]
        assert (one.values[0, :2] == shown[:2]).all() and not one.values[0, 2:].any() and shown[2:].any()


def test_any_moment_is_drawn_for_each_clip_and_stays(tmp_path):
    drawn = clips(tmp_path, 'any')
    at = [float(one.times[0] - one.start) for one in drawn]
    assert all(len(one.values) == 1 and 0 <= t < 6 for one, t in zip(drawn, at, strict=True))
    assert len(set(at)) > 10 and min(at) < 1.5 and max(at) > 4.5 and 2 < np.mean(at) < 4
    program = (
        'import sys; from vidlankd_nb.pairs import PairSet; '
        'print([float(p.times[0] - p.start) for p in PairSet.load(sys.argv[1], "train")])'
    )
    again = subprocess.run(
        [sys.executable, '-c', program, tmp_path / 'pairs'], capture_output=True, encoding='utf-8', check=True
    )
    assert json.loads(again.stdout) == at


def test_a_folder_says_which_pictures_it_shows(tmp_path):
    for still, rows in (('middle', 1), ('any', 1), (None, 24)):
        clips(tmp_path / str(still), still)
        opened = P.PairSet.load(tmp_path / str(still) / 'pairs', 'train')
        assert (opened.still, len(opened[5].values)) == (still, rows)


def test_a_moment_without_a_picture_is_refused():
    run = load_run('quick', pairs__still=True, pairs__still_at='any')
    assert run.pairs.still and run.pairs.still_at == 'any'
    with pytest.raises(UserError, match='pairs.still_at is any, and changes nothing: set pairs.still'):
        load_run('quick', pairs__still_at='any')
    with pytest.raises(UserError, match="pairs.still_at 'moment'.*any, middle"):
        load_run('quick', pairs__still=True, pairs__still_at='moment')


def test_a_picture_beside_clip_features_is_refused(tmp_path):
    beside = make_store(tmp_path / '3d', n=2, seconds=120)
    for still in ('middle', 'any'):
        with pytest.raises(UserError, match='single picture of each clip'):
            clips(tmp_path / str(still), still, features_3d=beside)
    clips(tmp_path / 'whole', None, features_3d=beside)


def test_normalised_rows_stay_as_they_are():
    x = P.unit_rows(np.random.default_rng(0).normal(size=(5, 7)), [3, 4])
    np.testing.assert_allclose(P.unit_rows(x, [3, 4]), x, atol=1e-6)
    np.testing.assert_allclose((x[:, :3] ** 2).sum(1), 1, atol=1e-6)
    assert (P.unit_rows(np.zeros((1, 3)), [3]) == 0).all()
    large = P.unit_rows(np.array([[3e30, 4e30, 0], [3, 0, 4]], np.float32), [3])
    np.testing.assert_allclose(large, [[0.6, 0.8, 0], [0.6, 0, 0.8]], rtol=1e-6)


def test_alignment_ends_where_one_of_the_two_ends(tmp_path):
    make_store(tmp_path / 'a', 3, 30, 2, 1.0)
    make_store(tmp_path / 'b', 3, 10, 3, 1.5)
    s = S.Aligned(FeatureStore(tmp_path / 'a'), FeatureStore(tmp_path / 'b'))
    assert (
        len(s['v000']) == 10
        and s['v000'].end == 10
        and s.window('v000', 8, 20)[1].tolist() == [8, 9]
        and s.ids == ['v000', 'v001', 'v002']
    )
    whole, part = s['v001'], s.window('v001', 3, 6)
    np.testing.assert_array_equal(whole.values[3:6], part[0])
    assert not len(s.window('v000', 15, 20)[0])


def test_unusable_feature_files_are_named(tmp_path):
    d = tmp_path / '2d'
    d.mkdir()
    good = np.random.default_rng(0).normal(size=(20, 4))
    for i in range(5):
        np.save(d / f'good{i}.npy', good)
    np.save(d / 'wide.npy', np.zeros((20, 5)))
    np.save(d / 'flat.npy', np.zeros(20))
    np.save(d / 'whole.npy', np.zeros((20, 4), int))
    np.save(d / 'none.npy', np.zeros((0, 4)))
    np.save(d / 'object.npy', np.array([{'a': 1}], object), allow_pickle=True)
    (d / 'torn.npy').write_bytes((d / 'good0.npy').read_bytes()[:50])
    np.save(d / 'two.npy', good)
    np.save(d / 'two.mp4.npy', good)
    holes = good.copy()
    holes[3, 1] = np.nan
    np.save(d / 'holes.npy', holes)
    vast = good.copy()
    vast[3, 1] = 1e39  # a number of float64, and an infinity of float32
    np.save(d / 'vast.npy', vast)
    caps = {
        k: caption((0, 2, 'a'), (2, 5, 'b'))
        for k in (
            'good0',
            'wide',
            'flat',
            'whole',
            'none',
            'object',
            'torn',
            'two',
            'holes',
            'vast',
            'absent',
        )
    }
    train, _, r = P.make_pairs(d, caps, Pairs(valid_share=0), tmp_path / 'p')
    assert r['skipped_counts'] == {
        'unusable features': 7,
        'features that are not finite': 2,
        'no features': 1,
    }
    named = {x['video']: x['reason'] for x in r['skipped']}
    assert (
        'shape (20, 5)' in named['wide']
        and 'two feature files' in named['two']
        and 'not readable' in named['object']
        and 'at 2.00 s' in named['holes']
        and 'not finite (float32) at 2.00 s' in named['vast']
    )
    assert [(train[i].video, train[i].text) for i in range(len(train))] == [
        ('good0', 'a'),
        ('good0', 'b'),
        ('holes', 'a'),
        ('vast', 'a'),
    ]


def test_a_folder_that_is_nothing(tmp_path):
    (tmp_path / 'e').mkdir()
    for source, said in ((tmp_path / 'e', 'holds no features'), (tmp_path / 'n', 'no folder')):
        with pytest.raises(UserError, match=said):
            P.make_pairs(source, {}, Pairs(), tmp_path / 'p')
    np.save(tmp_path / 'e' / 'v.npy', np.ones((9, 4), np.float32))
    with pytest.raises(UserError, match='No video-text pairs came out: there are no captions'):
        P.make_pairs(tmp_path / 'e', {}, Pairs(), tmp_path / 'p')
    with pytest.raises(
        UserError, match='No video-text pairs came out: 1 no features, 2 empty text.*report.json'
    ):
        P.make_pairs(
            tmp_path / 'e',
            {'w': dict(start=[0], end=[1], text=['a']), 'v': dict(start=[0, 1], end=[1, 2], text=['', ' '])},
            Pairs(),
            tmp_path / 'p',
        )
    shutil.rmtree(tmp_path / 'e')
    (tmp_path / 'e').mkdir()
    with pytest.raises(UserError, match='holds no pairs'):
        P.PairSet.load(tmp_path / 'e', 'train')


# -- splits --


def test_videos_are_split_by_their_id_alone(tmp_path):
    make_store(tmp_path / 'f', 200)
    caps = {f'v{i:03d}': caption((0, 2, 'a'), (3, 5, 'b'), (6, 9, 'c')) for i in range(200)}
    train, valid, r = P.make_pairs(tmp_path / 'f', caps, Pairs(valid_share=0.2), tmp_path / 'p')
    a, b = ({s.meta(i)[0] for i in range(len(s))} for s in (train, valid))
    assert (
        not a & b
        and len(a | b) == 200
        and 20 < len(b) < 60
        and b == {v for v in caps if id_hash(v) < 0.2 * 2**63}
    )
    some = {k: caps[k] for k in list(caps)[::-3]}
    t2, v2, _ = P.make_pairs(tmp_path / 'f', some, Pairs(valid_share=0.2), tmp_path / 'q')
    assert {v2.meta(i)[0] for i in range(len(v2))} == b & set(some)
    assert len(P.make_pairs(tmp_path / 'f', caps, Pairs(valid_share=0), tmp_path / 'z')[1]) == 0


def test_one_video_is_held_out_where_the_share_is_less_than_one(tmp_path):
    "Whichever videos of the store have usable captions: the one with the smallest hash, and never the only one."
    make_store(tmp_path / 'f', 40)
    order = sorted((f'v{i:03d}' for i in range(40)), key=id_hash)
    for some, share in (
        (order[20:25], 0.01),
        (order[:3], 0.01),
        (order[:3], 0.9),
        (order[5:6], 0.9),
        (order[5:6], 0.01),
    ):
        caps = {v: caption((0, 2, 'a'), (3, 5, 'b')) for v in some} | {
            order[30]: caption((0, 2, ' ')),
            'nobody': caption((0, 2, 'a')),
        }
        train, valid, r = P.make_pairs(
            tmp_path / 'f',
            dict(sorted(caps.items())),
            Pairs(valid_share=share),
            tmp_path / f'{some[0]}-{len(some)}-{share}',
        )
        assert {valid.meta(i)[0] for i in range(len(valid))} == (
            set(some[:1]) if len(some) > 1 else set()
        ) and len(train) + len(valid) == 2 * len(some)
        assert r['skipped_counts'] == {'empty text': 1, 'no features': 1} and sum(
            r['pairs'].values()
        ) == 2 * len(some)


def test_pairs_are_the_same_bytes_in_another_process(tmp_path):
    make_store(tmp_path / 'f', 20)
    caps = {f'v{i:03d}': caption((0, 2, 'a b c'), (2, 5, 'b c d')) for i in range(20)}
    (tmp_path / 'c.json').write_text(json.dumps(caps), encoding='utf-8')
    P.make_pairs(tmp_path / 'f', tmp_path / 'c.json', Pairs(remove_overlap=True), tmp_path / 'p')
    code = f"from vidlankd_nb.pairs import *; from vidlankd_nb.config import Pairs; make_pairs({str(tmp_path / 'f')!r}, {str(tmp_path / 'c.json')!r}, Pairs(remove_overlap=True), {str(tmp_path / 'q')!r})"
    subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONHASHSEED': '3'}, check=True)
    for f in ('train.arrow', 'valid.arrow', 'report.json', 'pairs.json'):
        assert (tmp_path / 'p' / f).read_bytes() == (tmp_path / 'q' / f).read_bytes()


def test_a_moved_run_finds_its_features(tmp_path):
    make_store(tmp_path / 'run' / 'f')
    P.make_pairs(
        tmp_path / 'run' / 'f', {'v000': caption((0, 2, 'a'))}, Pairs(valid_share=0), tmp_path / 'run' / 'p'
    )
    (tmp_path / 'run').rename(tmp_path / 'elsewhere')
    assert P.PairSet.load(tmp_path / 'elsewhere' / 'p', 'train')[0].values.shape == (2, 4)


def test_many_pairs_cross_record_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(P, 'PIECE', 7)
    make_store(tmp_path / 'f', 3)
    caps = {f'v{i:03d}': caption(*((k, k + 1, f'{i} {k}') for k in range(25))) for i in range(3)}
    train, _, _ = P.make_pairs(tmp_path / 'f', caps, Pairs(valid_share=0), tmp_path / 'p')
    assert [train.meta(i)[3] for i in range(75)] == [
        f'{i} {k}' for i in range(3) for k in range(25)
    ] and train.meta(-1)[3] == '2 24'
    with pytest.raises(IndexError):
        train[75]


# -- batches --


@pytest.fixture(scope='module')
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] + [f'w{i}' for i in range(50)]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token='[PAD]',
        unk_token='[UNK]',
        cls_token='[CLS]',
        sep_token='[SEP]',
        mask_token='[MASK]',
    )


@pytest.fixture
def pairs(tmp_path):
    make_store(tmp_path / 'f', 10, 30)
    caps = {
        f'v{i:03d}': caption(
            *((k, 2 * k + 2, ' '.join(f'w{j}' for j in range(i + k)) or 'w0') for k in range(6))
        )
        for i in range(10)
    }
    return P.make_pairs(tmp_path / 'f', caps, Pairs(valid_share=0), tmp_path / 'p')[0]


CFG = Pairs(max_tokens=10, max_frames=4)


@pytest.mark.parametrize('ready', [False, True])
def test_a_batch_against_its_pairs(pairs, tokenizer, ready):
    if ready:
        pairs.preload(tokenizer, CFG, piece=7)
    examples = [5, 0, 30, 59]
    b = P.collate(pairs, tokenizer, CFG, examples)
    assert (
        b['input_ids'].dtype == torch.int64
        and b['video'].dtype == torch.float32
        and b['video_mask'].dtype == torch.bool == b['special'].dtype
    )
    for r, i in enumerate(examples):
        p, n = pairs[i], int(b['attention_mask'][r].sum())
        words = p.text.split()[:8]
        assert (
            tokenizer.convert_ids_to_tokens(b['input_ids'][r, :n]) == ['[CLS]', *words, '[SEP]']
            and (b['input_ids'][r, n:] == 0).all()
        )
        assert b['special'][r].tolist() == [True] + [False] * len(words) + [True] * (
            b['special'].shape[1] - len(words) - 1
        )
        f = int(b['video_mask'][r].sum())
        assert (
            f == min(4, len(p.values))
            and b['video_mask'][r, :f].all()
            and torch.equal(b['video'][r, :f], torch.tensor(p.values[P.even(len(p.values), 4)]).float())
        )
    assert b['examples'].tolist() == examples
    fixed = P.collate(pairs, tokenizer, CFG, [0], fixed=True)
    assert fixed['input_ids'].shape == (1, 10) and fixed['video'].shape == (1, 4, 4) and 'labels' not in b


@pytest.mark.parametrize('ready', [False, True])
def test_an_unknown_word_is_special(tmp_path, tokenizer, ready):
    "It is not hidden for the masked-LM loss, nor a token that is compared with video."
    make_store(tmp_path / 'f', 2)
    caps = {'v000': caption((0, 3, 'w1 soufflé w2')), 'v001': caption((0, 3, 'soufflé'))}
    train = P.make_pairs(tmp_path / 'f', caps, Pairs(valid_share=0), tmp_path / 'p')[0]
    if ready:
        train.preload(tokenizer, CFG)
    masker = Masker(tokenizer, share=1.0)
    batch = P.collate(train, tokenizer, CFG, [0, 1], mask=masker)
    assert batch['special'].tolist() == [[True, False, True, False, True], [True] * 5]
    assert batch['labels'].tolist() == [[-100, 6, -100, 7, -100], [-100] * 5]
    assert batch['input_ids'][0, 2] == batch['input_ids'][1, 1] == tokenizer.unk_token_id
    assert batch['attention_mask'].sum(1).tolist() == [5, 3]


def test_a_black_frame_is_no_padding(tmp_path, tokenizer):
    w = StoreWriter(tmp_path / 'f', dict(width=2))
    w.add('v', 'v.mp4', np.zeros((3, 2)), 1.0)
    w.flush()
    train = P.make_pairs(tmp_path / 'f', {'v': caption((0, 3, 'w1'))}, Pairs(valid_share=0), tmp_path / 'p')[
        0
    ]
    assert P.collate(train, tokenizer, CFG, [0])['video_mask'].tolist() == [[True] * 3]


def test_masks_do_not_depend_on_the_batch(pairs, tokenizer):
    seen = []

    def mask(ids, special, examples, epoch):
        seen.append((ids.shape, special.shape, ids.dtype, special.dtype, epoch))
        labels = np.full_like(ids, -100)
        for r, e in enumerate(examples):
            hit = (np.random.default_rng([e, epoch]).random(ids.shape[1]) < 0.5) & ~special[r]
            labels[r, hit], ids[r, hit] = ids[r, hit], 4
        return ids, labels

    a = P.collate(pairs, tokenizer, CFG, [3, 59, 10], epoch=2, mask=mask)
    b = P.collate(pairs, tokenizer, CFG, [3], epoch=2, mask=mask)
    n = b['input_ids'].shape[1]
    assert torch.equal(a['input_ids'][0, :n], b['input_ids'][0]) and torch.equal(
        a['labels'][0, :n], b['labels'][0]
    )
    assert (
        seen[0] == ((3, 10), (3, 10), np.int64, bool, 2)
        and (a['labels'] != -100).any()
        and (a['labels'][a['special']] == -100).all()
    )
    pairs.preload(tokenizer, CFG)
    c = P.collate(pairs, tokenizer, CFG, [3, 59, 10], epoch=2, mask=mask)
    assert all(torch.equal(c[k], a[k]) for k in a)
    assert (pairs.ready['ids'] != 4).all()  # a mask that writes in place does not reach what is kept


def test_a_split_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        P.PairSet.load(tmp_path, 'test')


def test_show_pair_names_a_missing_file(tmp_path, pairs):
    with pytest.raises(UserError, match='v000'):
        P.show_pair(pairs[0], tmp_path)


def test_captions_of_videos_without_features_are_counted_and_named(tmp_path):
    "Half a data set may have no features; its captions are captions, too."
    good = np.ones((30, 4), np.float32)
    (tmp_path / 'f').mkdir()
    for name in ('a', 'b'):
        np.save(tmp_path / 'f' / f'{name}.npy', good)
    np.save(tmp_path / 'f' / 'flat.npy', np.zeros(30))
    caps = {
        'a': caption((1, 3, 'one'), (5, 2, 'back')),
        'gone': caption((1, 3, 'two'), (3, 5, 'three'), (5, 7, 'four')),
        'flat': caption((1, 3, 'five')),
        'torn': dict(start=[1], end=[2, 3], text=['six']),
        'b': caption((1, 3, 'seven')),
    }
    for windows in ('all', 'one'):
        _, _, r = P.make_pairs(
            tmp_path / 'f', caps, Pairs(windows=windows, valid_share=0), tmp_path / windows
        )
        assert (r['videos'], r['captions'], r['captions_without_features']) == (5, 7, 4)
        assert r['pairs'] == dict(train=2, valid=0)
        assert r['skipped_counts']['no features'] == 2 and r['skipped_counts']['unusable features'] == 1
        assert {'video': 'gone', 'reason': 'no features', 'captions': 3} in r['skipped']
        assert r['notes'][0].startswith('dict: 5 videos, 7 captions; ')
        assert "4 of 7 captions are of videos without usable features, such as 'gone'" in r['notes']
    _, _, r = P.make_pairs(tmp_path / 'f', {'a': caps['a']}, Pairs(valid_share=0), tmp_path / 'p')
    assert r['captions_without_features'] == 0 and len(r['notes']) == 1
