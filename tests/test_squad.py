"""SQuAD: odd files, the official rules written as loops, windows over any text, exact spans, every threshold."""

import json
import random
import re
import string
from collections import Counter

import numpy as np
import pytest

from vidlankd_nb.corpus import train_tokenizer
from vidlankd_nb.evaluation.squad import (
    answers,
    best_of,
    best_threshold,
    em,
    f1,
    golds,
    normalised,
    positions,
    score_spans,
    spans,
    threshold_curve,
    windows,
    write_predictions,
)
from vidlankd_nb.evaluation.suite import load, score
from vidlankd_nb.files import UserError

CONTEXT = 'The ferry, which is old, leaves at 9. Its captain, Mo, sings.'


def question(i='a', text='Ferry?', answers=(('Mo', 51),), **more):
    return {
        'id': i,
        'question': text,
        'answers': [{'text': t, 'answer_start': s} for t, s in answers],
        'is_impossible': not answers,
    } | more


def put(folder, *questions, context=CONTEXT, name='dev-v2.0.json', **kw):
    path = folder / name
    path.write_text(
        json.dumps(
            {
                'version': 'x',
                'data': [{'title': 't', 'paragraphs': [{'qas': list(questions), 'context': context}]}],
            },
            indent=1,
            **kw,
        ),
        encoding='utf-8',
    )
    return path


def test_reads(tmp_path):
    assert CONTEXT.startswith('Mo', 51)
    put(
        tmp_path,
        question('a'),
        question('b', answers=()),
        question('c', answers=(('Mo', 51), ('captain', 42))),
    )
    rows = load('squad2', tmp_path, 'dev')
    assert [(r['id'], r['impossible'], len(r['answers'])) for r in rows] == [
        ('a', False, 1),
        ('b', True, 0),
        ('c', False, 2),
    ] and not rows.skipped
    assert rows[0].keys() == {'id', 'context', 'question', 'answers', 'impossible'}
    path = tmp_path / 'dev-v2.0.json'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))
    assert load('squad2', tmp_path, 'dev') == rows


@pytest.mark.parametrize(
    'bad, word',
    [
        (question('b', answers=(('Mo', 0),)), "not at character 0, where 'Th'"),
        (question('b', answers=(('No', 51),)), "not at character 51, where 'Mo'"),
        (question('b', answers=(('Mo', -11),)), 'outside of the paragraph'),
        (question('b', answers=(('Mo', 999),)), 'outside of the paragraph'),
        (question('b', answers=(('Mo', None),)), 'starts at None, which is no whole number'),
        (question('b', answers=(('Mo', '51'),)), "starts at '51'"),
        (question('b', answers=(('Mo', True),)), 'starts at True'),
        (question('b', answers=(('', 3),)), 'without text'),
        (question('b', answers=((None, 3),)), 'without text'),
        (question('b', answers=(), is_impossible=False), 'no answer is given'),
        (question('b', is_impossible=True), 'yet it has an answer'),
        (question('b', is_impossible='no'), 'not true or false'),
        (question('b', text=' '), "'question' is empty"),
        (question('b', text=None), "'question' is missing"),
        (question('b', text=7), "'question' is no text"),
        (question('a'), 'occurs a second time'),
        (question(True), 'without an id'),
        ('what?', 'without an id'),
        (question('b') | {'answers': 'none'}, 'is no list'),
        (question('b') | {'answers': ['Mo']}, 'without text'),
        (question('b', text='\ud800'), 'not UTF-8'),
    ],
)
def test_broken_questions_are_named(tmp_path, bad, word):
    path = put(tmp_path, question('a'), bad, question('c'))
    rows = load('squad2', tmp_path, 'dev')
    assert (
        [r['id'] for r in rows] == ['a', 'c'] and len(rows.skipped) == 1 and word in rows.skipped[0]['reason']
    )
    if isinstance(bad, dict) and bad['id'] == 'b':
        assert (
            'question b: ' in rows.skipped[0]['reason']
            and '"id": "b"' in path.read_text(encoding='utf-8').splitlines()[rows.skipped[0]['line'] - 1]
        )
    with pytest.raises(UserError, match=re.escape(word)):
        load('squad2', tmp_path, 'dev', strict=True)


def test_one_wrong_answer_among_good_ones(tmp_path):
    put(tmp_path, question('a', answers=(('Mo', 51), ('Mo', 1), ('captain', 42))))
    rows = load('squad2', tmp_path, 'dev')
    assert [a['text'] for a in rows[0]['answers']] == ['Mo', 'captain'] and len(rows.skipped) == 1


