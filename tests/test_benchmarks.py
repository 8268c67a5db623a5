"""Benchmark files as people keep them: layouts, odd bytes, broken rows, the hub's columns, and metrics against loops."""

import json
import random

import numpy as np
import pytest

from vidlankd_nb.evaluation.benchmarks import GROUPS, TASKS, tasks
from vidlankd_nb.evaluation.suite import FORMS, Form, form_of, load, score
from vidlankd_nb.files import UserError


def put(folder, name, text, encoding='utf-8'):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


RTE = 'index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n1\tIt snows.\tIt is hot.\tnot_entailment\n'


def test_names():
    assert [t.name for t in tasks('rte, sst2,rte')] == ['rte', 'sst2']
    assert len(tasks('glue')) == 9 and len(tasks('all')) == len(TASKS) == 15
    assert [t.name for t in tasks(['squad2', 'paper'])][0] == 'squad2' and len(tasks('paper')) == len(
        GROUPS['paper']
    )
    with pytest.raises(UserError, match="did you mean 'squad2'"):
        tasks('squda2')
    with pytest.raises(UserError, match='No task'):
        tasks('')
    with pytest.raises(UserError, match="did you mean 'dev'"):
        load('rte', '.', 'dv')
    with pytest.raises(UserError, match='leaves nothing'):
        load('rte', '.', limit=0)
    with pytest.raises(UserError, match="did you mean 'mismatched'"):
        load('mnli', '.', 'dev', part='mismached')
    with pytest.raises(UserError, match='one set only'):
        load('rte', '.', 'dev', part='matched')


def test_one_table_says_how_each_task_is_read_and_scored():
    assert FORMS.keys() <= TASKS.keys() and {t.name for t in tasks('all') if form_of(t) == Form()} == {
        *GROUPS['glue']
    }
    assert {*FORMS} == {'squad', 'squad2', 'swag', 'piqa', 'tracie', 'diagnostics'}


@pytest.mark.parametrize('place', ['RTE', 'rte', 'glue/RTE', 'GLUE_DATA/rte', 'a/b/c/Rte'])
def test_folders(tmp_path, place):
    put(tmp_path, f'{place}/dev.tsv', RTE)
    put(tmp_path, f'{place}/deeper/qnli/dev.tsv', 'another task lies inside')
    assert len(load('rte', tmp_path, 'dev')) == 2
    assert len(load('rte', tmp_path / place, 'dev')) == 2  # the task's own folder will do
    assert len(load('rte', tmp_path / place / 'dev.tsv', 'dev')) == 2


@pytest.mark.parametrize(
    'task, name',
    [('stsb', 'SST-B'), ('stsb', 'STS-B'), ('sst2', 'SST-2'), ('sst2', 'sst_2'), ('sst2', 'SST')],
)
def test_names_of_folders(tmp_path, task, name):
    put(
        tmp_path,
        f'{name}/train.tsv',
        'sentence\tlabel\nfine .\t1\n'
        if task == 'sst2'
        else '\t'.join(TASKS['stsb'].layout)
        + '\n'
        + '\t'.join(['0', 'g', 'f', 'y', '0', 'n', 'n', 'A', 'B', '3.75'])
        + '\n',
    )
    assert load(task, tmp_path)[0]['label'] == (1 if task == 'sst2' else 3.75)


def test_the_shallow_folder_wins(tmp_path):
    put(tmp_path, 'old/RTE/dev.tsv', RTE)
    put(tmp_path, 'RTE/dev.tsv', RTE + '2\tA.\tB.\tentailment\n')
    assert len(load('rte', tmp_path, 'dev')) == 3


def test_missing(tmp_path):
    with pytest.raises(UserError, match='no folder'):
        load('rte', tmp_path / 'nowhere')
    with pytest.raises(
        UserError, match=r'train.tsv is expected in .*RTE. Get it from https://gluebenchmark.com'
    ):
        load('rte', tmp_path)
    put(tmp_path, 'glue/RTE/dev.tsv', RTE)
    with pytest.raises(UserError, match=r'train.tsv is expected in .*glue/RTE\. '):
        load('rte', tmp_path)
    for task in TASKS.values():
        with pytest.raises(UserError, match='Get it from|answers it'):
            load(task, tmp_path, 'train')
    put(tmp_path, 'train.tsv', RTE)  # says nothing of its task
    with pytest.raises(UserError, match='is expected in'):
        load('wnli', tmp_path)


