"Intervals cover what they promise; exact tests are those of a list made by hand."

import itertools

import numpy as np
import pytest
from scipy import stats

from vidlankd_nb.statistics import holm, interval, interval_words, paired, sign_flip


def share_held(intervals, truth):
    return np.mean([i['low'] <= truth <= i['high'] for i in intervals])


def every_draw(x):
    "The percentile bootstrap with all its draws: what `interval` must not be for so few figures."
    means = [np.mean(draw) for draw in itertools.product(x, repeat=len(x))]
    low, high = np.quantile(means, [0.025, 0.975])
    return {'low': low, 'high': high}


@pytest.mark.parametrize('n', [3, 5])
def test_an_interval_covers_what_it_promises(n):
    experiments = np.random.default_rng(7).normal(0.6, 0.05, size=(2000, n))
    assert 0.93 <= share_held([interval(x) for x in experiments], 0.6) <= 0.97
    assert 0.87 <= share_held([interval(x, level=0.9) for x in experiments], 0.6) <= 0.93


def test_the_bootstrap_over_three_figures_does_not():
    experiments = np.random.default_rng(7).normal(0.6, 0.05, size=(2000, 3))
    assert share_held([every_draw(x) for x in experiments], 0.6) < 0.75


def test_an_interval_by_hand():
    "Mean 2, standard deviation 1, so 2 ± 4.3027 / √3."
    found = interval([1, 2, 3])
    assert found['mean'] == 2 and found['n'] == 3
    assert (found['low'], found['high']) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    by_scipy = stats.ttest_1samp([0.3, 0.5, 0.1, 0.9], 0).confidence_interval(0.95)
    found = interval([0.3, 0.5, 0.1, 0.9])
    assert (found['low'], found['high']) == pytest.approx((by_scipy.low, by_scipy.high), abs=1e-12)


def test_one_figure_has_no_interval():
    assert interval([0.4]) == {'mean': 0.4, 'low': None, 'high': None, 'n': 1}
    assert interval_words(1) == 'no interval: a single world'
    assert interval_words(3) == "95 % interval (Student's t over 3 worlds)"


def test_figures_that_agree_have_an_interval_of_no_width():
    found = interval([0.5, 0.5, 0.5])
    assert found['low'] == found['mean'] == found['high'] == 0.5


def listed(d):
    "p from every sign pattern, one after the other."
    patterns = list(itertools.product((1, -1), repeat=len(d)))
    far = [abs(np.mean(np.multiply(p, d))) >= abs(np.mean(d)) - 1e-12 for p in patterns]
    return sum(far) / len(patterns)


@pytest.mark.parametrize(
    'differences, p',
    [
        ([1, 1, 1], 2 / 8),
        ([1, 2, 3, 4, 5, 6], 2 / 64),
        ([1, -1], 1),
        ([0.4], 1),
        ([0, 0, 0], 1),
        ([3, -1, 2], 4 / 8),  # means 4, 6, 2, 0 and their negatives, each over 3: |4| is reached by ±4 and ±6
        ([0.1, 0.2, -0.3], 1),  # a mean of 0, but for rounding
        ([1, 1, 1, 1, -1], 12 / 32),
    ],
)  # sums ±3 (five patterns each) and ±5 (one each)
def test_sign_flips_by_hand(differences, p):
    assert sign_flip(differences) == pytest.approx(p, abs=1e-12)
    assert listed(differences) == pytest.approx(p, abs=1e-12)


def test_sign_flips_are_those_of_a_list():
    rng = np.random.default_rng(0)
    for n in range(2, 11):
        d = rng.normal(0.3, 1, n).round(2)
        assert sign_flip(d) == pytest.approx(listed(d), abs=1e-12)


def test_a_difference_that_is_no_number_has_no_p_and_no_star():
    "A comparison with NaN is false, so no pattern was as far from 0, and p was 0."
    assert np.isnan(sign_flip([1.0, np.nan, 2.0, 3.0]))
    assert np.isnan(sign_flip([1.0, np.inf, 2.0, 3.0]))
    assert np.isnan(sign_flip([np.nan]))
    known = {'0': 1.0, '1': np.nan, '2': 3.0}
    assert np.isnan(paired(known, {'0': 0.0, '1': 0.0, '2': 0.0})['p'])


