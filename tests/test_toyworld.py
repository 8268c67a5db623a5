"The toy world: formats, determinism, silence of the text, and what a user can get wrong."

import json
from collections import Counter
from itertools import chain, combinations

import av
import numpy as np
import pytest

from vidlankd_nb.config import World
from vidlankd_nb.files import UserError
from vidlankd_nb.filming import SAMPLE, generate, make_samples, render, write_video
from vidlankd_nb.toyworld import (
    ATTRIBUTES,
    TELLING,
    Event,
    balanced_attributes,
    corpus_lines,
    make_names,
    make_probes,
    noun_clips,
    telling_lines,
    two_event_clips,
)

TINY = World(
    names=64, noun_clips=192, generic_clips=33, two_event_clips=24, sentences=200, clips_per_video=20
)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return generate(tmp_path_factory.mktemp('world') / 'a', TINY, seed=3)


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


def decode(path):
    with av.open(str(path)) as file:
        return np.stack([f.to_ndarray(format='rgb24') for f in file.decode(video=0)])


def test_layout(world):
    captions, events = read(world / 'caption.json'), read(world / 'events.json')
    assert sorted(p.stem for p in (world / 'videos').iterdir()) == sorted(captions) == sorted(events)
    assert sum(len(c['text']) for c in captions.values()) == 249
    for video, c in captions.items():
        assert set(c) == {'start', 'end', 'text'} and len(c['start']) == len(c['end']) == len(
            c['text']
        ) == len(events[video])
        assert all(s < e for s, e in zip(c['start'], c['end'], strict=True))
        for s, e, happenings in zip(c['start'], c['end'], events[video], strict=True):
            assert happenings and all(
                s <= h['seen'][0] <= h['start'] < h['end'] <= h['seen'][1] <= e for h in happenings
            )
            assert len({tuple(h['seen']) for h in happenings}) == round(e - s)
    assert len((world / 'text' / 'corpus.txt').read_text(encoding='utf-8').splitlines()) == 200


def test_videos_are_what_the_field_uses(world):
    captions = read(world / 'caption.json')
    for path in sorted((world / 'videos').iterdir()):
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ('h264', 'yuv420p', 8)
            keys = [f.pts * f.time_base for f in file.decode(stream) if f.key_frame]
        assert set(captions[path.stem]['start']) <= {float(k) for k in keys}  # a key frame opens each clip
        assert [float(k) for k in keys] == list(range(len(keys)))  # … and each half of one with two events
        assert len(decode(path)) == 8 * len(keys)


def test_encoding_keeps_the_picture(tmp_path):
    film = render(
        [Event('wake', (c, s, 1, 0, 0), 'x') for c in range(4) for s in range(2)],
        TINY,
        np.random.default_rng(0),
    ).reshape(-1, 32, 32, 3)
    write_video(tmp_path / 'x.mp4', film, 8, 8)
    back = decode(tmp_path / 'x.mp4')
    pooled = lambda v: v.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4))
    assert np.abs(pooled(back) - pooled(film)).mean() < 4  # of 255: colours and places survive


def test_same_seed_same_world(world, tmp_path):
    again, other = generate(tmp_path / 'b', TINY, seed=3), generate(tmp_path / 'c', TINY, seed=4)
    for name in ('caption.json', 'events.json', 'probes.json', 'text/corpus.txt', 'world.json'):
        assert (world / name).read_bytes() == (again / name).read_bytes()
    for path in (world / 'videos').iterdir():
        assert np.array_equal(decode(path), decode(again / 'videos' / path.name))
    assert (world / 'probes.json').read_bytes() != (other / 'probes.json').read_bytes()


def test_a_half_written_folder_is_made_anew(world, tmp_path):
    folder = generate(tmp_path / 'w', TINY, seed=3)
    (folder / 'world.json').unlink()
    (folder / 'videos' / 'toy0000.mp4').write_bytes(b'half')
    (folder / 'videos' / 'toy9999.mp4').write_bytes(b'left over')
    generate(folder, TINY, seed=3)
    assert sorted(p.name for p in (folder / 'videos').iterdir()) == sorted(
        p.name for p in (world / 'videos').iterdir()
    )
    assert np.array_equal(decode(folder / 'videos' / 'toy0000.mp4'), decode(world / 'videos' / 'toy0000.mp4'))