@pytest.mark.parametrize(
    'task', ['cola', 'rte', 'sst2', 'mrpc', 'qqp', 'stsb', 'qnli', 'wnli', 'diagnostics']
)
def test_with_and_without_header(tmp_path, task):
    t = TASKS[task]
    layout = t.layout or (
        'lexical semantics',
        'predicate-argument structure',
        'logic',
        'knowledge',
        'domain',
        'premise',
        'hypothesis',
        'label',
    )
    label = '2.5' if task == 'stsb' else (t.written or t.labels)[1]
    lines = [
        ['7' if c in ('index', 'id') else label if c == t.columns['label'] else f'{c} {i}' for c in layout]
        for i in range(3)
    ]
    file = lambda rows, end='\n': end.join('\t'.join(r) for r in rows).encode()
    put(tmp_path, 'with.tsv', b'\xef\xbb\xbf' + file([[c.title() for c in layout], *lines], '\r\n'))
    want = load(task, tmp_path / 'with.tsv', 'dev')
    assert (
        len(want) == 3
        and all(r['label'] == (2.5 if task == 'stsb' else 1) for r in want)
        and not want.skipped
    )
    if t.layout:
        put(tmp_path, 'without.tsv', file(lines) + b'\n\n')
        assert [r['a'] for r in load(task, tmp_path / 'without.tsv', 'dev')] == [r['a'] for r in want]
    bare = [
        [c for c, name in zip(r, layout, strict=True) if name != t.columns['label']]
        for r in [list(layout), *lines]
    ]
    put(tmp_path, 'test.tsv', file(bare))
    assert [r['label'] for r in load(task, tmp_path / 'test.tsv', 'test')] == [None] * 3
    with pytest.raises(
        UserError, match="no column 'label'|no column 'is_duplicate'|no column 'quality'|no column 'score'"
    ):
        load(task, tmp_path / 'test.tsv', 'dev')


def test_quotes_and_rare_separators(tmp_path):
    odd = [
        '"never closed',
        'a "quoted" word',
        "it's",
        'two\u2028lines',
        'next\x85line',
        'form\x0cfeed',
        '😀 é',
        '"',
    ]
    put(
        tmp_path,
        'SST-2/train.tsv',
        'sentence\tlabel\r\n' + ''.join(f'{t}\t{i % 2}\r\n' for i, t in enumerate(odd)),
    )
    assert [r['a'] for r in load('sst2', tmp_path)] == odd


def test_broken_rows_are_named(tmp_path):
    path = put(
        tmp_path,
        'RTE/dev.tsv',
        RTE.encode()
        + b'2\ta\tb\n3\ta\tb\tc\tentailment\n4\t \tb\tentailment\n5\ta\tb\tmaybe\n6\t\xff\xfe\tb\tentailment\n7\ta\tb\t\n8\ta\tb\tentailment\t\n',
    )
    rows = load('rte', tmp_path, 'dev')
    assert [r['id'] for r in rows] == ['0', '1', '8']
    assert [s['line'] for s in rows.skipped] == [4, 5, 6, 7, 8, 9] and {s['file'] for s in rows.skipped} == {
        str(path)
    }
    for s, word in zip(
        rows.skipped, ('into 3', 'into 5', 'empty', "'maybe'", 'not UTF-8', 'missing'), strict=True
    ):
        assert word in s['reason']
    with pytest.raises(UserError, match='line 4: tabs cut the line into 3'):
        load('rte', tmp_path, 'dev', strict=True)
    assert rows.report()['skipped'] == 6 and json.dumps(rows.report())


@pytest.mark.parametrize(
    'text, word',
    [
        (b'', 'empty'),
        (b'\n\n', 'empty'),
        (b'index\tsentence1\tsentence2\tlabel\n', 'empty'),
        (b'a b c', 'into 1,'),
        (RTE.encode('utf-16'), 'UTF-16'),
        (RTE.encode('utf-16-le'), 'UTF-16-LE'),
        (RTE.encode('utf-32'), 'UTF-32'),
        (RTE.replace('entailment', 'x').encode(), '2 were skipped, the first at line 2'),
        (RTE.replace('sentence2', 'text').encode(), "no column 'sentence2'"),
        (b'\x89PNG\r\n\x1a\n\0\0', 'tabs cut|skipped'),
    ],
)
def test_files_without_rows(tmp_path, text, word):
    put(tmp_path, 'RTE/dev.tsv', text)
    with pytest.raises(UserError, match=word):
        load('rte', tmp_path, 'dev')