def test_p_does_not_depend_on_the_unit():
    "Five of one sign: 2 of 32 patterns are as far from 0, in metres as in nanometres."
    for unit in (1e-15, 1.0, 1e12):
        assert sign_flip(unit * np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(1 / 16)


def test_more_patterns_than_can_be_listed_are_drawn():
    d = np.random.default_rng(0).normal(0.5, 1, 18)
    assert sign_flip(d) == sign_flip(d) == pytest.approx(listed(d), abs=0.01)


def test_pairs():
    found = paired({0: 0.5, 1: 0.7, 3: 0.1}, {0: 0.4, 1: 0.5, 2: 0.9})
    assert (
        found['n'] == 2 and found['mean'] == pytest.approx(0.15) and found['smallest'] == pytest.approx(0.1)
    )
    assert found['high'] - found['low'] == pytest.approx(2 * 12.7062 * 0.05, abs=1e-4)
    assert found['p'] == found['smallest_p'] == 0.5
    alone = paired({0: 0.5}, {0: 0.4, 1: 0.5})
    assert alone['low'] is None and alone['high'] is None and alone['p'] == 1
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_holm_leaves_what_is_no_p_and_does_not_count_it():
    "Of three, two are tests: the smaller p is doubled. R's p.adjust says the same."
    found = holm([0.01, float('nan'), 0.03])
    assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.03)
    assert np.isnan(found[1])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


# --- two models on a benchmark: few seeds, many questions


def scored(rng, spread, questions=150):
    "Two models of three seeds: questions are harder or easier for both, seeds luckier or not."
    hard = rng.normal(size=questions)
    runs = []
    for model, skill in (('a', 0.9), ('b', 0.5)):
        for seed in range(3):
            right = skill + rng.normal(0, spread) + hard + rng.normal(size=questions) > 0
            rows = np.stack([np.ones(questions, int), right.astype(int)], 1)
            runs.append(
                {
                    'model': model,
                    'task': 'rte',
                    'seed': seed,
                    'metric': 'accuracy',
                    'kind': 'classification',
                    'value': right.mean(),
                    'rows': rows,
                }
            )
    return runs


@pytest.mark.parametrize('spread', [0, 0.1, 0.4])
def test_a_difference_of_two_models_is_covered_for_other_seeds_and_questions(spread, monkeypatch):
    from vidlankd_nb.evaluation import differences

    monkeypatch.setattr(differences, "run_rows", lambda run: run['rows'])
    rng, scale = np.random.default_rng(11), np.sqrt(2 + spread**2)
    truth = 100 * (stats.norm.cdf(0.9 / scale) - stats.norm.cdf(0.5 / scale))
    found = [differences.difference(scored(rng, spread), 'a', 'b', 'rte', draws=60) for _ in range(400)]
    assert 0.925 <= share_held(found, truth) <= 0.985


def test_half_an_interval_by_hand():
    "Differences 1, 2, 3: variance 1, a third of it for the mean; with questions' 1/3 beside it, df = 2·2."
    from vidlankd_nb.evaluation.differences import half_width

    d = np.array([1.0, 2.0, 3.0])
    assert half_width(d, 0.0) == pytest.approx(4.302653 * np.sqrt(1 / 3), abs=1e-5)
    assert half_width(d, 1 / 3) == pytest.approx(2.776445 * np.sqrt(2 / 3), abs=1e-5)  # t of 4 degrees
    assert half_width(np.array([2.0, 2.0]), 0.25) == pytest.approx(1.959964 * 0.5, abs=1e-5)
    assert half_width(np.array([2.0, 2.0]), 0.0) == 0


# --- a table of benchmarks


def glue_runs(model='m', seed=0, without=()):
    "Scores of all nine tasks, chosen by hand."
    scores = {
        'cola': {'mcc': 0.5, 'accuracy': 0.8},
        'sst2': {'accuracy': 0.9},
        'mrpc': {'accuracy_f1': 0.85, 'accuracy': 0.82, 'f1': 0.88},
        'qqp': {'accuracy_f1': 0.88, 'accuracy': 0.9, 'f1': 0.86},
        'stsb': {'pearson_spearman': 0.855, 'pearson': 0.86, 'spearman': 0.85},
        'mnli': {'accuracy': 0.80, 'accuracy_mismatched': 0.82},
        'qnli': {'accuracy': 0.88},
        'rte': {'accuracy': 0.6},
        'wnli': {'accuracy': 0.56},
        'diagnostics': {'mcc': 0.1},
    }
    runs = []
    for task, of_task in scores.items():
        if task not in without:
            metric = next(iter(of_task))
            runs.append(
                {
                    'model': model,
                    'task': task,
                    'seed': seed,
                    'metric': metric,
                    'value': of_task[metric],
                    'scores': of_task,
                    'majority': 0.5,
                    'collapsed': '',
                    'folder': '',
                    'kind': '',
                }
            )
    return runs