def test_a_complete_world_is_left_alone(world):
    before = (world / 'caption.json').stat().st_mtime_ns
    assert generate(world, TINY, seed=3) == world and (world / 'caption.json').stat().st_mtime_ns == before
    with pytest.raises(UserError, match='another toy world'):
        generate(world, TINY, seed=4)
    with pytest.raises(UserError, match='cannot be made .Not a directory'):
        generate(world / 'world.json' / 'x', TINY)


def test_text_never_tells(world):
    names = set(read(world / 'probes.json')['names'])
    lines = [t for c in read(world / 'caption.json').values() for t in c['text']] + (
        world / 'text' / 'corpus.txt'
    ).read_text(encoding='utf-8').splitlines()
    assert telling_lines(lines, names) == []
    assert sum(bool(names & set(line.split())) for line in lines) > 150  # the check had something to read
    assert telling_lines(['a man pushes the nader and it rolls'], ['nader'])
    assert all(w in TELLING for v in ATTRIBUTES.values() for words in v for w in words.split())


def test_captions_do_not_depend_on_attributes():
    names = make_names(64, np.random.default_rng(0))
    a, b = (
        noun_clips(640, names, balanced_attributes(64, np.random.default_rng(s)), np.random.default_rng(5))
        for s in (1, 2)
    )
    assert [c.caption for c in a] == [c.caption for c in b]


def test_generic_captions_describe_what_is_shown():
    from vidlankd_nb.toyworld import generic_clips

    for c in generic_clips(200, np.random.default_rng(0)):
        event = c.events[0]
        words, seen = (
            set(c.caption.split()),
            dict(
                zip(
                    ATTRIBUTES,
                    (v[i] for v, i in zip(ATTRIBUTES.values(), event.values, strict=True)),
                    strict=True,
                )
            ),
        )
        assert not words & set(ATTRIBUTES['colour']) - {seen['colour']} and not words & set(
            ATTRIBUTES['size']
        ) - {seen['size']}
        assert not words & {'heavy', 'light'} - {seen['weight']}
        assert ('ball' in words) == (seen['shape'] == 'round') and ('rolls' in words) <= (
            seen['shape'] == 'round'
        )
        if event.kind == 'wake':
            assert seen['order'] in c.caption or f"{seen['order'].split()[0]} first" in c.caption


def test_two_event_clips():
    names = make_names(64, np.random.default_rng(0))
    clips = two_event_clips(
        8000, names, balanced_attributes(64, np.random.default_rng(0)), np.random.default_rng(1)
    )
    assert (
        telling_lines([c.caption for c in clips], names) == []
        and max(len(c.caption.split()) for c in clips) <= 12
    )
    in_order = []
    for i, c in enumerate(clips):
        (a, b), words = c.events, c.caption.split()
        assert all(e.start >= 1 and e.start + e.length <= 7 and e.word in words for e in c.events)
        assert (a.noun in names) == (b.noun in names) == (i % 2 == 0)
        if a.noun in names:
            assert a.noun != b.noun and {a.noun, b.noun} <= set(words)
        else:
            assert a.values[0] != b.values[0] and all(
                ATTRIBUTES['colour'][e.values[0]] in words for e in c.events
            )
        said = [e.noun if e.noun in names else ATTRIBUTES['colour'][e.values[0]] for e in c.events]
        in_order.append(words.index(said[0]) < words.index(said[1]))
    assert 0.45 < np.mean(in_order) < 0.55  # the sentence's order tells nothing
    named = [e for c in clips[::2] for e in c.events]
    assert min(sum(e.noun == x for e in named) for x in names) >= 100
    assert [
        c.caption
        for c in two_event_clips(
            40, names, balanced_attributes(64, np.random.default_rng(3)), np.random.default_rng(1)
        )[::2]
    ] == [c.caption for c in clips[:40:2]]  # names' captions do not depend on attributes


def test_where_a_thing_lies_does_not_tell_what_will_happen():
    "First frames before anything moves: the same for every kind of event."
    first = [
        render(
            [Event(kind, (0, 0, 0, 0, 0), 'x', start=3, length=3, still=True)],
            World(),
            np.random.default_rng(0),
        )[0, :3]
        for kind in ('drop', 'push', 'wake', 'glow', 'jump')
    ]
    assert all(np.array_equal(first[0], f) for f in first)