@pytest.mark.parametrize('text', ['-1', '5.01', 'nan', 'inf', 'five', '1e9', ' '])
def test_scores_outside(tmp_path, text):
    row = lambda s: '\t'.join(['0', 'g', 'f', 'y', '0', 'n', 'n', 'A.', 'B.', s]) + '\n'
    put(tmp_path, 'STS-B/dev.tsv', row('5') + row(text) + row('0.000'))
    rows = load('stsb', tmp_path, 'dev')
    assert [r['label'] for r in rows] == [5, 0] and [s['line'] for s in rows.skipped] == [2]


def test_mrpc_is_cut_as_glue_does(tmp_path):
    lines = ''.join(f'{i % 2}\t{i}\t{i + 100}\tsentence {i}\tother {i}\n' for i in range(6))
    put(tmp_path, 'MRPC/msr_paraphrase_train.txt', 'BOMQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n' + lines)
    assert len(load('mrpc', tmp_path)) == 6
    with pytest.raises(UserError, match='dev.tsv'):
        load('mrpc', tmp_path, 'dev')
    put(tmp_path, 'MRPC/dev_ids.tsv', '1\t101\r\n4\t104\r\n')
    assert [r['a'][-1] for r in load('mrpc', tmp_path)] == list('0235') and [
        r['a'][-1] for r in load('mrpc', tmp_path, 'dev')
    ] == list('14')
    put(tmp_path, 'MRPC/dev.tsv', '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA.\tB.\n')
    assert [r['a'] for r in load('mrpc', tmp_path, 'dev')] == ['A.']


SWAG = ',video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\r\n'


def swag(i, *ends, label='2', sent='She, too, ran.'):
    return f'{i},v,1,s,"{sent}",Then she,gold,{",".join(ends or ("a", "b", "c", "d"))},{label}\r\n'


def test_swag(tmp_path):
    put(
        tmp_path,
        'swag/val.csv',
        b'\xef\xbb\xbf'
        + (
            SWAG
            + swag(0, '"stops, breathes"', '"says ""no"""', '"two\nlines"', 'd')
            + swag(1, label='4')
            + swag(2, 'a', 'b', 'c')
            + swag(3, 'a', '', 'c', 'd')
            + swag(4)
        ).encode(),
    )
    rows = load('swag', tmp_path, 'dev')
    assert (
        [r['id'] for r in rows] == ['0', '4']
        and rows[0]['label'] == 2
        and rows[0]['context'] == 'She, too, ran.'
    )
    assert rows[0]['choices'] == [
        'Then she stops, breathes',
        'Then she says "no"',
        'Then she two\nlines',
        'Then she d',
    ]
    assert [s['line'] for s in rows.skipped] == [4, 5, 6]
    put(tmp_path, 'swag/test.csv', SWAG.replace(',label', '') + swag(0).replace(',2\r', '\r'))
    assert load('swag', tmp_path, 'test')[0]['label'] is None
    put(tmp_path, 'swag/train.csv', SWAG + swag(0) + swag(1, '"never closed') + swag(2))
    rows = load('swag', tmp_path)  # the next mark closes it: two rows are gone, and both are named
    assert len(rows) == 1 and 'lines 3 to 4' in rows.skipped[0]['reason']
    put(tmp_path, 'swag/train.csv', SWAG + swag(0) + swag(1, '"never closed') + 'more text\n' * 9)
    with pytest.raises(UserError, match='line 3: a quotation mark'):
        load('swag', tmp_path)
    put(tmp_path, 'swag/train.csv', 'a,b\n1,2\n')
    with pytest.raises(UserError, match='lacks sent1'):
        load('swag', tmp_path)


def test_the_beginning_of_swags_endings_is_checked_as_other_texts_are(tmp_path):
    broken = swag(1).encode().replace(b'Then she', b'Then \xff')
    empty = swag(2).encode().replace(b'Then she', b'')
    put(tmp_path, 'swag/val.csv', SWAG.encode() + swag(0).encode() + broken + empty)
    rows = load('swag', tmp_path, 'dev')
    assert [r['id'] for r in rows] == ['0', '2'] and rows[1]['choices'][0] == 'a'
    assert [s['reason'] for s in rows.skipped] == ["'sent2' is not UTF-8 text"]


