"The course: its checkers with right, wrong and empty answers, and what every page of it has to be."

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidlankd_nb import exercises
from vidlankd_nb.exercises import LOSSES_TO_WRITE, QUESTIONS, check_answer, check_loss, check_probe
from vidlankd_nb.files import UserError

root = Path(__file__).parent.parent
PAGES = sorted((root / 'nbs' / 'course').glob('[01]*.ipynb'))
CASES = {  # question -> (what the page measured, right answers, wrong ones)
    'worst attribute': ([{'per_attribute': {'size': 0.7, 'order': 0.6}}], ['order', ' Order '], ['size', 3]),
    'numbers of a state': ([torch.zeros(2, 5, 64)], [64, 64.0], [5, 'wide']),
    'a guess of the colour': ([{'permutation_per_attribute': {'colour': 0.238}}], [0.24, 0.235], [0.25, 0.5]),
    'what leaks': ([{'per_attribute': {'weight': 0.9, 'size': 0.5}}], ['weight'], ['size', 'colour']),
    'pushed clips': ([torch.tensor([0.0, 0.1, 0.1])], [2], [3, 0]),
    'a rise of the cosine': ([], [0.485, 0.49], [6.93, 0.07]),
    'the student that answers': ([], ['caption_teacher'], ['text only', 'L2']),
    'chance of an average': ([{'permutation': 0.448}], [0.45, 0.448], [0.5, 0.25]),
    'the lazy reader': ([], ['glows'], ['noun']),
    'the soft maximum': ([], [0.9], [0.5, 1]),
    'read and never saw': ([], ['caption_teacher'], ['l2', 'wrong_pictures']),
    'states or probe': ([], ['probe'], ['states']),
    'lowest loss': ([{'text_only_longest': 1.4, 'crd': 2.3}], ['text_only_longest'], ['crd']),
    'the wrong videos': ([], ['shuffled_videos'], ['caption_teacher', 'l2']),
}


def right_hinge(tokens, mask, clips):
    "Token by token: a wrong clip, and a wrong caption that has a token at the same place."
    s = F.normalize(tokens.nan_to_num(), dim=-1) @ F.normalize(clips, dim=-1).T
    clip_terms, text_terms = [], []
    for b, c, i in ((b, c, i) for b in range(3) for c in range(3) for i in range(5) if b != c and mask[b, i]):
        clip_terms.append(F.relu(1 - s[b, i, b] + s[b, i, c]))
        if mask[c, i]:
            text_terms.append(F.relu(1 - s[b, i, b] + s[c, i, b]))
    return torch.stack(clip_terms).mean() + torch.stack(text_terms).mean()


def right_infonce(tokens, mask, clips):
    s = F.normalize(tokens.nan_to_num(), dim=-1) @ F.normalize(clips, dim=-1).T / 0.07
    terms = []
    for b in range(3):
        others = torch.cat([s[c][mask[c]][:, b] for c in range(3) if c != b])
        for i in range(int(mask[b].sum())):
            own = s[b, i, b]
            terms += [s[b, i].logsumexp(0) - own, torch.cat([own[None], others]).logsumexp(0) - own]
    return torch.stack(terms).mean()


def right_soft_label(student, teacher):
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    return 4 * (p * (p.log() - q.log())).sum(-1).mean()


def right_l2(student, teacher, mask):
    "Sentence by sentence, divided once."
    total = 0
    for a, b, m in zip(student, teacher, mask, strict=True):
        a, b = (F.layer_norm(x[m], x.shape[-1:], eps=1e-6) for x in (a, b))
        total = total + (a - b).square().mean(-1).sum()
    return total / mask.sum()


def right_nst(student, teacher, mask):
    s, t = F.normalize(student[mask], dim=0), F.normalize(teacher[mask], dim=0)
    return (s @ s.T / 8 - t @ t.T / 8).square().sum()


def right_contrast(student, teacher, mask):
    z = F.normalize(student[mask], dim=-1) @ F.normalize(teacher[mask], dim=-1).T / 0.1
    n = torch.arange(len(z))
    return (F.cross_entropy(z, n) + F.cross_entropy(z.T, n)) / 2


def right_critic(cosine, matched):
    return F.binary_cross_entropy_with_logits(cosine / 0.1 - np.log(16), matched.to(cosine), reduction='sum')


@pytest.mark.parametrize('name', LOSSES_TO_WRITE)
def test_a_loss_is_right_by_value_and_by_gradient(name):
    answer = globals()[f'right_{name}']
    verdict = check_loss(name, answer)
    assert verdict and str(verdict).startswith('right'), verdict
    first = lambda x: (x.nan_to_num() - x.nan_to_num().detach()).sum()  # value 0, gradient 1
    wrong = {
        'nothing': None,
        'a float': lambda *x: 1.0,
        'a table': lambda *x: x[0],
        'no gradient': lambda *x: answer(*x).detach(),
        'twice as much': lambda *x: 2 * answer(*x),
        'another gradient': lambda *x: answer(*x) + first(x[0]),
        'an error': lambda *x: x[7],
        'as the page has it': lambda *x: None,
    }
    for what, mine in wrong.items():
        verdict = check_loss(name, mine)
        assert not verdict and str(verdict).startswith('not yet: '), what