def test_events_happen_when_they_are_said_to():
    "Glow and jump are seen between the start and the end in `events.json`, and at no other time."
    from vidlankd_nb.filming import _event_times

    for start in range(6):
        for kind in ('glow', 'jump'):
            e = Event(kind, (0, 0, 0, 0, 0), 'x', start=start, length=3, word=kind + 's', still=True)
            film = render([e], World(), np.random.default_rng(start))[0].astype(float)
            red = np.clip(film[..., 0] - film[..., 1] - 60, 0, None)
            shown = (
                film.max(-1).mean((1, 2))
                if kind == 'glow'
                else -(red.sum(2) @ np.arange(32)) / red.sum((1, 2))
            )  # brightness, or height
            (t,), moved = _event_times(e, 'the ball glows and jumps', 0.0, 1.0), shown > np.median(shown) + 1
            assert (t['event'], t['word'], t['start'], t['end'], t['seen']) == (
                kind + 's',
                kind + 's',
                start / 8,
                (start + 3) / 8,
                [0.0, 1.0],
            )
            assert np.flatnonzero(moved).tolist() == list(range(start, start + 3))


def uniform(rows, attribute, known):
    "Is `attribute` spread evenly over its values among the rows that agree in `known`, whatever they agree on?"
    counts = Counter((tuple(r[k] for k in known), r[attribute]) for r in rows)
    groups = {group for group, _ in counts}
    values = {r[attribute] for r in rows}
    return all(len({counts[group, v] for v in values}) == 1 for group in groups)


def others_of(attribute, attributes):
    "Every subset of the other attributes."
    others = [a for a in attributes if a != attribute]
    return chain.from_iterable(combinations(others, size) for size in range(len(others) + 1))


@pytest.mark.parametrize('n', [64, 128, 192])
def test_no_attribute_tells_about_another(tmp_path, n):
    "From the written answers: among names alike in any other attributes, one attribute's values are equally frequent, so no guess beats chance."
    probes = read(
        generate(
            tmp_path / 'w',
            World(names=n, withheld=64, noun_clips=3 * n, generic_clips=0, two_event_clips=0, sentences=0),
            seed=n,
        )
        / 'probes.json'
    )
    sizes = {a: len(v) for a, v in probes['attributes'].items()}
    assert sizes == {'colour': 4, 'shape': 2, 'size': 2, 'weight': 2, 'order': 2}
    for part, count in (('names', n), ('withheld', 64)):
        rows = list(probes[part].values())
        assert len(rows) == count and all(len({r[a] for r in rows}) == sizes[a] for a in sizes)
        for a in sizes:
            for known in others_of(a, sizes):
                assert uniform(rows, a, known), (a, known)


def test_a_classifier_finds_nothing(world):
    "A tree grown until nothing is left to tell apart is at chance on the very names it was grown on; one that knows all pairs is not better on names left out."
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures
    from sklearn.tree import DecisionTreeClassifier

    rows = list(read(world / 'probes.json')['names'].values())
    for a, options in ATTRIBUTES.items():
        others, wanted = (
            OneHotEncoder().fit_transform([[r[k] for k in ATTRIBUTES if k != a] for r in rows]).toarray(),
            [r[a] for r in rows],
        )
        assert DecisionTreeClassifier(random_state=0).fit(others, wanted).score(others, wanted) == 1 / len(
            options
        ), a
        pairs = make_pipeline(
            PolynomialFeatures(2, interaction_only=True), LogisticRegression(C=100, max_iter=2000)
        )
        assert cross_val_score(pairs, others, wanted, cv=LeaveOneOut()).mean() <= 1 / len(options), a


def test_the_statement_is_not_empty():
    "An orthogonal array of strength two passes in pairs and fails in threes."
    rows = [{'a': a, 'b': b, 'c': a ^ b} for a in (0, 1) for b in (0, 1)]
    assert uniform(rows, 'c', ['a']) and uniform(rows, 'c', ['b']) and not uniform(rows, 'c', ['a', 'b'])
    for n in (0, 8, 32, 96):
        with pytest.raises(UserError, match='multiple of 64'):
            balanced_attributes(n, np.random.default_rng(0))