def test_an_id_that_cannot_be_written_is_named(tmp_path):
    row = swag(1).encode()
    put(tmp_path, 'swag/val.csv', SWAG.encode() + swag(0).encode() + b'\xff' + row)
    rows = load('swag', tmp_path, 'dev')
    assert len(rows) == 1 and [s['reason'] for s in rows.skipped] == ["'id' is not UTF-8 text"]
    lines = [
        {'query': 'event: a starts before b', 'story': 'Ann ran.', 'label': 'entailment', 'id': i}
        for i in (1, '\ud800')
    ]
    put(tmp_path, 'tracie/test.jsonl', '\n'.join(map(json.dumps, lines)))
    rows = load('tracie', tmp_path, 'dev')
    assert len(rows) == 1 and [s['reason'] for s in rows.skipped] == ["'id' is not UTF-8 text"]


@pytest.mark.parametrize('label', [1, 0, True, 1.5, ['a']])
def test_labels_of_tracie_that_are_no_text_are_named(tmp_path, label):
    line = {'query': 'event: a starts before b', 'story': 'Ann ran.'}
    lines = [line | {'label': 'entailment'}, line | {'label': label}]
    put(tmp_path, 'tracie/test.jsonl', '\n'.join(map(json.dumps, lines)))
    rows = load('tracie', tmp_path, 'dev')
    assert len(rows) == 1 and f'the label is {str(label)!r}' in rows.skipped[0]['reason']


def test_piqa(tmp_path):
    line = lambda i: json.dumps({'goal': f'goal {i}', 'sol1': 'a', 'sol2': 'b'}).encode()
    path = put(
        tmp_path,
        'physicaliqa/valid.jsonl',
        b'\n'.join([line(0), b'{"goal": ', b'\xff', line(3), b'[1]', line(5).replace(b'"b"', b'7'), line(6)])
        + b'\n',
    )
    with pytest.raises(UserError, match='valid-labels.lst is missing'):
        load('piqa', tmp_path, 'dev')
    put(tmp_path, 'physicaliqa/valid-labels.lst', '0\r\n1\r\n1\r\n1\r\n0\r\n0\r\n2')
    rows = load('piqa', tmp_path, 'dev')
    assert [(r['context'], r['label']) for r in rows] == [('goal 0', 0), ('goal 3', 1)]  # nothing has shifted
    assert [s['line'] for s in rows.skipped] == [2, 3, 5, 6, 7] and {s['file'] for s in rows.skipped} == {
        str(path)
    }
    put(tmp_path, 'physicaliqa/valid-labels.lst', '0\n1\n')
    with pytest.raises(UserError, match='do not belong together'):
        load('piqa', tmp_path, 'dev')
    put(tmp_path, 'physicaliqa/tests.jsonl', line(0))
    assert load('piqa', tmp_path, 'test')[0]['label'] is None


def test_tracie_forms_agree(tmp_path):
    story = 'Ann sowed beans. It rained for a week. The beans came up.'
    queries = [
        (f'the rain ended {w} the beans came up', l)
        for w, l in (
            ('starts before', 'positive'),
            ('starts after', 'negative'),
            ('ends after', 'negative'),
            ('happens near', 'positive'),
        )
    ]
    put(
        tmp_path,
        'text/tracie_test.txt',
        ''.join(f'event: {q} story: {story}\tanswer: {l}\r\n' for q, l in queries) + 'no event here\n',
    )
    for key in ('label', 'gold_label'):
        put(
            tmp_path,
            f'{key}/tracie/test.jsonl',
            ''.join(
                json.dumps(
                    {
                        'query': f'event: {q}',
                        'story': story,
                        key: {'positive': 'entailment', 'negative': 'contradiction'}[l],
                    }
                )
                + '\n'
                for q, l in queries
            ),
        )
    text, *lead = (load('tracie', tmp_path / p, 'dev') for p in ('text', 'label', 'gold_label'))
    assert text == lead[0] == lead[1] and [s['line'] for s in text.skipped] == [5]
    assert [r['query'] for r in text] == ['start', 'start', 'end', None] and text[0]['a'] == story
    found = score('tracie', text, [0, 1, 0, 0])
    assert found == {'accuracy': 0.75, 'accuracy_start': 1.0, 'accuracy_end': 0.0, 'story_em': 0.0}
    put(
        tmp_path,
        'hidden/tracie/test.jsonl',
        json.dumps({'query': 'event: a starts before b', 'story': story, 'gold_label': '-'}),
    )
    assert load('tracie', tmp_path / 'hidden', 'test')[0]['label'] is None