def test_an_unknown_exercise_is_named_with_its_neighbour():
    with pytest.raises(UserError, match="No exercise 'ntx'"):
        check_loss('ntx', None)
    with pytest.raises(UserError, match="No question 'the symbol'"):
        check_answer('the symbol', 'M')


def test_a_probe_must_find_what_is_there_and_keep_its_eyes_off_the_answers():
    def nearest_mean(states, answers, train, test):
        means = np.stack([states[train][answers[train] == c].mean(0) for c in range(4)])
        return ((states[test][:, None] - means) ** 2).sum(-1).argmin(1)

    assert check_probe(nearest_mean)
    peeks = lambda states, answers, train, test: answers[test]
    for wrong in (None, peeks, lambda *x: 1 / 0, lambda s, a, train, test: a[train][:3], lambda *x: None):
        assert str(check_probe(wrong)).startswith('not yet')


def test_every_question_is_asked_on_a_page_and_tested_here():
    asked = re.findall(r"check_answer\('([^']+)'", '\n'.join('\n'.join(code_of(page)) for page in PAGES))
    assert sorted(asked) == sorted(QUESTIONS) == sorted(CASES)


@pytest.mark.parametrize('name', CASES)
def test_a_question_knows_right_and_wrong_and_empty(name, monkeypatch):
    monkeypatch.setattr(exercises, '_wrong_answers', exercises.Counter())
    measured, right, wrong = CASES[name]
    assert str(check_answer(name, None, *measured)) == 'not yet: put your answer in place of None'
    for answer in right:
        assert str(check_answer(name, answer, *measured)) == 'right'
    hints = []
    for answer in (*wrong, *wrong, *wrong):
        verdict = check_answer(name, answer, *measured)
        assert not verdict
        hints += [verdict.words] if verdict.words != 'a number is wanted' else []
    said = QUESTIONS[name].hints
    assert tuple(hints[:2]) == said and set(hints[2:]) <= {said[-1]}  # one after the other


def cells_of(page):
    return json.loads(page.read_text(encoding='utf-8'))['cells']


def code_of(page):
    return [''.join(c['source']) for c in cells_of(page) if c['cell_type'] == 'code']


def shown(page):
    "Code that a reader sees, without what is only imported."
    return [s for s in code_of(page) if not s.startswith('#| hide') and not re.match(r'(import|from) ', s)]


def test_ten_pages_in_their_order():
    assert [page.stem[:2] for page in PAGES] == [f'{k:02}' for k in range(1, 11)]


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_a_page_can_be_read_in_a_quarter_of_an_hour(page):
    words = sum(len(''.join(c['source']).split()) for c in cells_of(page) if c['cell_type'] == 'markdown')
    assert words <= 1500
    assert statistics.median(len(s.splitlines()) for s in shown(page)) <= 8
    nested = [s for s in shown(page) if re.search(r'\[[^\[\]]*\bfor\b[^\[\]]*\[[^\[\]]*\bfor\b', s)]
    assert not nested, nested


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_a_page_opens_with_a_question_and_a_picture(page):
    cells = cells_of(page)
    heading = next(
        i
        for i, c in enumerate(cells)
        if ''.join(c['source']).lstrip().startswith('## ') or '\n## ' in ''.join(c['source'])
    )
    before = cells[: heading + 1]
    assert any(re.match(r'\*\*[^*]+\?\*\*', ''.join(c['source'])) for c in before)
    assert any('image/png' in o.get('data', {}) for c in before for o in c.get('outputs', []))


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_a_page_ends_with_exercises_that_hide_no_answer(page):
    cells = cells_of(page)
    source = [''.join(c['source']) for c in cells]
    assert any('**Afterwards you can**' in s and '**You need**' in s for s in source[:3])
    turn = max(i for i, s in enumerate(source) if re.search(r'^## Your turn$', s, re.M))
    checks = [
        c for c in cells[turn:] if re.search(r'^check_(loss|probe|answer)\(', ''.join(c['source']), re.M)
    ]
    assert 2 <= len(checks) <= 3
    for c in checks:
        assert 'not yet' in json.dumps(c['outputs']), (
            'what is stored is what a reader sees who has not answered'
        )
    assert not [s for s in source[turn:] if s.startswith('#| hide')]
    assert '\n'.join(source[turn:]).count('<details><summary>Solution</summary>') == len(checks)
    if '03' <= page.stem[:2] <= '07':
        assert any(re.search('check_(loss|probe)', ''.join(c['source'])) for c in checks), (
            'a loss or a probe to write'
        )