@pytest.mark.parametrize('n,most', [(64, 3), (128, 5), (192, 3)])
def test_halves_are_alike(n, most):
    "Of the names that a probe is trained and tested on: any `most` attributes together are equally frequent in both."
    for seed in range(3):
        values = balanced_attributes(n, np.random.default_rng(seed))
        names = [f'x{i:03d}' for i in range(n)]
        probes = make_probes(names, values, np.random.default_rng(seed))
        train, test = ([probes['names'][x] for x in probes['physical'][k]] for k in ('train', 'test'))
        for some in chain.from_iterable(combinations(ATTRIBUTES, size) for size in range(most + 1)):
            assert Counter(tuple(r[a] for a in some) for r in train) == Counter(
                tuple(r[a] for a in some) for r in test
            )
    firsts = {
        tuple(make_probes(names, values, np.random.default_rng(s))['physical']['train']) for s in range(8)
    }
    assert len(firsts) == 2  # either half may be the first


def test_names():
    names = make_names(96, np.random.default_rng(0))
    assert len({x[:3] for x in names}) == 96 and all(len(x) == 5 for x in names)
    with pytest.raises(UserError, match='world.names'):
        make_names(40001, np.random.default_rng(0))
    lines = list(corpus_lines(500, names, np.random.default_rng(0)))
    counts = [sum(x in line.split() for line in lines) for x in names]
    assert min(counts) >= 3 and max(counts) - min(counts) <= 1  # every name equally often


def test_probes(world):
    p = read(world / 'probes.json')
    train, test = set(p['physical']['train']), set(p['physical']['test'])
    assert not train & test and train | test == set(p['names']) and len(train) == len(test)
    assert all('{x}' in s for s in [*p['neutral'], p['physical']['choice']])
    for q in p['physical']['questions']:
        assert q['value'] in p['attributes'][q['attribute']]
    captions = {w for c in read(world / 'caption.json').values() for t in c['text'] for w in t.split()}
    known = captions | set((world / 'text' / 'corpus.txt').read_text(encoding='utf-8').split())
    assert {w for q in p['physical']['questions'] for w in q['question'].split()} <= known


@pytest.mark.parametrize(
    'change',
    [
        dict(names=10),
        dict(noun_clips=5),
        dict(size=31),
        dict(frames=4),
        dict(clips_per_video=0),
        dict(fps=0),
        dict(two_event_clips=-1),
        dict(names=32),
        dict(names=96, noun_clips=288),
        dict(withheld=32),
    ],
)
def test_impossible_worlds(tmp_path, change):
    with pytest.raises(UserError, match=f"world.{next(iter(change))}"):
        generate(tmp_path / 'x', World(**{**dict(names=64, noun_clips=192), **change}))
    assert not (tmp_path / 'x').exists()


def test_motion_shows_what_it_should():
    "Centre of the object over time, from the pixels alone."

    def path(kind, values):
        film = render([Event(kind, values, 'x')], World(), np.random.default_rng(0))[0].astype(float)
        red = np.clip(film[..., 0] - film[..., 1] - 60, 0, None)
        grid = np.arange(32)
        return (red.sum(1) @ grid) / red.sum((1, 2)), (red.sum(2) @ grid) / red.sum(
            (1, 2)
        )  # x, y over frames

    x, _ = path('push', (0, 0, 0, 0, 0))
    assert x[-1] - x[0] > 15
    x, _ = path('push', (0, 1, 0, 0, 0))
    assert 1 < x[-1] - x[0] < 6
    _, heavy = path('drop', (0, 0, 0, 0, 0))
    _, light = path('drop', (0, 0, 0, 1, 0))
    assert heavy[3] > heavy[-1] - 1 and light[3] < light[-1] - 5
    _, late = path('wake', (0, 0, 0, 0, 0))
    _, early = path('wake', (0, 0, 0, 0, 1))
    assert late.argmin() in (5, 6) and early.argmin() in (1, 2)


def test_shipped_sample():
    from pathlib import Path

    folder = Path(__file__).parents[1] / 'data_samples' / 'toyworld'
    stamp = read(folder / 'world.json')
    assert World(**stamp['world']) == SAMPLE and stamp['seed'] == 0
    captions = read(folder / 'caption.json')
    assert (
        sum(len(c['text']) for c in captions.values())
        == SAMPLE.noun_clips + SAMPLE.generic_clips + SAMPLE.two_event_clips
    )
    assert sorted(captions) == sorted(p.stem for p in (folder / 'videos').iterdir())


def test_shipped_sample_is_what_the_code_makes(tmp_path):
    from pathlib import Path

    shipped, made = Path(__file__).parents[1] / 'data_samples' / 'toyworld', make_samples(tmp_path)
    for name in ('caption.json', 'events.json', 'probes.json', 'text/corpus.txt', 'world.json'):
        assert (shipped / name).read_bytes() == (made / name).read_bytes(), name
