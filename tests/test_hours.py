"A world with hours of the day, and names that no video shows."

import json
from collections import Counter
from itertools import chain, combinations

import numpy as np
import pytest
from support.trainings import CLI, python

from vidlankd_nb.config import Evaluation, World
from vidlankd_nb.files import UserError
from vidlankd_nb.filming import HOURS, generate, hours_of, make_world
from vidlankd_nb.toyworld import balanced_attributes, make_names

FEW = World(kind='hours', withheld=64, noun_clips=192, generic_clips=20, two_event_clips=6, sentences=300)


def vidlankd(*args):
    return python(*CLI[1:], *args)


def refused(*args):
    out = vidlankd(*args)
    assert (
        out.returncode == 2 and 'Traceback' not in out.stderr and len(out.stderr.strip().splitlines()) == 1
    ), (out.returncode, out.stderr)
    return out.stderr


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp('world') / 'a', FEW, seed=2)


def test_same_seed_same_world(world, tmp_path):
    other = make_world(tmp_path / 'b', FEW, seed=2)
    for name in ('caption.json', 'probes.json', 'text/corpus.txt', 'videos/toy0000.mp4'):
        assert (world / name).read_bytes() == (other / name).read_bytes()
    assert make_world(world, FEW, seed=2) == world
    with pytest.raises(UserError, match='another toy world'):
        make_world(world, World(kind='objects'), seed=2)


def test_hours_are_balanced_and_silent(world):
    probes, captions, text = (
        read(world / 'probes.json'),
        read(world / 'caption.json'),
        (world / 'text' / 'corpus.txt').read_text(encoding='utf-8').split(),
    )
    said = {w for c in captions.values() for t in c['text'] for w in t.split()}
    shown, hidden = set(probes['names']), set(probes['withheld'])
    assert not {'dawn', 'noon', 'dusk'} & (said | set(text)) and 'night' not in said
    assert shown <= said and not hidden & said and shown | hidden <= set(text)
    counts = [
        sum(
            x in line.split()
            for line in (world / 'text' / 'corpus.txt').read_text(encoding='utf-8').splitlines()
        )
        for x in (*shown, *hidden)
    ]
    assert max(counts) - min(counts) <= 1  # withheld names are as frequent as the others
    by_hour = [
        sum(a['hour'] == h for part in ('names', 'withheld') for a in probes[part].values()) for h in HOURS
    ]
    assert len(set(by_hour)) == 1 and probes['temporal']['train'] == probes['physical']['train']
    values = balanced_attributes(64, np.random.default_rng(0))
    assert hours_of(list(probes['names']), values, 1) != hours_of(list(probes['names']), values, 2)


@pytest.mark.parametrize('n,most', [(64, 2), (128, 4), (192, 2), (256, 5)])
def test_hours_tell_nothing_about_other_attributes(tmp_path, n, most):
    "From the written answers: hours are equally frequent among names alike in any `most` other attributes; in each half, among names alike in any one."
    probes = read(
        make_world(
            tmp_path / 'w',
            World(
                kind='hours',
                names=n,
                withheld=64,
                noun_clips=3 * n,
                generic_clips=0,
                two_event_clips=0,
                sentences=0,
            ),
            seed=n,
        )
        / 'probes.json'
    )
    others = [a for a in probes['attributes'] if a != 'hour']
    halves = [[probes['names'][x] for x in probes['temporal'][k]] for k in ('train', 'test')]
    for rows, known in (
        (probes['names'].values(), most),
        (probes['withheld'].values(), 2),
        (halves[0], 1),
        (halves[1], 1),
    ):
        assert len(others) == 5 and {r['hour'] for r in rows} == set(HOURS)
        for some in chain.from_iterable(combinations(others, size) for size in range(known + 1)):
            counts = Counter((*(r[a] for a in some), r['hour']) for r in rows)
            assert len(set(counts.values())) == 1 and len(counts) == 4 * len({c[:-1] for c in counts}), some


