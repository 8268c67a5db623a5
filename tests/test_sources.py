"""Every row of an evaluation accounted for: other forms of a file, cuts, hashes, a look before the first step, files without labels."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from support.trainings import start
from test_finetuning import grid, tiny, tsv

from vidlankd_nb.config import FineTuning
from vidlankd_nb.evaluation import outcomes
from vidlankd_nb.evaluation.benchmarks import TASKS
from vidlankd_nb.evaluation.given import look_at_files, probes_file
from vidlankd_nb.evaluation.grid import Grid, evaluate
from vidlankd_nb.evaluation.outcomes import named_order, results_in
from vidlankd_nb.evaluation.records import label_of
from vidlankd_nb.evaluation.sources import read_sources
from vidlankd_nb.evaluation.suite import load, score
from vidlankd_nb.files import UserError

RTE = pd.DataFrame(
    {
        'index': [0, 1, 2],
        'sentence1': ['It rains, it "pours".', 'Snow\u2028falls.', 'ü'],
        'sentence2': ['It is wet.', 'It is hot.', 'u'],
        'label': ['entailment', 'not_entailment', 'entailment'],
    }
)
WANTED = [(r.sentence1, r.sentence2, int(r.label != 'entailment')) for r in RTE.itertuples()]


def as_text(frame):
    return '\n'.join('\t'.join(map(str, row)) for row in [frame.columns, *frame.to_numpy()]) + '\n'


def write_form(folder, name):
    "The rows of RTE in another form, as pandas and datasets write it."
    path = folder / 'RTE' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.startswith('validation'):  # the hub's own: class numbers with their names
        data = datasets.Dataset.from_pandas(RTE.rename(columns={'index': 'idx'}))
        data.class_encode_column('label').to_parquet(path)
    elif '.parquet' in name:
        RTE.to_parquet(path)
    elif '.csv' in name:
        RTE.to_csv(path, index=False)
    elif '.json' in name:
        RTE.to_json(path, orient='records', lines='.jsonl' in name)
    else:
        path.write_bytes(gzip.compress(as_text(RTE).encode()))


@pytest.mark.parametrize(
    'name',
    [
        'dev.tsv.gz',
        'dev.csv',
        'dev.csv.gz',
        'dev.jsonl',
        'dev.jsonl.gz',
        'dev.json',
        'dev.parquet',
        'validation-00000-of-00001.parquet',
    ],
)
def test_a_file_beside_the_expected_name_is_found_and_read(tmp_path, name):
    write_form(tmp_path, name)
    for data in (tmp_path, tmp_path / 'RTE' / name):
        rows = load('rte', data, 'dev')
        assert [(r['a'], r['b'], r['label']) for r in rows] == WANTED and [r['id'] for r in rows] == [
            '0',
            '1',
            '2',
        ]
    (tmp_path / 'RTE' / 'dev.tsv').write_text(as_text(RTE[:1]), encoding='utf-8')
    assert len(load('rte', tmp_path, 'dev')) == 1  # the original comes first


def test_every_kind_of_task_in_other_forms(tmp_path):
    choices = {'goal': ['Keep it cold.'], 'sol1': ['Use ice.'], 'sol2': ['Use fire.'], 'label': [0]}
    for name in ('train.csv', 'dev.parquet'):
        (tmp_path / 'piqa').mkdir(exist_ok=True)
        frame = pd.DataFrame(choices)
        frame.to_csv(tmp_path / 'piqa' / name, index=False) if name.endswith('csv') else frame.to_parquet(
            tmp_path / 'piqa' / name
        )
    assert load('piqa', tmp_path)[0] == load('piqa', tmp_path, 'dev')[0] | {'id': '1'}
    story = pd.DataFrame(
        {'query': ['event: a starts before b'], 'story': ['A and b.'], 'label': ['entailment']}
    )
    (tmp_path / 'tracie').mkdir()
    story.to_csv(tmp_path / 'tracie' / 'tracie_train.csv', index=False)
    assert (
        load('tracie', tmp_path)[0] | {'a': 'A and b.', 'b': 'a starts before b', 'label': 0}
        == load('tracie', tmp_path)[0]
    )
    ends = {f'ending{i}': [f'end {i}'] for i in range(4)}
    (tmp_path / 'swag').mkdir()
    pd.DataFrame({'sent1': ['He sits.'], 'sent2': ['Then he'], **ends, 'label': [2]}).to_json(
        tmp_path / 'swag' / 'val.jsonl', orient='records', lines=True
    )
    assert load('swag', tmp_path, 'dev')[0]['label'] == 2
    answer = {'text': ['Mo'], 'answer_start': [0]}
    flat = pd.DataFrame({'id': [7], 'context': ['Mo sings.'], 'question': ['Who?'], 'answers': [answer]})
    (tmp_path / 'squad').mkdir()
    flat.to_parquet(tmp_path / 'squad' / 'dev-v1.1.parquet')
    row = load('squad', tmp_path, 'dev')[0]
    assert (row['id'], row['answers']) == ('7', [{'text': 'Mo', 'start': 0}])


def test_a_torn_archive_and_another_tasks_columns_are_named(tmp_path):
    write_form(tmp_path, 'dev.tsv.gz')
    whole = (tmp_path / 'RTE' / 'dev.tsv.gz').read_bytes()
    (tmp_path / 'RTE' / 'dev.tsv.gz').write_bytes(whole[:-12])
    with pytest.raises(UserError, match='cannot be unpacked'):
        load('rte', tmp_path, 'dev')
    (tmp_path / 'RTE' / 'dev.parquet').write_bytes(b'PAR1 no more')
    with pytest.raises(UserError, match='cannot be read as Parquet'):
        load('rte', tmp_path / 'RTE' / 'dev.parquet', 'dev')
    (tmp_path / 'x.csv').write_text('premise,label\na,0\n', encoding='utf-8')
    with pytest.raises(UserError, match="no file of rte: it has no column"):
        load('rte', tmp_path / 'x.csv', 'dev')
    (tmp_path / 'RTE' / 'train-00000-of-00002.parquet').write_bytes(b'')
    with pytest.raises(UserError, match='00001-of-00002.parquet is missing'):
        load('rte', tmp_path, 'train')


def test_numeric_ids_are_ids_and_twins_are_named(tmp_path):
    answers = [{'text': 'Mo', 'answer_start': 0}]
    asked = [{'id': i, 'question': 'Who?', 'answers': answers, 'is_impossible': False} for i in (262, '276')]
    document = {'data': [{'paragraphs': [{'context': 'Mo sings.', 'qas': asked}]}]}
    (tmp_path / 'dev-v2.0.json').write_text(json.dumps(document), encoding='utf-8')
    assert [r['id'] for r in load('squad2', tmp_path, 'dev')] == ['262', '276']
    twins = RTE.assign(index=[5, 5, 6])
    (tmp_path / 'twins.tsv').write_text(as_text(twins), encoding='utf-8')
    rows = load('rte', tmp_path / 'twins.tsv', 'dev')
    assert [r['id'] for r in rows] == ['5', '5 (row 2)', '6'] and '1 rows have the id' in rows.notes[0]


# --- cuts


def reviews(path, n, labels=True):
    text = ''.join(f'film number {i}\t{i % 2}\n' if labels else f'film number {i}\n' for i in range(n))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(('sentence\tlabel\n' if labels else 'sentence\n') + text, encoding='utf-8')


def test_a_cut_is_a_share_or_a_number_of_rows_and_seeded(tmp_path):
    reviews(tmp_path / 'all.tsv', 1000)
    sides = {}
    for seed in (0, 1):
        for held_out in (0.2, 150):
            train, dev = (
                load('sst2', tmp_path / 'all.tsv', s, held_out=held_out, held_out_seed=seed)
                for s in ('train', 'dev')
            )
            assert len(train) + len(dev) == 1000 and not {r['a'] for r in train} & {r['a'] for r in dev}
            assert dev.cut == {
                'held_out': held_out,
                'seed': seed,
                'by': 'a hash of the text',
                'kept': len(dev),
                'apart': len(train),
            }
            sides[seed, held_out] = {r['a'] for r in dev}
    assert len(sides[0, 150]) == len(sides[1, 150]) == 150 and 150 < len(sides[0, 0.2]) < 250
    assert len(sides[0, 150] & sides[1, 150]) < 60  # 22 by chance
    for refused in (2, 25, 100, 0, -1, 150.5):
        with pytest.raises(UserError, match='must be a share between 0 and 1'):
            load('sst2', tmp_path / 'all.tsv', 'dev', held_out=refused)


def test_a_dev_file_without_labels_is_replaced_by_a_cut_and_a_labelled_one_is_not(tmp_path):
    reviews(tmp_path / 'SST-2' / 'train.tsv', 300)
    reviews(tmp_path / 'SST-2' / 'dev.tsv', 50, labels=False)
    train, dev = (load('sst2', tmp_path, s, held_out=0.1) for s in ('train', 'dev'))
    assert len(train) + len(dev) == 300 and dev.files == train.files
    with pytest.raises(UserError, match="no column 'label'"):
        load('sst2', tmp_path, 'dev')
    reviews(tmp_path / 'SST-2' / 'dev.tsv', 50)
    assert [len(load('sst2', tmp_path, s, held_out=0.1)) for s in ('train', 'dev')] == [300, 50]


def test_mnli_with_labelled_dev_files_is_not_cut(tmp_path):
    rows = [(i, f'a {i}', 'b', 'neutral') for i in range(40)]
    for name in ('train', 'dev_matched', 'dev_mismatched'):
        tsv(tmp_path / 'MNLI' / f'{name}.tsv', ('index', 'sentence1', 'sentence2', 'gold_label'), rows)
    assert len(load('mnli', tmp_path, 'train', held_out=0.5)) == 40


def test_one_file_for_both_splits_is_refused(tmp_path):
    reviews(tmp_path / 'all.tsv', 300)
    with pytest.raises(UserError, match=r'all.tsv would be trained on and scored on.*--held_out 0.2'):
        read_sources('sst2', str(tmp_path / 'all.tsv'))
    found = read_sources('sst2', str(tmp_path / 'all.tsv'), held_out=0.2)
    assert len(found.train) + len(found.dev['']) == 300


# --- TRACIE


def test_tracie_is_scored_as_its_leaderboard_does():
    "Counted by hand after the leaderboard's program: all, starts, ends, whole stories."
    rows = [
        {'id': str(i), 'a': story, 'b': '', 'query': query, 'label': 0}
        for i, (story, query) in enumerate([('s', 'start'), ('s', 'end'), ('t', 'end'), ('t', 'start')])
    ]
    found = score('tracie', rows, [0, 1, 0, 0])
    assert found == {'accuracy': 0.75, 'accuracy_start': 1.0, 'accuracy_end': 0.5, 'story_em': 0.5}


def test_of_tracies_two_forms_the_one_taken_is_said(tmp_path):
    line = 'event: a starts before b story: Story {}.\tanswer: positive\n'
    for name, first in (('tracie_train.txt', 0), ('tracie_test.txt', 50)):
        (tmp_path / 'uniform-prior').mkdir(exist_ok=True)
        (tmp_path / 'uniform-prior' / name).write_text(
            ''.join(line.format(first + i) for i in range(9)), encoding='utf-8'
        )
    record = {'query': 'event: a starts before b', 'story': 'Story 99.', 'label': 'entailment'}
    (tmp_path / 'tracie').mkdir()
    (tmp_path / 'tracie' / 'train_uniform.jsonl').write_text(json.dumps(record), encoding='utf-8')
    notes = '\n'.join(read_sources('tracie', str(tmp_path)).notes)
    assert 'train rows are those of' in notes and '(the text form, uniform prior)' in notes
    assert 'not read:' in notes and 'train_uniform.jsonl' in notes
    read_sources.cache_clear()
    (tmp_path / 'uniform-prior' / 'tracie_train.txt').unlink()
    assert "train_uniform.jsonl (the leaderboard's form, uniform prior)" in '\n'.join(
        read_sources('tracie', str(tmp_path)).notes
    )


# --- a grid


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return {'one': str(tiny(tmp_path_factory.mktemp('model') / 'one'))}


PAIR = ('index', 'sentence1', 'sentence2', 'label')


def pairs(n, seed=0):
    rng = np.random.default_rng(seed)
    words = ('the dog', 'the cat', 'a film', 'no film')
    return [
        (i, f'{words[k % 4]} {i}', 'is here', ('entailment', 'not_entailment')[k % 2])
        for i, k in enumerate(rng.integers(4, size=n))
    ]


@pytest.fixture
def rte(tmp_path):
    tsv(tmp_path / 'data' / 'RTE' / 'train.tsv', PAIR, pairs(48))
    tsv(tmp_path / 'data' / 'RTE' / 'dev.tsv', PAIR, pairs(12, 1))
    return tmp_path / 'data'


def test_skipped_rows_are_named_and_a_table_is_marked(model, rte, tmp_path, capsys):
    from vidlankd_nb.evaluation.results import Table

    with open(rte / 'RTE' / 'train.tsv', 'a', encoding='utf-8') as f:
        f.write('broken\n5\ta\tb\tmaybe\n')
    out = tmp_path / 'out'
    found = evaluate(grid(model, rte, out, 'rte', 1))[0]
    said = capsys.readouterr().out
    assert f"skipped {rte / 'RTE' / 'train.tsv'}, line 50: tabs cut the line" in said and 'line 51' in said
    read = found['read']
    assert [s['line'] for s in read['train']['left_out']] == [50, 51] and read['dev']['left_out'] == []
    assert [*read['train']['files']] == [str(rte / 'RTE' / 'train.tsv')]
    assert all(len(h) == 16 for h in read['dev']['files'].values())
    table = Table(results_in(out))
    assert '‡' in table.grid()[1][0][1]
    assert any('train: 2 of 50' in note for note in table.notes() if note.startswith('‡'))
    few = [found | {'read': {'train': read['dev']}}]
    assert '‡' not in Table(few).markdown()


def test_a_finished_folder_belongs_to_its_data_by_content(model, rte, tmp_path):
    out = tmp_path / 'out'
    evaluate(grid(model, rte, out, 'rte', 1), show=False)
    made = (out / 'one' / 'rte' / 'seed-0' / 'result.json').stat().st_mtime_ns
    moved = Path(shutil.copytree(rte, tmp_path / 'elsewhere'))
    evaluate(grid(model, moved, out, 'rte', 1), show=False)  # the same content: nothing is computed
    assert (out / 'one' / 'rte' / 'seed-0' / 'result.json').stat().st_mtime_ns == made
    with open(moved / 'RTE' / 'dev.tsv', 'a', encoding='utf-8') as f:
        f.write('broken\n')  # the same rows, another file
    with pytest.raises(UserError, match='do not hold what they held.*--redo'):
        evaluate(grid(model, moved, out, 'rte', 1), show=False)
    tsv(moved / 'RTE' / 'dev.tsv', PAIR, pairs(12, 2))
    with pytest.raises(UserError, match='The rows of rte in .*--redo'):
        evaluate(grid(model, moved, out, 'rte', 1), show=False)
    again = evaluate(grid(model, moved, out, 'rte', 1, redo=True), show=False)
    assert again[0]['read']['dev']['files'] != {} and len(again) == 1
    said = json.loads((out / 'one' / 'rte' / 'seed-0' / 'rows.json').read_text(encoding='utf-8'))
    assert [y for y, _ in said] == [int(r[3] != 'entailment') for r in pairs(12, 2)]
    with pytest.raises(UserError, match="There is no folder '.*nowhere'"):
        evaluate(grid(model, tmp_path / 'nowhere', out, 'rte', 1), show=False)
    with pytest.raises(UserError, match="There is no folder '.*nowhere'"):
        evaluate(grid(model, tmp_path / 'nowhere', tmp_path / 'toy', 'toy', 1), show=False)


def test_class_numbers_that_a_table_held_as_floats_are_class_numbers(tmp_path):
    texts = ['fine\t1.0', 'bad\t0.00', 'odd\t0.5', 'hidden\t-1.0', 'many\t2.0']
    for name, mark in (('train.tsv', '\t'), ('dev.csv', ',')):
        path = tmp_path / 'SST-2' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('\n'.join(['sentence\tlabel', *texts]).replace('\t', mark), encoding='utf-8')
    for split in ('train', 'dev'):
        rows = load('sst2', tmp_path, split)
        assert [(row['a'], row['label']) for row in rows] == [('fine', 1), ('bad', 0)]
        assert [s['line'] for s in rows.skipped] == [4, 5, 6]


@pytest.mark.parametrize(
    'text,number',
    [('5.0', 5.0), ('.5', 0.5), ('1e0', 1.0), ('5.', 5.0), ('5.001', None), ('nan', None), ('1_0', None)],
)
def test_scores_of_sts_b_are_numbers_as_python_reads_them(text, number):
    if number is None:
        with pytest.raises(ValueError, match='not a number from 0 to 5'):
            label_of(TASKS['stsb'], text, 'dev')
    else:
        assert label_of(TASKS['stsb'], text, 'dev') == number


def test_names_are_found_where_they_were_once():
    from vidlankd_nb.evaluation import benchmarks, encoders, finetuning

    assert benchmarks.load is load and benchmarks.score is score
    assert finetuning.candidate is encoders.candidate
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        getattr(benchmarks, 'lod')  # noqa: B009


def made_at(out, *cells):
    return [(out / 'one' / cell / 'seed-0' / 'result.json').stat().st_mtime_ns for cell in cells]


def test_redo_with_names_computes_these_and_nothing_else(model, rte, tmp_path):
    tsv(
        rte / 'CoLA' / 'train.tsv',
        ['source', 'label', 'star', 'sentence'],
        [('a', i % 2, '', f'a dog {i}') for i in range(12)],
    )
    shutil.copy(rte / 'CoLA' / 'train.tsv', rte / 'CoLA' / 'dev.tsv')
    with open(rte / 'CoLA' / 'dev.tsv', 'a', encoding='utf-8') as f:
        f.write('b\t1\t\tthe end\n')
    out = tmp_path / 'out'
    evaluate(grid(model, rte, out, 'rte,cola', 1), show=False)
    rte_at, cola_at = made_at(out, 'rte', 'cola')
    sent = out / 'one' / 'submission' / 'seed-0' / 'RTE.tsv'
    sent.parent.mkdir(parents=True)
    sent.write_text('of the earlier model', encoding='utf-8')
    evaluate(grid(model, rte, out, 'rte,cola', 1, redo=['rte']), show=False)
    assert not sent.exists()
    again = made_at(out, 'rte', 'cola')
    assert again[0] > rte_at and again[1] == cola_at
    evaluate(grid(model, rte, out, 'rte,cola', 1, redo=['one']), show=False)
    assert all(new > old for new, old in zip(made_at(out, 'rte', 'cola'), again, strict=True))
    with pytest.raises(UserError, match="--redo rtee: no model and no task .* did you mean 'rte'"):
        grid(model, rte, out, 'rte,cola', 1, redo=['rtee'])


def test_a_cell_that_was_begun_with_other_data_is_refused_or_begun_again(
    model, rte, tmp_path, monkeypatch, capsys
):
    out = tmp_path / 'out'

    def dead(*args):
        raise UserError('dead')  # trained, and no score yet

    with monkeypatch.context() as m:
        m.setattr('vidlankd_nb.evaluation.grid.answer', dead)
        with pytest.raises(UserError, match='dead'):
            evaluate(grid(model, rte, out, 'rte', 1), show=False)
    assert list((out / 'one' / 'rte' / 'seed-0' / 'checkpoints').glob('step-*'))
    tsv(rte / 'RTE' / 'train.tsv', PAIR, pairs(48, 7))
    with pytest.raises(UserError, match='holds checkpoints of another configuration .*--redo'):
        evaluate(grid(model, rte, out, 'rte', 1), show=False)
    capsys.readouterr()
    [found] = evaluate(grid(model, rte, out, 'rte', 1, redo=True), show=False)
    assert 'begun again' in capsys.readouterr().out and found['examples']['train'] == 48


def test_toy_says_whose_probes_it_asks(model, rte, tmp_path):
    [line] = look_at_files(grid(model, rte, tmp_path / 'out', 'toy', 1))[0]
    assert f"note: '{rte}' has no probes.json" in line and 'sample world' in line
    mine = rte / 'world' / 'probes.json'
    mine.parent.mkdir()
    shutil.copy(probes_file(None), mine)
    assert look_at_files(grid(model, rte, tmp_path / 'out', 'toy', 1))[0] == [f'toy: probes of {mine}']


def test_everything_is_looked_at_before_the_first_cell(model, rte, tmp_path):
    wrong = model | {
        'gone': str(tmp_path / 'gone'),
        'torn': str(shutil.copytree(model['one'], tmp_path / 't')),
    }
    (tmp_path / 't' / 'model.safetensors').write_bytes(b'no weights')
    with pytest.raises(UserError) as e:
        evaluate(grid(wrong, rte, tmp_path / 'out', 'rte,qnli,cola', 1), show=False)
    assert all(word in str(e.value) for word in ('rows of qnli', 'rows of cola', "'" + wrong['gone'] + "'"))
    assert '3 things are wrong, and nothing was trained' in str(e.value)
    with pytest.raises(UserError, match='cannot be read'):
        evaluate(grid({'torn': wrong['torn']} | model, rte, tmp_path / 'out', 'rte', 1), show=False)
    assert not list((tmp_path / 'out').rglob('log.jsonl'))


@pytest.fixture
def mnli(tmp_path):
    head = ('index', 'sentence1', 'sentence2', 'gold_label')
    rows = [(i, a, b, ('entailment', 'neutral', 'contradiction')[i % 3]) for i, a, b, _ in pairs(24)]
    tsv(tmp_path / 'data' / 'MNLI' / 'train.tsv', head, rows)
    tsv(tmp_path / 'data' / 'MNLI' / 'dev_matched.tsv', head, rows[:9])
    hidden = [row[:3] for row in rows]
    for name in ('dev_mismatched', 'test_matched', 'test_mismatched'):
        tsv(tmp_path / 'data' / 'MNLI' / f'{name}.tsv', head[:3], hidden[:5])
    tsv(tmp_path / 'data' / 'ax' / 'diagnostic.tsv', head[:3], hidden[:4])
    return tmp_path / 'data'


def test_a_file_without_labels_costs_its_own_score_alone(model, mnli, tmp_path):
    out = tmp_path / 'out'
    for _ in range(2):
        with pytest.raises(UserError, match='diagnostics is not scored: .*no column'):
            evaluate(grid(model, mnli, out, 'mnli,diagnostics', 1), show=False)
        found = results_in(out)
        assert [r['task'] for r in found] == ['mnli'] and [*found[0]['scores']] == ['accuracy']
        assert not [note for note in found[0]['notes'] if 'not read' in note]
        assert 'no column' in found[0]['read']['dev/mismatched']['unscored']
        log = (out / 'one' / 'mnli' / 'seed-0' / 'log.jsonl').stat().st_mtime_ns
    assert (out / 'one' / 'mnli' / 'seed-0' / 'log.jsonl').stat().st_mtime_ns == log


def test_test_sets_are_predicted_and_submitted(model, mnli, rte, tmp_path, capsys):
    tsv(mnli / 'RTE' / 'test.tsv', PAIR[:3], [row[:3] for row in pairs(7)])
    out = tmp_path / 'out'
    with pytest.raises(UserError, match='diagnostics is not scored'):
        evaluate(grid(model, mnli, out, 'mnli,diagnostics,rte', 1, predict='test'))
    folder = out / 'one' / 'submission' / 'seed-0'
    assert {p.name for p in folder.iterdir()} == {'MNLI-m.tsv', 'MNLI-mm.tsv', 'AX.tsv', 'RTE.tsv'}
    frame = pd.read_csv(folder / 'RTE.tsv', sep='\t')
    assert [*frame.columns] == ['index', 'prediction'] and [*frame['index']] == list(range(7))
    assert set(frame['prediction']) <= {'entailment', 'not_entailment'}
    assert set(pd.read_csv(folder / 'AX.tsv', sep='\t')['prediction']) <= {*TASKS['mnli'].labels}
    assert 'and no zip: CoLA.tsv' in capsys.readouterr().out
    stamp = {p: p.stat().st_mtime_ns for p in out.rglob('predicted/*')}
    with pytest.raises(UserError):
        evaluate(grid(model, mnli, out, 'mnli,diagnostics,rte', 1, predict='test'), show=False)
    assert stamp == {p: p.stat().st_mtime_ns for p in out.rglob('predicted/*')}  # nothing is computed twice


def test_a_file_is_predicted(model, rte, tmp_path):
    tsv(tmp_path / 'mine.tsv', PAIR[:3], [(n + 40, a, b) for n, a, b, _ in pairs(5)])
    out = tmp_path / 'out'
    evaluate(grid(model, rte, out, 'rte', 1, predict=str(tmp_path / 'mine.tsv')), show=False)
    frame = pd.read_csv(out / 'one' / 'rte' / 'seed-0' / 'predicted' / 'mine.tsv', sep='\t')
    assert [*frame['index']] == [40, 41, 42, 43, 44]
    with pytest.raises(UserError, match='--predict FILE is about one task'):
        grid(model, rte, out, 'rte,sst2', predict='mine.tsv')


def test_a_whole_submission_is_a_zip_of_eleven(tmp_path):
    from vidlankd_nb.evaluation.records import Rows

    said = {'regression': [7.5, -1.0], 'classification': [1, 0]}
    for key in outcomes.SUBMITTED_AS:
        name, _, part = key.partition('/')
        task, cell = TASKS[name], tmp_path / 'm' / name / 'seed-3'
        rows = Rows(task, 'test', [{'id': '5'}, {'id': '9'}])
        stem = f'test_{part}' if part else 'test'
        file = outcomes.write_answers(cell / 'predicted', stem, task, rows, said[task.kind])
        outcomes.record_predicted(cell, stem, rows, file)
    assert "GLUE's 11 files" in outcomes.write_submission(tmp_path / 'm', 3)
    with zipfile.ZipFile(tmp_path / 'm' / 'submission' / 'seed-3.zip') as z:
        text = {n.removesuffix('.tsv'): z.read(n).decode() for n in z.namelist()}
    numbers = {'CoLA', 'SST-2', 'MRPC', 'QQP', 'WNLI'}
    words = {'QNLI': 'not_entailment', 'RTE': 'not_entailment'} | dict.fromkeys(
        ('MNLI-m', 'MNLI-mm', 'AX'), 'neutral'
    )
    assert set(text) == numbers | {*words} | {'STS-B'}
    for name, found in text.items():
        last = {'STS-B': '0.000'}.get(name, '0' if name in numbers else 'entailment')
        first = {'STS-B': '5.000'}.get(name, '1' if name in numbers else words.get(name))
        assert found == f'index\tprediction\n0\t{first}\n1\t{last}\n', name


def test_predictions_are_written_before_the_result(model, tmp_path, monkeypatch):
    paragraph = {'context': 'the dog sleeps here', 'qas': []}
    for i in range(6):
        answers = [{'text': 'here', 'answer_start': 15}] if i % 2 else []
        paragraph['qas'].append(
            {'id': i, 'question': 'where dog', 'answers': answers, 'is_impossible': not answers}
        )
    for split in ('train', 'dev'):
        (tmp_path / f'{split}-v2.0.json').write_text(
            json.dumps({'data': [{'paragraphs': [paragraph]}]}), encoding='utf-8'
        )

    write = outcomes.write_json

    def stop(path, what):
        if Path(path).name == 'result.json':
            raise KeyboardInterrupt
        write(path, what)

    monkeypatch.setattr(outcomes, 'write_json', stop)
    cfg = FineTuning(steps=1, batch=4, span_length=20, stride=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(grid(model, tmp_path, tmp_path / 'out', 'squad2', 1, cfg=cfg), show=False)
    left = {p.name for p in (tmp_path / 'out' / 'one' / 'squad2' / 'seed-0').glob('*.json')}
    assert {'predictions.json', 'null_odds.json', 'best_texts.json', 'rows.json'} <= left
    assert 'result.json' not in left


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_saves_at_once(model, rte, tmp_path, number, code):
    if number == signal.SIGTERM:
        shutil.rmtree(tmp_path / 'out', ignore_errors=True)
    words = ['evaluate', model['one'], '--tasks', 'rte', '--data', rte, '--out', tmp_path / 'out']
    words += [
        '--seeds',
        '1',
        '--steps',
        '100000',
        '--save_every',
        '100000',
        '--log_every',
        '5',
        '--batch',
        '8',
    ]
    p = start('-m', 'vidlankd_nb.cli', *words, '--device', 'cpu', said=(os.devnull, tmp_path / 'said'))
    log = tmp_path / 'out' / 'one' / 'rte' / 'seed-0' / 'log.jsonl'
    until = time.monotonic() + 120
    while not (log.exists() and log.read_text(encoding='utf-8').count('\n') > 1):
        assert time.monotonic() < until and p.is_alive(), (tmp_path / 'said').read_text(encoding='utf-8')
        time.sleep(0.02)
    os.kill(p.pid, number)
    p.join(60)
    assert p.exitcode == code, (tmp_path / 'said').read_text(encoding='utf-8')
    done = [int(f.name[5:]) for f in (log.parent / 'checkpoints').glob('step-*')]
    logged = max(json.loads(line).get('step', 0) for line in log.read_text(encoding='utf-8').splitlines())
    assert done and done[0] >= logged


def test_steps_are_steps(model, rte, tmp_path):
    cfg = FineTuning(steps=7, batch=16, lr=1e-3, max_length=24)
    assert cfg.epochs is None and FineTuning().epochs == 3
    evaluate(grid(model, rte, tmp_path / 'out', 'rte', 1, cfg=cfg), show=False)
    log = (tmp_path / 'out' / 'one' / 'rte' / 'seed-0' / 'log.jsonl').read_text(encoding='utf-8').splitlines()
    assert max(json.loads(line).get('step', 0) for line in log) == 7  # 3 epochs would be 9
    with pytest.raises(UserError, match='steps is 7 and epochs 5: .*leave the other out'):
        FineTuning(steps=7, epochs=5)


def test_names_are_what_was_typed(tmp_path, monkeypatch):
    from vidlankd_nb.arguments import named_models

    for name in ('0f1e2d', 'lr=5e-5'):
        (tmp_path / name).mkdir()
    (tmp_path / 'my-bert').symlink_to(tmp_path / '0f1e2d')
    monkeypatch.chdir(tmp_path)
    assert named_models(['my-bert', 'lr=5e-5', 'mine=0f1e2d', './0f1e2d/', 'a/b']) == {
        'my-bert': 'my-bert',
        'lr=5e-5': 'lr=5e-5',
        'mine': '0f1e2d',
        '0f1e2d': './0f1e2d/',
        'b': 'a/b',
    }
    monkeypatch.chdir(tmp_path / '0f1e2d')
    assert named_models(['.']) == {'0f1e2d': '.'}


def test_models_stay_in_the_order_in_which_they_were_first_named(tmp_path, model, rte):
    from vidlankd_nb.evaluation.results import write_table

    out = tmp_path / 'out'
    other = {'zero': model['one']}
    evaluate(Grid(other, ['rte'], str(out), str(rte), 1, device='cpu', cfg=FineTuning(steps=1)), show=False)
    evaluate(Grid(model, ['rte'], str(out), str(rte), 1, device='cpu', cfg=FineTuning(steps=1)), show=False)
    assert named_order(out) == ['zero', 'one']
    table = write_table(out, ['one'])
    assert table.names == ['zero', 'one'] and set(table.gaps['against']) == {'zero'}


# --- tables


def scored(model, task, seed, scores, **more):
    known = TASKS[task]
    main = next(m for m in [*known.metrics, *scores] if m in scores)
    return {
        'model': model,
        'task': task,
        'kind': known.kind,
        'seed': seed,
        'metric': main,
        'value': scores[main],
        'scores': scores,
        'collapsed': '',
        'majority': None,
    } | more


@pytest.fixture
def every_metric():
    return [
        scored('[a] & b_1', 'squad', s, {'f1': 0.8 + s / 100, 'em': 0.7, 'total': 10}) for s in range(3)
    ] + [
        scored('[a] & b_1', 'mnli', 0, {'accuracy': 0.6, 'accuracy_mismatched': 0.5}),
        scored('[a] & b_1', 'stsb', 0, {'pearson_spearman': 0.55, 'pearson': 0.6, 'spearman': 0.5}),
        scored('bérт', 'stsb', 0, {'pearson_spearman': 0.45, 'pearson': 0.5, 'spearman': 0.4}),
    ]


def test_every_metric_of_a_task_has_a_column(every_metric):
    from vidlankd_nb.evaluation.results import Table

    published = [{'model': 'P', 'source': 's', 'scores': {'stsb': 90.0}}]
    head, rows = Table(every_metric, ['[a] & b_1'], published).grid()
    assert head[1:] == [
        'stsb (pearson_spearman)',
        'stsb (pearson)',
        'stsb (spearman)',
        'mnli (accuracy)',
        'mnli (accuracy_mismatched)',
        'squad (f1)',
        'squad (em)',
    ]
    assert rows[0][1:] == ['55.0', '60.0', '50.0', '60.0', '50.0', '81.0 (80.0–82.0)', '70.0 (70.0–70.0)']
    assert rows[1][1:] == ['45.0', '50.0', '40.0'] + ['–'] * 4 and rows[2][1:4] == ['90.0', '–', '–']


def test_the_average_is_the_leaderboards():
    "BERT-large's row of gluebenchmark.com (Devlin et al. 2019), whose score stands there as 80.5."
    from vidlankd_nb.evaluation.results import Table

    points = {
        'cola': {'mcc': 60.5},
        'sst2': {'accuracy': 94.9},
        'mrpc': {'accuracy_f1': (85.4 + 89.3) / 2},
        'stsb': {'pearson_spearman': (87.6 + 86.5) / 2},
        'qqp': {'accuracy_f1': (89.3 + 72.1) / 2},
        'mnli': {'accuracy': 86.7, 'accuracy_mismatched': 85.9},
        'qnli': {'accuracy': 92.7},
        'rte': {'accuracy': 70.1},
        'wnli': {'accuracy': 65.1},
    }
    shares = {t: {m: v / 100 for m, v in found.items()} for t, found in points.items()}
    runs = [scored('bert', task, 0, found) for task, found in shares.items()]
    assert Table(runs).grid()[1][0][-1] == '80.5'
    assert any('as the leaderboard has it' in note for note in Table(runs).notes())
    eight = Table([r for r in runs if r['task'] != 'wnli'])
    assert eight.grid()[1][0][-1] == '82.5'  # 659.6 / 8 is 82.45
    assert any('without WNLI' in note for note in eight.notes())


def test_html_is_a_whole_page_with_differences(every_metric, tmp_path):
    from html.parser import HTMLParser

    from vidlankd_nb.evaluation.results import Table

    gaps = pd.DataFrame(
        [{'task': 'rte', 'model': 'b<1>', 'against': 'a', 'difference': 1.0, 'low': -2.0, 'high': 4.0}]
    )
    page = Table(every_metric, gaps=gaps.assign(seeds=3, rows=277)).html()
    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    Tags().feed(page)
    tags = [tag for tag, _ in found]
    assert tags[0] == 'html' and ('meta', {'charset': 'utf-8'}) in found and tags.count('table') == 2
    assert 'style' in tags and '<td>-2.0 … +4.0</td>' in page and 'b&lt;1&gt;' in page


def test_latex_is_balanced_escaped_and_of_equal_columns(every_metric):
    "What a TeX would stumble over, where none is at hand."
    from vidlankd_nb.evaluation.results import Table

    text = Table(every_metric, ['[a] & b_1']).latex()
    body = [line for line in text.splitlines() if line.endswith(r'\\')]
    columns = text.splitlines()[0].removeprefix(r'\begin{tabular}{').removesuffix('}')
    plain = [line.replace(r'\&', '').replace(r'\_', '') for line in body]
    assert {line.count('&') + 1 for line in plain} == {len(columns)}
    assert not any(line.startswith(('[', '*')) for line in body)
    assert all(line.count('{') == line.count('}') and line.count('$') % 2 == 0 for line in plain)
    assert not any('_' in line or '#' in line or '%' in line for line in plain)
    assert 'pdfLaTeX cannot print т: use LuaLaTeX' in text
    assert all(line.startswith(('%', '\\')) or line in body for line in text.splitlines())


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='no TeX is installed')
def test_latex_compiles(every_metric, tmp_path):
    from vidlankd_nb.evaluation.results import Table

    western = [r for r in every_metric if r['model'] != 'bérт'] + [
        every_metric[-1] | {'model': 'bért *{x}~^\\ <$#> "q" ü† …'}
    ]
    table = Table(western, [], [{'model': '[P]', 'source': 's', 'scores': {'stsb': 90.0}}])
    (tmp_path / 'x.tex').write_text(
        '\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n'
        + table.latex()
        + '\n\\end{document}\n',
        encoding='utf-8',
    )
    done = subprocess.run(
        ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'x.tex'], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors='replace')[-2000:]


def test_lines_for_datasets_and_metadata_for_the_hub(every_metric, tmp_path):
    from huggingface_hub import ModelCard

    from vidlankd_nb.evaluation.typeset import as_card, as_json_lines

    file = tmp_path / 'results.jsonl'
    file.write_text(as_json_lines(every_metric), encoding='utf-8')
    rows = datasets.load_dataset(
        'json', data_files=str(file), split='train', cache_dir=str(tmp_path / 'cache')
    )
    assert len(rows) == 9 + 2 + 6 and rows.features['value'].dtype == 'float64'
    one = [r for r in rows if r['task'] == 'squad' and r['metric'] == 'em']
    assert [r['value'] for r in one] == [0.7] * 3 and one[0]['dataset'] == 'rajpurkar/squad'
    (tmp_path / 'README.md').write_text(as_card(every_metric, '[a] & b_1'), encoding='utf-8')
    found = ModelCard.load(tmp_path / 'README.md').data.eval_results
    shown = {(e.dataset_name, e.metric_type): e.metric_value for e in found}
    assert shown == {
        ('squad', 'f1'): 0.81,
        ('squad', 'exact_match'): 0.7,
        ('mnli', 'accuracy'): 0.6,
        ('mnli', 'accuracy_mismatched'): 0.5,
        ('stsb', 'pearson_spearman'): 0.55,
        ('stsb', 'pearsonr'): 0.6,
        ('stsb', 'spearmanr'): 0.5,
    }
    assert as_card(every_metric, 'nobody') == ''


def test_intervals_of_three_seeds_cover():
    "Forty thousand experiments of known truth, whatever share of the luck is the questions'."
    from vidlankd_nb.evaluation.differences import half_width

    rng = np.random.default_rng(0)
    for questions in (0.0, 0.2, 0.3, 1.0, 3.0):
        hits = 0
        for d in rng.normal(size=(8000, 3)) + rng.normal(0, questions, size=(8000, 1)):
            hits += abs(d.mean()) <= half_width(d, questions**2)
        assert 0.94 <= hits / 8000 <= 0.97, (questions, hits / 8000)
