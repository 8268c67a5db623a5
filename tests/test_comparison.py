"A grid's report: what it reckons from its seeds, which losses it puts beside each other, and what it shows."

import json
from pathlib import Path

import pytest

from vidlankd_nb.comparison import (
    beside_claims,
    grid_page,
    in_short,
    loss_note,
    name_losses,
    reckoned,
    stars,
    tables,
)

root = Path(__file__).parent.parent
STUDENT = {
    'objective': 'none',
    'weight': 1.0,
    'head': 'mlp',
    'options': {},
    'teacher': 'video',
    'start': 'random',
}


def made_cell(name, per_seed, model='student', settings=None):
    "A finished cell as `collect_grid` would write it, with nothing reckoned yet."
    metrics = {
        metric: {'per_seed': dict(zip('012', values, strict=False))} for metric, values in per_seed.items()
    }
    seeds = list(range(len(next(iter(per_seed.values())))))
    return {
        'name': name,
        'table': 'objectives',
        'about': '',
        'model': model,
        'student': STUDENT,
        'settings': settings or {},
        'seeds': seeds,
        'status': 'done',
        'failed': {},
        'metrics': metrics,
        'against': {},
        'seconds': {},
        'processor': {},
        'made': {},
    }


def made_report(*cells, seeds=3):
    return {
        'command': 'vidlankd ablate',
        'version': '0',
        'versions': {'python': '3'},
        'processors': 2,
        'seconds': {'clock': 60.0, 'cells': 50.0, 'processor': 40.0},
        'seeds': list(range(seeds)),
        'chance': {},
        'cells': list(cells),
        'config': {},
    }


@pytest.fixture
def grid():
    return made_report(
        made_cell(
            'text_only',
            {
                'mlm_loss': [2.0, 2.2, 2.4],
                'property': [0.4, 0.5, 0.6],
                'per_attribute.colour': [0.3, 0.3, 0.3],
            },
        ),
        made_cell('l2', {'mlm_loss': [2.5, 2.6, 3.0], 'property': [0.9, 0.8, 1.0]}),
        made_cell(
            'captions_as_text',
            {'mlm_loss': [2.1, 2.1, 2.1], 'property': [0.4, 0.4, 0.4]},
            settings={'corpus.captions': True},
        ),
        made_cell('teacher', {'mlm_loss': [1.1, 1.2, 1.3], 'property': [0.9, 0.9, 0.9]}, model='teacher'),
    )


def cell(report, name):
    return next(c for c in report['cells'] if c['name'] == name)


def test_intervals_and_differences_come_from_the_seeds(grid):
    found = reckoned(grid)
    loss = cell(found, 'text_only')['metrics']['mlm_loss']
    assert (loss['mean'], loss['low'], loss['high'], loss['n']) == pytest.approx(
        (2.2, 2.2 - 0.2 * 4.302653 / 3**0.5, 2.2 + 0.2 * 4.302653 / 3**0.5, 3)
    )
    d = cell(found, 'l2')['against']['text_only']['property']
    assert (d['mean'], d['smallest'], d['p'], d['n']) == pytest.approx((0.4, 0.3, 0.25, 3))
    assert (d['low'], d['high']) == pytest.approx(
        (0.4 - 0.1 * 4.302653 / 3**0.5, 0.4 + 0.1 * 4.302653 / 3**0.5)
    )
    assert (
        cell(grid, 'l2')['against'] == {} and 'mean' not in cell(grid, 'l2')['metrics']['property']
    )  # what was given is left alone


def test_what_an_older_report_stored_is_not_trusted(grid):
    told = reckoned(grid)
    old = json.loads(json.dumps(told))
    for c in old['cells']:
        for m in c['metrics'].values():
            m |= {'mean': 9.0, 'low': 8.9, 'high': 9.1}
        for by_metric in c['against'].values():
            for d in by_metric.values():
                d |= {'mean': 7.0, 'low': 6.9, 'high': 7.1}
    assert reckoned(old) == told
    assert in_short(old) == in_short(grid) and tables(old) == tables(grid)
    assert reckoned(told) == told


def test_the_committed_reports_hold_what_their_seeds_give():
    for file in sorted((root / 'benchmarks' / 'ablation').glob('*.json')):
        report = json.loads(file.read_text(encoding='utf-8'))
        for before, now in zip(report['cells'], reckoned(report)['cells'], strict=True):
            for metric, m in now['metrics'].items():
                if metric in before['metrics']:
                    assert m['mean'] == pytest.approx(before['metrics'][metric]['mean'])