@pytest.mark.parametrize('name', ['tracie_train.txt', 'tracie_test.txt'])
def test_one_file_makes_two_splits(tmp_path, name):
    text = ''.join(
        f'event: a starts {w} b story: Story number {i}.\tanswer: positive\n'
        for i in range(200)
        for w in ('before', 'after')
    )
    put(tmp_path, name, text)
    for data in (tmp_path, tmp_path / name):
        train, dev = (load('tracie', data, s, held_out=0.25) for s in ('train', 'dev'))
        assert (
            len(train) + len(dev) == 400
            and 60 < len(dev) < 140
            and not {r['a'] for r in train} & {r['a'] for r in dev}
        )
    put(tmp_path, 'tracie_train.txt', text)
    put(tmp_path, 'tracie_test.txt', text)
    assert [len(load('tracie', tmp_path, s, held_out=0.25)) for s in ('train', 'dev')] == [
        400,
        400,
    ]  # two files are two splits


def test_a_cut_that_leaves_one_side_empty_says_so(tmp_path):
    put(
        tmp_path, 'tracie_test.txt', 'event: a starts before b story: Only one story.\tanswer: positive\n' * 3
    )
    sides = {}
    for s in ('train', 'dev'):
        try:
            sides[s] = len(load('tracie', tmp_path, s, held_out=0.5))
        except UserError as e:
            sides[s] = str(e)
    assert sorted(map(type, sides.values()), key=str) == [int, str] and 3 in sides.values()
    assert 'all of its 3 good rows fell to the other side' in next(v for v in sides.values() if v != 3)
    with pytest.raises(UserError, match='must be a share between 0 and 1'):
        load('tracie', tmp_path, 'dev', held_out=25)


def test_limit_reads_no_further(tmp_path):
    put(tmp_path, 'RTE/train.tsv', RTE + 'broken\n')
    assert len(load('rte', tmp_path, limit=2, strict=True)) == 2


class Hub:
    "Stands for `datasets.load_dataset`: data sets of the published columns, in memory."

    names = {
        'cola': ['unacceptable', 'acceptable'],
        'sst2': ['negative', 'positive'],
        'mrpc': ['not_equivalent', 'equivalent'],
        'qqp': ['not_duplicate', 'duplicate'],
        'mnli': ['entailment', 'neutral', 'contradiction'],
        'qnli': ['entailment', 'not_entailment'],
        'rte': ['entailment', 'not_entailment'],
        'wnli': ['not_entailment', 'entailment'],
        'ax': ['entailment', 'neutral', 'contradiction'],
    }

    def __call__(self, name, config=None, split=None, revision=None):
        from datasets import ClassLabel, Dataset, Features, Value

        self.asked, text, n = (name, config, split, revision), Value('string'), 3
        if name == 'nyu-mll/glue':
            columns = {
                'cola': ['sentence'],
                'sst2': ['sentence'],
                'qqp': ['question1', 'question2'],
                'qnli': ['question', 'sentence'],
                'mnli': ['premise', 'hypothesis'],
                'ax': ['premise', 'hypothesis'],
            }.get(config, ['sentence1', 'sentence2'])
            label = Value('float32') if config == 'stsb' else ClassLabel(names=self.names[config])
            return Dataset.from_dict(
                {c: [f'{c} {i}' for i in range(n)] for c in columns}
                | {'label': [-1] * n if split.startswith('test') else [0, 1, 1], 'idx': [5, 6, 7]},
                features=Features({c: text for c in columns} | {'label': label, 'idx': Value('int32')}),
            )
        if name == 'allenai/swag':
            return Dataset.from_dict(
                {'sent1': ['One.'] * n, 'sent2': ['Two'] * n}
                | {f'ending{i}': [f'end {i}'] * n for i in range(4)}
                | {'label': [3, 0, 1]},
                features=Features(
                    {k: text for k in ('sent1', 'sent2', 'ending0', 'ending1', 'ending2', 'ending3')}
                    | {'label': ClassLabel(names=list('0123'))}
                ),
            )
        if name == 'ybisk/piqa':
            return Dataset.from_dict(
                {'goal': ['g'] * n, 'sol1': ['a'] * n, 'sol2': ['b'] * n, 'label': [1, 0, -1]},
                features=Features(
                    {'goal': text, 'sol1': text, 'sol2': text, 'label': ClassLabel(names=['0', '1'])}
                ),
            )
        if name == 'tasksource/tracie':
            return Dataset.from_dict(
                {
                    'premise': ['S.'] * 2,
                    'hypothesis': ['event: a starts before b', 'event: a ends after b'],
                    'answer': ['positive', 'negative'],
                }
            )
        return Dataset.from_dict(
            {
                'id': ['x', 'y'],
                'title': ['t'] * 2,
                'context': ['The mill is old.'] * 2,
                'question': ['What is old?', 'Who is old?'],
                'answers': [{'text': ['The mill'], 'answer_start': [0]}, {'text': [], 'answer_start': []}],
            }
        )