def test_broken_files(tmp_path):
    path = tmp_path / 'dev-v1.1.json'
    for text, word in (
        (b'', 'line 1: not JSON'),
        (b'{"data": [\n{"title"', 'line 2: not JSON'),
        (b'[]', 'no SQuAD file'),
        (b'{"data": {}}', 'no SQuAD file'),
        (b'{"data": []}', 'it is empty'),
        (b'\xff\xfe', 'not UTF-8'),
        (b'[' * 100000, 'nested too deeply|not JSON'),
        (
            b'{"data": [1, {"paragraphs": 3}, {"paragraphs": [4, {"qas": {}}]}]}',
            "without a list 'paragraphs'",
        ),
        (
            b'{"data": [{"paragraphs": [{"qas": [{"id": "x", "question": "?", "answers": []}]}]}]}',
            "'context' is missing",
        ),
    ):
        path.write_bytes(text)
        with pytest.raises(UserError, match=word):
            load('squad', tmp_path, 'dev')
    put(tmp_path, question('a') | {'is_impossible': True, 'answers': []}, question('b'), name='dev-v1.1.json')
    rows = load('squad', tmp_path, 'dev')
    assert [r['id'] for r in rows] == ['b'] and 'SQuAD 1.1 does not know' in rows.skipped[0]['reason']


@pytest.mark.parametrize(
    'a, b',
    [
        ('The cat.', 'cat'),
        ('a an the', ''),
        ('U.S.', 'us'),
        ('the-end', 'theend'),
        ('can\'t', 'cant'),
        ('  two\t\nwords ', 'two words'),
        ('THE Theatre', 'theatre'),
        ('"an" apple', 'apple'),
        ('ÉCOLE', 'école'),
        ('$5', '5'),
        ('50%', '50'),
        ('naïve', 'naïve'),
        ('«mot»', '«mot»'),
        ('1–2', '1–2'),
        ('thé', 'thé'),
        ('a\u00a0b', 'b'),
        ('İ', 'i̇'),
        ('', ''),
        ('...', ''),
        ('東京', '東京'),
    ],
)
def test_normalised(a, b):
    assert normalised(a) == b


def official(text):
    "The official rule, step by step: small letters, punctuation out, articles out, white space."
    text = text.lower()
    text = ''.join(c for c in text if c not in set(string.punctuation))
    text = re.sub(r'\b(a|an|the)\b', ' ', text)
    return ' '.join(text.split())


def official_f1(given, gold):
    g, a = official(gold).split(), official(given).split()
    common = Counter(g) & Counter(a)
    same = sum(common.values())
    if len(g) == 0 or len(a) == 0:
        return int(g == a)
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(a), 1.0 * same / len(g)
    return (2 * precision * recall) / (precision + recall)


def test_em_and_f1_fuzzed():
    rng = random.Random(0)
    words = ['the', 'A', 'an', 'cat', 'Cat', 'cat.', '--', "dog's", 'É', 'é', '\u00a0', '東京', '5%', 'x', '']
    for _ in range(3000):
        a, b = (' '.join(rng.choices(words, k=rng.randint(0, 5))) for _ in range(2))
        assert (
            normalised(a) == official(a)
            and f1(a, b) == pytest.approx(official_f1(a, b))
            and em(a, b) == (official(a) == official(b))
            and f1(a, b) == f1(b, a)
        )


def row(i='a', *texts):
    return {
        'id': i,
        'question': '?',
        'context': ' '.join(texts) or 'x',
        'answers': [{'text': t, 'start': 0} for t in texts],
        'impossible': not texts,
    }


def test_several_golds_and_none():
    assert (
        best_of(f1, 'big cat', row('a', 'cat', 'the big cat')) == 1
        and best_of(em, 'cat', row('a', 'dog', 'cat')) == 1
    )
    assert golds(row('a', 'The', 'cat')) == ['cat'] and golds(row('a', 'The')) == [''] == golds(row('a'))
    assert (
        best_of(em, '', row('a')) == best_of(f1, 'the', row('a')) == 1 and best_of(f1, 'cat', row('a')) == 0
    )
    assert best_of(em, '', row('a', 'cat')) == best_of(f1, '', row('a', 'cat')) == 0


def official_best(order, score_of, has_answer, said):
    "The official search for the best threshold, question after question, for scores without ties."
    now = best = sum(not has_answer[q] for q in order)
    for q in order:
        now += score_of[q] if has_answer[q] else (-1 if said[q] else 0)
        best = max(best, now)
    return best / len(order)