def test_losses_on_another_text_stand_in_no_column(grid):
    found = reckoned(grid)
    losses = {c['name']: [k for k in c['metrics'] if 'loss' in k] for c in found['cells']}
    assert losses == {
        'text_only': ['mlm_loss'],
        'l2': ['mlm_loss'],
        'captions_as_text': ['mlm_loss_on_own_text'],
        'teacher': ['mlm_loss_on_captions'],
    }
    assert 'mlm_loss' in cell(found, 'l2')['against']['text_only']
    assert not [k for k in cell(found, 'teacher')['against']['text_only'] if 'loss' in k]
    told = 'captions_as_text 2.10 on a text of its own; teacher 1.20 on captions.'
    assert loss_note(found['cells']).endswith(told)
    shown = in_short(grid)
    rows = {line.split(' | ')[0]: line for line in shown.splitlines() if line.startswith('| ')}
    assert (
        rows['| teacher'].endswith('| – |')
        and rows['| captions as text'].endswith('| – |')
        and rows['| l2'].endswith('| 2.70 |')
    )
    assert told in shown and told in tables(grid) and '<td>1.20<br>' not in tables(grid)
    assert 'other texts' not in in_short(grid | {'cells': grid['cells'][:2]})


def test_a_grid_on_one_changed_text_compares_its_losses():
    cells = [made_cell(n, {'mlm_loss': [1.0]}, settings={'corpus.block': 64}) for n in ('text_only', 'l2')]
    name_losses(cells)
    assert all(list(c['metrics']) == ['mlm_loss'] for c in cells)


def test_words_say_how_an_interval_was_made(grid):
    by_t = "95 % interval (Student's t over 3 worlds)"
    assert by_t in in_short(grid) and by_t in grid_page(grid).replace('&#39;', "'")
    assert 'bootstrap' not in grid_page(grid) + in_short(grid)
    assert 'cannot give a p below 0.25' in stars(grid)


def test_one_world_has_no_interval():
    one = made_report(
        made_cell('text_only', {'property': [0.4]}), made_cell('l2', {'property': [0.9]}), seeds=1
    )
    d = cell(reckoned(one), 'l2')['against']['text_only']['property']
    assert (d['low'], d['high'], d['p']) == (None, None, 1)
    assert '| l2 |  | 0.90 | +0.50 | – | – |' in in_short(one) and 'no interval: a single world' in in_short(
        one
    )
    page = grid_page(made_report(made_cell('text_only', {'order': [0.4]}), seeds=1))
    assert 'None' not in page and ' to ' not in tables(one)


def test_text_is_escaped(grid):
    lost = cell(grid, 'l2') | {
        'name': 'a<b',
        'about': 'x & y',
        'metrics': {},
        'status': 'failed',
        'failed': {'0': 'no <teacher>'},
    }
    html = tables(grid | {'cells': [*grid['cells'], lost]})
    assert 'a&lt;b, seed 0, failed: no &lt;teacher&gt;' in html and 'x &amp; y' in html


def seen(name, *figures):
    "A cell as a report has it, with its property in worlds 0, 1, …"
    return {'name': name, 'metrics': {'property': {'per_seed': {str(i): v for i, v in enumerate(figures)}}}}


def test_the_two_sides_of_a_claim_are_compared_in_the_same_worlds():
    l2, head, still = (
        seen('l2', 0.9, 0.8, 0.85),
        seen('no_head', 0.6, 0.5, 0.56),
        seen('still', 0.9, 0.9, 0.7),
    )
    heads, images = beside_claims({'cells': [l2, head, still]})
    assert (heads['better'], heads['worse'], heads['found']) == ('l2', 'no_head', 'so here, too')
    assert heads['mean'] == pytest.approx((0.3 + 0.3 + 0.29) / 3) and heads['smallest'] == pytest.approx(0.29)
    assert images['found'] == 'cannot be told apart' and images['low'] < 0 < images['high']
    turned = [l2 | {'name': 'no_head'}, head | {'name': 'l2'}]
    assert [row['found'] for row in beside_claims({'cells': turned})] == ['the other way round']


def test_a_claim_is_passed_over_where_a_side_is_missing_and_never_decided_by_one_world():
    assert beside_claims({'cells': [seen('l2', 0.9, 0.8)]}) == []
    [one] = beside_claims({'cells': [seen('l2', 0.9), seen('no_head', 0.1)]})
    assert one['found'] == 'cannot be told apart'
    apart = [seen('l2', 0.9), {'name': 'no_head', 'metrics': {}}]
    assert beside_claims({'cells': apart}) == []
    other = {'name': 'no_head', 'metrics': {'property': {'per_seed': {'7': 0.1}}}}
    assert beside_claims({'cells': [seen('l2', 0.9), other]}) == []