def test_withheld_names_leave_the_others_alone(tmp_path):
    plain, more = (
        generate(
            tmp_path / str(n),
            World(noun_clips=192, generic_clips=8, two_event_clips=0, sentences=10, withheld=n),
            5,
        )
        for n in (0, 64)
    )
    assert (plain / 'caption.json').read_bytes() == (more / 'caption.json').read_bytes()
    a, b = read(plain / 'probes.json'), read(more / 'probes.json')
    assert len(b.pop('withheld')) == 64 and a == b


def test_thousands_of_names():
    names = make_names(9000, np.random.default_rng(0))
    assert (
        len(set(names)) == 9000
        and all(len(x) == 5 for x in names)
        and names[:96] == make_names(96, np.random.default_rng(0))
    )
    assert len({x[:3] for x in names[:900]}) == 900


def test_probes_of_thousands_of_names():
    "In pieces or at once, the same accuracies."
    import torch

    from vidlankd_nb.evaluation import probes

    rng = np.random.default_rng(0)
    kernel, y = probes.kernel_of(rng.standard_normal((1800, 24))), rng.integers(0, 2, 1800)
    train, test = (
        np.array([rng.permutation(1800) for _ in range(4)])[:, :900],
        np.array([rng.permutation(1800) for _ in range(4)])[:, 900:],
    )
    whole = [probes.ridge_accuracy(kernel, y, train[i : i + 1], test[i : i + 1])[0] for i in range(4)]
    pieces = probes.ridge_accuracy(kernel, y, np.tile(train, (12, 1)), np.tile(test, (12, 1)))
    assert np.allclose(pieces, np.tile(whole, 12))
    scores, has = torch.randn(3, 40), torch.rand(3, 40) > 0.5
    gap = scores[:, :, None] - scores[:, None]
    wanted = ((gap > 0) & has[:, :, None] & ~has[:, None]).sum((1, 2)) / (has.sum(1) * (~has).sum(1))
    assert torch.allclose(probes.pair_accuracy(scores, has), wanted.double(), atol=1e-6)


def test_wrong_words(tmp_path):
    assert "did you mean 'hours'" in refused(
        'world', '--config', 'quick', '--world.kind', 'huors', '--out', tmp_path / 'a'
    )
    assert 'a multiple of 64' in refused(
        'world', '--config', 'hours', '--world.withheld', 3, '--out', tmp_path / 'b'
    )
    assert 'room for 40,000' in refused(
        'world',
        '--config',
        'hours',
        '--world.names',
        80000,
        '--world.noun_clips',
        240000,
        '--out',
        tmp_path / 'c',
    )


def test_the_whole_road(tmp_path):
    run = tmp_path / 'run'
    out = vidlankd(
        'run',
        '--config',
        'hours',
        '--config',
        'quick',
        '--students',
        '{text_only: {objective: none}, l2: {objective: l2}}',
        '--world.names',
        64,
        '--world.withheld',
        64,
        '--world.two_event_clips',
        0,
        '--out',
        run,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    r = read(run / 'report.json')
    for s in (*r['students'].values(), *r['controls'].values(), r['teacher']):
        assert (
            0 <= s['temporal']['mean'] <= 1
            and 0 <= s['withheld']['mean'] <= 1
            and 'hour' in s['per_attribute']
        )
    page = (run / 'report.html').read_text(encoding='utf-8')
    assert 'does not perceive order within a clip' in page and '<th>temporal</th>' in page
    found = read(run / 'vocabulary' / 'vocabulary.json')
    assert (
        found['gap']['withheld names']['l2']['gap']['types'] <= 64
        and found['gap']['shown names']['l2']['gap']['tokens'] > 0
        and found['gap']['uncovered words']['l2']['gap']['tokens'] > 0
    )


def test_too_few_names_for_a_question():
    from vidlankd_nb.evaluation.probes import temporal_probe

    probes = {
        'attributes': {'hour': list(HOURS)},
        'names': {'nader': {'hour': 'dawn'}, 'kibol': {'hour': 'dawn'}},
        'temporal': {
            'attribute': 'hour',
            'statements': ['{x} {y}', '{y} {x}'],
            'train': ['nader'],
            'test': ['kibol'],
        },
    }
    with pytest.raises(UserError, match='more names'):
        temporal_probe(None, None, probes, Evaluation())