@pytest.mark.parametrize('seed', range(30))
def test_thresholds(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    impossible = rng.random(n) < 0.5
    value = np.where(impossible, 0, rng.choice([0, 0.25, 1], n))
    z = rng.permutation(n) * 1.0 - 5 if seed % 2 else rng.integers(0, 5, n) * 1.0
    at = [z.min() - 1, *np.unique(z)]
    brute = np.array([np.where(z > t, impossible, value).mean() for t in at])
    t, mean = threshold_curve(value, impossible, z)
    assert np.allclose(t, at) and np.allclose(mean, brute)
    best, where = best_threshold(value, impossible, z)
    assert best == pytest.approx(brute.max()) and where == pytest.approx(
        at[int(np.argmax(np.isclose(brute, brute.max())))]
    )
    if seed % 2:
        assert best == pytest.approx(official_best(np.argsort(z), value, ~impossible, np.ones(n, bool)))
    rows = [row(str(i)) if no else row(str(i), 'cat') for i, no in enumerate(impossible)]
    texts, odds = (
        {
            str(i): 'cat' if v == 1 or no else 'dog'
            for i, (v, no) in enumerate(zip(value, impossible, strict=True))
        },
        {str(i): float(v) for i, v in enumerate(z)},
    )
    found = score('squad2', rows, texts, odds)
    fixed = score_spans(rows, texts, odds, threshold=found['best_em_threshold'])
    assert (
        fixed['em'] == pytest.approx(found['best_em'])
        and found['best_em'] >= max(found['em'], impossible.mean()) - 1e-12
    )
    if impossible.any() and not impossible.all():
        assert fixed['em'] * n == pytest.approx(
            fixed['HasAns_em'] * fixed['HasAns_total'] + fixed['NoAns_em'] * fixed['NoAns_total']
        )


def test_scores_refuse():
    with pytest.raises(UserError, match='1 of 2 questions have no prediction, the first is b'):
        score('squad', [row('a', 'x'), row('b', 'y')], {'a': 'x'})
    with pytest.raises(UserError, match='no no-answer score'):
        score('squad2', [row('a', 'x')], {'a': 'x'}, {})
    with pytest.raises(UserError, match='No questions'):
        score('squad', [], {})
    found = score('squad', [row('a', 'x'), row('b', 'y z')], {'a': 'x', 'b': 'z'})
    assert found == {'f1': pytest.approx((1 + 2 / 3) / 2), 'em': 0.5, 'total': 2}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    f = tmp_path_factory.mktemp('text') / 't.txt'
    f.write_text(
        '\n'.join(
            [CONTEXT, 'who sings on the ferry ?', 'abcdefghijklmnopqrstuvwxyz é 東京 ! " . , 0123456789']
        ),
        encoding='utf-8',
    )
    return train_tokenizer([f], 300, 512)


def some_rows(rng, n):
    out = []
    for i in range(n):
        words = [
            rng.choice(
                [
                    'ferry',
                    'Mo',
                    'sings',
                    'é',
                    '東京',
                    '"9"',
                    'at,',
                    '\n',
                    '\u00a0',
                    '🚢',
                    'x' * rng.randint(1, 30),
                ]
            )
            for _ in range(rng.randint(1, 60))
        ]
        context = ' '.join(words)
        a = rng.randrange(len(context))
        b = rng.randint(a + 1, len(context))
        out.append(
            {
                'id': str(i),
                'question': ' '.join(rng.choices(['who', 'sings', 'ferry?'], k=rng.randint(1, 30))),
                'context': context,
                'impossible': False,
                'answers': [{'text': context[a:b], 'start': a}] if context[a:b].strip() else [],
            }
        )
    return out


def test_a_tokenizer_that_loses_the_end_of_a_text_is_refused(tokenizer, monkeypatch):
    "tokenizers 0.23.1 and 0.23.2 stop reading where the first window is full."
    rows = some_rows(random.Random(0), 1)
    whole = type(tokenizer).__call__

    def hasty(self, text, *pairs, **options):
        encoded = whole(self, text, *pairs, **options)
        if options.get('return_overflowing_tokens'):
            encoded['input_ids'] = encoded['input_ids'][:1]
        return encoded

    monkeypatch.setattr(type(tokenizer), '__call__', hasty)
    with pytest.raises(UserError, match='loses the end of texts'):
        windows(tokenizer, rows, max_length=40)


@pytest.mark.parametrize('seed', range(8))
def test_windows_cover_and_point(tokenizer, seed):
    rng = random.Random(seed)
    rows = some_rows(rng, 12)
    length = rng.choice((16, 24, 40, 128))
    found = windows(
        tokenizer,
        rows,
        max_length=length,
        overlap=rng.choice((0, 3, 200)),
        max_question=rng.choice((4, 64)),
        batch=5,
    )
    whole = {
        r: e
        for r, e in enumerate(
            tokenizer([r['context'] for r in rows], add_special_tokens=False, return_offsets_mapping=True)[
                'offset_mapping'
            ]
        )
    }
    assert [w['row'] for w in found] == sorted(w['row'] for w in found)
    for i, r in enumerate(rows):
        mine = [w for w in found if w['row'] == i]
        assert mine and {tuple(o) for w in mine for o in w['offsets'].tolist() if o[0] >= 0} == set(
            whole[i]
        )  # no token is lost
        for w in mine:
            assert (
                len(w['input_ids']) == len(w['offsets']) == len(w['attention_mask']) <= length
                and w['input_ids'][w['cls']] == tokenizer.cls_token_id
            )
            if w['start'] != w['cls']:
                a = r['answers'][0]
                assert w['offsets'][w['start'], 0] <= a['start'] + len(a['text']) - len(
                    a['text'].lstrip()
                ) and w['offsets'][w['end'], 1] >= a['start'] + len(a['text'].rstrip())
    assert (
        set(found.cut)
        == {r['id'] for r in rows if len(tokenizer.tokenize(r['question'])) > min(64, (length - 3) // 2)}
        or len(found.cut) > 0
    )


def test_positions_by_hand():
    offsets = np.array([[-1, -1], [-1, -1], [0, 3], [4, 9], [9, 10], [11, 16], [-1, -1]])
    for start, text, want in (
        (4, 'ferry', (3, 3)),
        (4, 'ferry,', (3, 4)),
        (0, 'The', (2, 2)),
        (5, 'err', (3, 3)),
        (11, 'which', (5, 5)),
        (11, 'which is', (0, 0)),
        (0, 'x' * 16, (2, 5)),
    ):
        assert positions(offsets, {'start': start, 'text': text}, 0) == want
    later = np.array([[-1, -1], [11, 16], [17, 19]])
    assert (
        positions(later, {'start': 9, 'text': 'xxxxx'}, 0) == (0, 0)
        and positions(later, None, 0) == (0, 0)
        and positions(np.full((3, 2), -1), {'start': 0, 'text': 'x'}, 0) == (0, 0)
    )


@pytest.mark.parametrize('space', [' ', '\u00a0 ', '\u200b'])
def test_white_space_at_a_paragraphs_edge_takes_no_answer_away(space):
    "The tokens are those of the answer, as they are with text behind it."
    offsets = np.array([[-1, -1], [len(space), len(space) + 3], [len(space) + 4, len(space) + 9]])
    for start, text, want in ((0, f'{space}Bob', (1, 1)), (len(space) + 4, f'lives{space}', (2, 2))):
        assert positions(offsets, {'start': start, 'text': text}, 0) == want
    assert positions(offsets, {'start': len(space) + 4, 'text': f'lives{space}on'}, 0) == (0, 0)


def test_windows_refuse(tokenizer):
    rows = some_rows(random.Random(0), 2)
    with pytest.raises(UserError, match='no room'):
        windows(tokenizer, rows, max_length=7)

    class Slow:
        is_fast = False

    with pytest.raises(UserError, match='fast tokenizer'):
        windows(Slow(), rows)


@pytest.mark.parametrize('seed', range(10))
def test_spans_are_exact(seed):
    rng = np.random.default_rng(seed)
    length, before, after = (int(v) for v in rng.integers([1, 0, 0], [30, 6, 3]))
    window = {
        'offsets': np.concatenate(
            [np.full((before, 2), -1), np.arange(length)[:, None] * 2 + [0, 1], np.full((after, 2), -1)]
        )
    }
    s, e = rng.integers(-3, 4, (2, len(window['offsets']) + 5)) * 1.0  # many ties, and padding behind
    longest, n = int(rng.integers(1, 40)), int(rng.integers(1, 50))
    every = sorted(
        (
            (
                s[i] + e[j]
                for i in range(before, before + length)
                for j in range(i, min(i + longest, before + length))
            )
        ),
        reverse=True,
    )
    found = spans(window, s, e, longest, n)
    assert [v for v, *_ in found] == every[:n] and len({t[1:] for t in found}) == len(found)
    assert all(
        before <= i <= j < before + length and j - i < longest and v == s[i] + e[j] for v, i, j in found
    )
    assert spans({'offsets': np.full((4, 2), -1)}, s, e) == []


def test_answers_over_windows(tokenizer):
    rows = [
        {
            'id': 'a',
            'question': 'who sings ?',
            'context': CONTEXT,
            'impossible': False,
            'answers': [{'text': 'Mo', 'start': 51}],
        },
        {'id': 'b', 'question': 'who ?', 'context': 'Mo.', 'impossible': True, 'answers': []},
    ]
    found = windows(tokenizer, rows, max_length=20, overlap=6, max_question=6)
    right = [w for w in found if w['start'] != w['cls']]
    assert len([w for w in found if w['row'] == 0]) > 1 and right
    logits = [(np.zeros(64), np.zeros(64)) for _ in found]  # longer than the windows, as padded batches are
    for (s, e), w in zip(logits, found, strict=True):
        s[len(w['offsets']) :] = e[len(w['offsets']) :] = 99
        s[w['cls']] = 3.0 if w['start'] == w['cls'] else -3.0
        if w['start'] != w['cls']:
            s[w['start']] = e[w['end']] = 5.0
    texts, odds, listed = answers(rows, found, *zip(*logits, strict=True))
    assert (
        texts['a'] == 'Mo'
        and odds['a'] == -3 - 10
        and odds['b'] == 3.0
        and listed['a'][0] == {'text': 'Mo', 'start': 51, 'end': 53, 'score': 10.0}
    )
    assert len({(x['start'], x['end']) for x in listed['a']}) == len(listed['a']) <= 20
    logits[0][0][1] = np.nan
    with pytest.raises(UserError, match='diverged'):
        answers(rows, found, *zip(*logits, strict=True))
    with pytest.raises(ValueError):
        answers(rows, found, [], [])


def test_predictions_are_the_official_form(tmp_path):
    write_predictions(tmp_path / 'new' / 'folder', {'a': 'Zoë', 'b': 'x'}, {'a': -1.0, 'b': 2.0})
    read = lambda n: json.loads((tmp_path / 'new' / 'folder' / n).read_text(encoding='utf-8'))
    assert (
        read('predictions.json') == {'a': 'Zoë', 'b': ''}
        and read('null_odds.json') == {'a': -1.0, 'b': 2.0}
        and read('best_texts.json')['b'] == 'x'
    )
    write_predictions(tmp_path / 'old', {'a': 'x'})
    assert [p.name for p in (tmp_path / 'old').iterdir()] == ['predictions.json']


def test_fuzzed_files(tmp_path):
    rng, outcomes = random.Random(0), set()
    text = put(tmp_path, question('a'), question('b', answers=())).read_bytes()
    for _ in range(300):
        b = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(b))
            b[at : at + rng.choice((0, 1, 9))] = rng.choice(
                (b'"', b'{', b'1', b'null', b'\xff', b'', b'\\u0000', b'\\ud800')
            )
        (tmp_path / 'dev-v2.0.json').write_bytes(bytes(b))
        try:
            skipped = load('squad2', tmp_path, 'dev').skipped
            assert all(isinstance(s['line'], int) and s['reason'] for s in skipped)
            outcomes.add(bool(skipped))
        except UserError:
            outcomes.add('error')
    assert outcomes == {True, False, 'error'}


# --- the two official scripts, on gold answers that normalise to nothing


def official_golds(row, version):
    texts = [a['text'] for a in row['answers']]
    if version == '1.1':
        return texts  # the maximum over all ground truths
    return [t for t in texts if official(t)] or ['']


def official_f1_of_1(given, gold):
    "Version 1.1: nothing in common is 0, whatever the sides come to."
    common = Counter(official(given).split()) & Counter(official(gold).split())
    same = sum(common.values())
    if same == 0:
        return 0
    precision = same / len(official(given).split())
    recall = same / len(official(gold).split())
    return (2 * precision * recall) / (precision + recall)


def official_scores(rows, texts, version, no_answer=None, threshold=0.0):
    "Mean EM and F1, question after question; 2.0 overrules the text of a question whose no-answer score is above the threshold."
    found = {'em': [], 'f1': []}
    overlap = official_f1_of_1 if version == '1.1' else official_f1
    for r in rows:
        given = texts[r['id']]
        em_, f1_ = (
            max(metric(given, g) for g in official_golds(r, version))
            for metric in (lambda a, g: int(official(a) == official(g)), overlap)
        )
        if no_answer and no_answer[r['id']] > threshold:
            em_ = f1_ = float(not r['answers'])
        found['em'].append(em_)
        found['f1'].append(f1_)
    return {k: sum(v) / len(rows) for k, v in found.items()}


@pytest.mark.parametrize(
    'texts, given, em_1, f1_1, em_2, f1_2',
    [
        (['the'], 'the', 1, 0, 1, 1),
        (['the'], '', 1, 0, 1, 1),
        (['%'], 'a', 1, 0, 1, 1),
        (['%'], '5 %', 0, 0, 0, 0),
        (['%', '50 %'], '%', 1, 0, 0, 0),
        (['%', '50 %'], '50', 1, 1, 1, 1),
        (['%', '50 %'], '50 or 60', 0, 1 / 2, 0, 1 / 2),
        (['the', 'big cat'], 'a cat', 0, 2 / 3, 0, 2 / 3),
        (['the', 'big cat'], '', 1, 0, 0, 0),
        (['cat'], '', 0, 0, 0, 0),
        (['cat'], 'the', 0, 0, 0, 0),
    ],
)
def test_golds_of_no_words_by_hand(texts, given, em_1, f1_1, em_2, f1_2):
    rows = [row('a', *texts)]
    one, two = score('squad', rows, {'a': given}), score('squad2', rows, {'a': given})
    assert (one['em'], one['f1']) == (em_1, pytest.approx(f1_1)) and (two['em'], two['f1']) == (
        em_2,
        pytest.approx(f1_2),
    )
    assert golds(rows[0], '1.1') == texts


def test_the_mean_of_both_scripts_by_hand():
    rows, said = (
        [row('a', 'the', 'cat'), row('b', '%'), row('c', 'big cat')],
        {'a': 'an', 'b': '', 'c': 'cat'},
    )
    assert score('squad', rows, said) == {
        'em': pytest.approx(2 / 3),
        'f1': pytest.approx(2 / 9),
        'total': 3,
    }  # f1: (0 + 0 + 2/3) / 3
    assert score('squad2', rows, said) == {
        'em': pytest.approx(1 / 3),
        'f1': pytest.approx(5 / 9),
        'total': 3,
    }  # f1: (0 + 1 + 2/3) / 3


def test_silence_is_judged_by_whether_there_is_an_answer():
    rows = [row('a', '%'), row('b'), row('c', 'cat')]
    said, odds = {'a': 'x', 'b': 'x', 'c': 'cat'}, {'a': 2.0, 'b': 2.0, 'c': 2.0}
    found = score('squad2', rows, said, odds)
    assert (found['em'], found['HasAns_em'], found['NoAns_em'], found['HasAns_f1']) == (
        pytest.approx(1 / 3),
        0,
        1,
        0,
    )
    found = score(
        'squad2', rows, {'a': '', 'b': 'the', 'c': ''}, dict.fromkeys('abc', -1.0)
    )  # said, not silent
    assert (found['em'], found['f1'], found['HasAns_em'], found['NoAns_em']) == (
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        0.5,
        1,
    )


@pytest.mark.parametrize('seed', range(20))
def test_scores_are_the_official_scripts(seed):
    rng = random.Random(seed)
    text = lambda: ' '.join(rng.choices(['the', 'a', '%', '...', 'cat', 'big', 'Cat,'], k=rng.randint(1, 3)))
    rows = [row(str(i), *(text() for _ in range(rng.randint(1, 3)))) for i in range(40)]
    said = {r['id']: rng.choice(['', text(), r['answers'][0]['text']]) for r in rows}
    found = score('squad', rows, said)
    assert {k: found[k] for k in ('em', 'f1')} == pytest.approx(official_scores(rows, said, '1.1'))
    rows += [row(str(i)) for i in range(40, 60)]
    said |= {str(i): rng.choice(['', 'the', text()]) for i in range(40, 60)}
    odds = {i: rng.gauss(0, 1) for i in said}
    for given in (None, odds):
        found = score('squad2', rows, said, given)
        assert {k: found[k] for k in ('em', 'f1')} == pytest.approx(official_scores(rows, said, '2.0', given))
    assert score_spans(rows, said, odds, threshold=0.5)['em'] == pytest.approx(
        official_scores(rows, said, '2.0', odds, 0.5)['em']
    )