@pytest.fixture
def hub(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, 'load_dataset', fake := Hub())
    return fake


def test_hub(hub):
    for t in tasks('glue'):
        rows = load(t, 'hub', 'dev')
        assert hub.asked == (
            'nyu-mll/glue',
            t.name,
            'validation_matched' if t.name == 'mnli' else 'validation',
            None,
        )
        assert (
            [r['label'] for r in rows] == [0, 1, 1]
            and rows[1]['a'].endswith(' 1')
            and (rows[1]['b'] is None) == (t.name in ('cola', 'sst2'))
        )
        assert [r['label'] for r in load(t, 'hub', 'test')] == [None] * 3
    load('mnli', 'hub', 'dev', part='mismatched')
    assert hub.asked[2] == 'validation_mismatched'
    assert [r['label'] for r in load('swag', 'hub')] == [3, 0, 1] and load('swag', 'hub')[0]['choices'][
        2
    ] == 'Two end 2'
    piqa = load('piqa', 'hub')
    assert (
        [r['label'] for r in piqa] == [1, 0]
        and piqa.skipped[0]['reason'] == 'the label is missing'
        and hub.asked[3] == 'refs/convert/parquet'
    )
    tracie = load('tracie', 'hub', 'dev')
    assert hub.asked[2] == 'test' and [(r['a'], r['b'], r['label'], r['query']) for r in tracie] == [
        ('S.', 'a starts before b', 0, 'start'),
        ('S.', 'a ends after b', 1, 'end'),
    ]
    assert [r['impossible'] for r in load('squad2', 'hub', 'dev')] == [False, True]
    squad = load('squad', 'hub', 'dev')
    assert len(squad) == 1 and 'no answer is given' in squad.skipped[0]['reason']
    with pytest.raises(UserError, match='no labels and no categories'):
        load('diagnostics', 'hub', 'dev')
    assert load('diagnostics', 'hub', 'test')[0]['label'] is None


def test_other_order_of_names_on_the_hub(hub):
    hub.names = Hub.names | {'rte': ['not_entailment', 'entailment'], 'qnli': ['yes', 'no']}
    assert [r['label'] for r in load('rte', 'hub')] == [1, 0, 0]
    with pytest.raises(UserError, match="'yes', not one of"):
        load('qnli', 'hub')


def test_hub_out_of_reach(monkeypatch):
    import datasets

    def fail(*a, **k):
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, 'load_dataset', fail)
    with pytest.raises(
        UserError, match=r"The hub gave no train rows of nyu-mll/glue \(rte\): Couldn't reach it"
    ):
        load('rte', 'hub')