BY_HAND = (
    100
    * (
        0.5
        + 0.9
        + (0.82 + 0.88) / 2
        + (0.9 + 0.86) / 2
        + (0.86 + 0.85) / 2
        + (0.80 + 0.82) / 2
        + 0.88
        + 0.6
        + 0.56
    )
    / 9
)  # 75.94


def test_a_glue_average_by_hand():
    from vidlankd_nb.evaluation.results import Table

    assert pytest.approx(75.9444, abs=1e-4) == BY_HAND
    table = Table(glue_runs())
    head, rows = table.grid()
    assert head[-1] == 'GLUE average' and rows[0][-1] == '75.9'
    caption = [n for n in table.notes() if n.startswith('GLUE average')]
    assert len(caption) == 1 and 'cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli;' in caption[0]


def test_an_average_without_wnli_says_so():
    from vidlankd_nb.evaluation.benchmarks import GROUPS
    from vidlankd_nb.evaluation.results import Table

    table = Table(glue_runs(without=['wnli']), averaged=[t for t in GROUPS['glue'] if t != 'wnli'])
    assert table.grid()[1][0][-1] == f'{(9 * BY_HAND - 56) / 8:.1f}' == '78.4'
    assert [n for n in table.notes() if 'rte;' in n and 'wnli' not in n]


def test_a_model_that_lacks_a_task_has_no_average():
    from vidlankd_nb.evaluation.results import Table

    halved = [r | {'scores': {'accuracy': 0.8}} if r['task'] == 'mnli' else r for r in glue_runs('half')]
    table = Table(
        [*glue_runs('all'), *glue_runs('few', without=['rte', 'wnli']), *halved],
        published=[{'model': 'P', 'source': 's', 'scores': {'rte': 66.4}}],
    )
    head, rows = table.grid()
    assert {r[0]: r[-1] for r in rows} == {'all': '75.9', 'few': '–', 'half': '–', 'P [1]': '–'} and {
        len(r) for r in rows
    } == {len(head)}
    notes = table.notes()
    assert (
        'No GLUE average for few: rte, wnli missing.' in notes
        and 'No GLUE average for half: mnli missing.' in notes
    )
    none = Table(glue_runs('few', without=['rte']))
    assert 'GLUE average' not in none.grid()[0] and 'No GLUE average for few: rte missing.' in none.notes()
    assert 'GLUE' not in Table([r for r in glue_runs() if r['task'] == 'sst2']).markdown()


def test_averages_over_seeds_take_whole_seeds():
    from vidlankd_nb.evaluation.results import Table

    better = [
        r | {'value': r['value'] + 0.01, 'scores': {k: v + 0.01 for k, v in r['scores'].items()}}
        for r in glue_runs(seed=1)
    ]
    better[0]['collapsed'] = 'every answer is 1'
    table = Table([*glue_runs(), *better, *glue_runs(seed=2, without=['rte'])])
    assert table.grid()[1][0][-1] == '76.4 (75.9–76.9) †1/2'
    apart = Table([*glue_runs(without=['rte']), *[r for r in glue_runs(seed=1) if r['task'] == 'rte']])
    assert 'No GLUE average for m: no seed has all tasks.' in apart.notes()


def test_one_seed_gives_a_difference_without_an_interval(tmp_path):
    from vidlankd_nb.evaluation.differences import difference, difference_lines
    from vidlankd_nb.evaluation.results import Table

    runs = [r | {'folder': str(tmp_path)} for m in 'ab' for r in glue_runs(m)]
    found = difference(runs, 'a', 'b', 'rte')
    assert found['difference'] == 0 and found['low'] is None and found['high'] is None
    assert 'from one seed, so without an interval' in difference_lines(Table(runs).differences())