def mcc_by_hand(gold, given, classes):
    "Gorodkin's R_K from the table of counts."
    table = np.zeros((classes, classes))
    for g, p in zip(gold, given, strict=True):
        table[g, p] += 1
    t, p, n = table.sum(1), table.sum(0), table.sum()
    below = np.sqrt((n**2 - p @ p) * (n**2 - t @ t))
    return (np.trace(table) * n - t @ p) / below if below else 0.0


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seed', range(20))
def test_metrics_by_hand(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    gold, given = rng.integers(0, 2, n), rng.integers(0, 2 if seed % 5 else 1, n)
    rows = [{'label': int(g)} for g in gold]
    both, either = ((gold == 1) & (given == 1)).sum(), (gold == 1).sum() + (given == 1).sum()
    found = score('mrpc', rows, given)
    assert found['accuracy'] == pytest.approx((gold == given).mean()) and found['f1'] == pytest.approx(
        2 * both / either if either else 0.0
    )
    assert found['accuracy_f1'] == pytest.approx((found['accuracy'] + found['f1']) / 2)
    assert score('cola', rows, given)['mcc'] == pytest.approx(mcc_by_hand(gold, given, 2))
    three, guess = rng.integers(0, 3, n), rng.integers(0, 3, n)
    rows = [
        {'label': int(g), 'coarse': ['Logic'] if i % 2 else [], 'fine': ['x', 'y'][: i % 3]}
        for i, g in enumerate(three)
    ]
    found = score('diagnostics', rows, guess)
    assert found['mcc'] == pytest.approx(mcc_by_hand(three, guess, 3)) and found['rows'] == n
    at = [i for i, r in enumerate(rows) if 'x' in r['fine']]
    if at:
        assert found['fine']['x'] == {
            'mcc': pytest.approx(mcc_by_hand(three[at], guess[at], 3)),
            'accuracy': pytest.approx((three[at] == guess[at]).mean()),
            'rows': len(at),
        }
    x, y = rng.uniform(0, 5, n), rng.uniform(0, 5, n)
    found = score('stsb', [{'label': v} for v in x], y)
    if n > 2:
        rank = lambda v: np.argsort(np.argsort(v))
        assert found['pearson'] == pytest.approx(np.corrcoef(x, y)[0, 1]) and found[
            'spearman'
        ] == pytest.approx(np.corrcoef(rank(x), rank(y))[0, 1])
        assert (
            json.loads(json.dumps(score('stsb', [{'label': v} for v in x], np.full(n, 2.0))))['pearson'] == 0
        )


def test_scores_refuse():
    rows = [{'label': 0}, {'label': 1}]
    for bad, word in (
        ([0], 'one prediction a row'),
        ([[0, 1]], 'one prediction a row'),
        ([0, 2], 'class numbers below 2'),
        ([0, 0.5], 'class numbers'),
        ([0, float('nan')], 'not numbers'),
        (['a', 'b'], 'not numbers'),
    ):
        with pytest.raises(UserError, match=word):
            score('rte', rows, bad)
    with pytest.raises(UserError, match='1 of 2 rows have no label'):
        score('rte', [{'label': None}, {'label': 1}], [0, 1])
    with pytest.raises(UserError):
        score('rte', [], [])


def test_fuzz(tmp_path):
    "Whatever bytes are in a file, there are rows, skips, or one clear error."
    rng = random.Random(0)
    story = 'event: a starts before b story: One. Two.\tanswer: positive\n'
    seeds = {
        'rte': ('RTE/dev.tsv', RTE),
        'cola': ('CoLA/dev.tsv', 'x\t1\t\tA cat.\nx\t0\t*\tCat a.\n'),
        'swag': ('swag/val.csv', SWAG + swag(0) + swag(1)),
        'tracie': ('tracie_test.txt', story * 2),
        'piqa': ('piqa/valid.jsonl', '{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 2),
    }
    put(tmp_path, 'piqa/valid-labels.lst', '0\n1\n')
    outcomes = set()
    for task, (name, text) in seeds.items():
        for _ in range(150):
            b = bytearray(text.encode())
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(b))
                b[at : at + rng.choice((0, 0, 1, 5))] = rng.choice(
                    (
                        b'\t',
                        b'"',
                        b'\n',
                        b'\r',
                        b'\xff',
                        b'\0',
                        b',',
                        b'{',
                        b'\xe2\x80\xa8',
                        b'',
                        bytes([rng.randrange(256)]),
                    )
                )
            put(tmp_path, name, bytes(b))
            try:
                rows = load(task, tmp_path, 'dev')
                assert all(r['label'] in range(len(TASKS[task].labels)) for r in rows) and all(
                    isinstance(s['line'], int) and s['reason'] for s in rows.skipped
                )
                outcomes.add((task, bool(rows.skipped)))
            except UserError:
                outcomes.add((task, 'error'))
    assert len(outcomes) >= 12
