"""What each loss term does: its push on the last states, measured, logged and said."""

import json

import pytest
import torch
from support.trainings import CLI, SMALL, call, copy_of

from vidlankd_nb.config import Distillation, Encoder, Training
from vidlankd_nb.corpus import Examples
from vidlankd_nb.encoders import text_encoder
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.matching import OBJECTIVES
from vidlankd_nb.monitoring import read_log
from vidlankd_nb.objectives import make_objective
from vidlankd_nb.student import StudentTask, budget_steps, fading
from vidlankd_nb.tokenizer import load_tokenizer
from vidlankd_nb.training import train


@pytest.fixture(scope='module')
def data(prepared):
    tok = load_tokenizer(prepared / 'corpus' / 'tokenizer')
    batches = TextBatches(Examples(prepared / 'corpus', 'train'), tok)
    batches.tokenizer = tok
    return batches


def task_of(data, objective, width=32, **more):
    torch.manual_seed(0)
    shape = Encoder(layers=1, width=width, heads=2)
    student, teacher = (text_encoder(shape, data.tokenizer) for _ in range(2))
    return StudentTask(student, Distillation(objective, **more), teacher, n_examples=len(data), n_vokens=9)


def by_hand(task, batch):
    "The norm of each raw term's gradient at the last states, by a hook on the base model's output in a plain forward pass."
    caught = []

    def catch(module, inputs, output):
        output.last_hidden_state.retain_grad()
        caught.append(output.last_hidden_state)

    hook = task.student.base_model.register_forward_hook(catch)
    scale = {k: 1 / c for k, c in task.counts(batch).items()}
    found = {}
    for term in task.weights:
        caught.clear()
        task(batch, scale)[term].backward()
        found[term] = caught[0].grad.norm().item()
    hook.remove()
    return found


@pytest.mark.parametrize(
    'objective', ['none', 'l2', 'nst', 'infonce', 'crd', 'soft_label', 'nst+crd', '5*l2+0.1*soft_label']
)
def test_a_push_is_the_gradient_at_the_last_states(data, objective):
    task = task_of(data, objective).eval()
    batch = data.batch(range(16), 0)
    scale = {k: 1 / c for k, c in task.counts(batch).items()}
    pushes = {k: v.item() for k, v in task.pushes(batch, scale).items()}
    assert pushes == pytest.approx(by_hand(task, batch), rel=1e-5) and set(pushes) == set(task.weights)


def test_the_log_has_pushes_and_the_run_names_a_term_that_does_nothing(data, tmp_path, capsys):
    "NST and CRD added as they are; with their measured weights nothing is said."
    cfg = Training(steps=7, batch=16, log_every=3, save_every=100)
    train(task_of(data, 'nst+crd', weight=0.001), data, cfg, tmp_path / 'ones', show=True, device='cpu')
    said = capsys.readouterr().out
    rows = read_log(tmp_path / 'ones' / 'log.jsonl')
    assert [r['step'] for r in rows if 'push' in r] == [1, 3, 6, 7]
    assert set(rows[0]['push']) == {'mlm', 'distillation/nst', 'distillation/crd'} and set(rows[0]) == {
        'step',
        'push',
    }
    assert "The term 'distillation/nst' hardly does anything" in said and '(median of 4 steps)' in said
    assert any("distillation/nst" in s for s in rows[-1]['notes'])
    train(task_of(data, 'nst+crd'), data, cfg, tmp_path / 'defaults', show=True, device='cpu')
    assert 'hardly does anything' not in capsys.readouterr().out
    assert not any('notes' in r for r in read_log(tmp_path / 'defaults' / 'log.jsonl'))


def test_measuring_changes_nothing(data, tmp_path, monkeypatch):
    "Dropout's dice and CRD's queue are left alone: the weights are those of a training without measurements."
    from vidlankd_nb import training

    cfg = Training(steps=6, batch=16, log_every=2, save_every=100)

    def trained(name):
        torch.manual_seed(0)
        shape = Encoder(layers=1, width=32, heads=2, dropout=0.1)
        task = StudentTask(
            text_encoder(shape, data.tokenizer),
            Distillation('crd', options={'queue': 40, 'max_tokens': 20}),
            text_encoder(shape, data.tokenizer),
        )
        train(task, data, cfg, tmp_path / name, show=False, device='cpu')
        return task.state_dict()

    with_them = trained('with')
    monkeypatch.setattr(training, 'measure_pushes', lambda *a: {})
    without = trained('without')
    assert all(torch.equal(with_them[k], without[k]) for k in with_them)


# --- weights


def test_weights_default_to_what_was_measured(data):
    def weights(objective, **more):
        return task_of(data, objective, **more).weights

    assert weights('l2') == {'mlm': 1.0, 'distillation': pytest.approx(5 * 32 / 96)}
    assert weights('l2', weight=1.0)['distillation'] == 1.0  # as published
    assert weights('nst+crd', weight=1.0) == {'mlm': 1.0, 'distillation/nst': 1.0, 'distillation/crd': 1.0}
    assert weights('100*nst+0.3*crd') == {'mlm': 1.0, 'distillation/nst': 100.0, 'distillation/crd': 0.3}
    assert weights('100*nst+0.3*crd', weight=2.0) == {
        'mlm': 1.0,
        'distillation/nst': 200.0,
        'distillation/crd': 0.6,
    }
    both = weights('nst+0.5*crd')
    assert (
        both['distillation/nst'] == make_objective('nst', 32, 32).weight() and both['distillation/crd'] == 0.5
    )
    assert weights('l2', weight=0.0)['distillation'] == 0.0


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_objective_has_a_weight_that_grows_with_the_width(name):
    at = [make_objective(name, width, width, n_vokens=5, n_examples=5).weight() for width in (96, 768)]
    assert (
        at[0] > 0
        and at[1] == pytest.approx(at[0] * 8 ** OBJECTIVES[name].weight_power)
        or name == 'soft_label'
    )


# --- schedules


@pytest.mark.parametrize(
    'start, end, progress, left',
    [
        (1, 1, 0, 1),
        (1, 1, 0.999, 1),
        (0, 1, 0, 1),
        (0, 1, 0.25, 0.75),
        (0, 1, 1, 0),
        (0.9, 0.9, 0.89, 1),
        (0.9, 0.9, 0.9, 0),
        (0.5, 0.9, 0.7, 0.5),
    ],
)
def test_distillation_fades(start, end, progress, left):
    assert fading(progress, Distillation('l2', fade_from=start, fade_to=end)) == pytest.approx(left)


def test_the_last_steps_may_be_text_alone(data, tmp_path):
    "Six steps of l2 and four without are, weight for weight, what the log says they are."
    cfg = Training(steps=10, batch=16, log_every=1, save_every=100)
    train(
        task_of(data, 'l2', weight=5.0, fade_from=0.6, fade_to=0.6),
        data,
        cfg,
        tmp_path,
        show=False,
        device='cpu',
    )
    rows = [r for r in read_log(tmp_path / 'log.jsonl') if 'terms' in r]
    assert [round(r['weighted']['distillation'] / r['terms']['distillation'], 6) for r in rows] == [
        5.0
    ] * 6 + [0.0] * 4
    assert all(r['loss'] == pytest.approx(r['terms']['mlm']) for r in rows[6:])


def test_a_budget_in_operations():
    "A third more steps where a teacher of the same size reads along; by hand: 3n = (3 + 1)·450 + 900·6."
    assert budget_steps(450, 3.0, 1.0) == 600 and budget_steps(450, 3.0, 1.0, 900 * 6.0) == 2400


def test_tokens_a_second_leave_out_padding():
    from vidlankd_nb.monitoring import Clock

    clock = Clock()
    clock.add({'attention_mask': torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])})
    assert clock.tokens == 4


def test_a_longer_text_only_student_takes_as_many_operations(prepared, tmp_path):
    "The command trains it for the steps that the counts of both models give, reckoned here from the shapes."
    students = '{plain: {objective: none}, longer: {objective: none, budget: distilled}, longest: {objective: none, budget: distilled_and_teacher}}'
    words = [*SMALL, '--student.steps', '6', '--student.log_every', '1', '--students', students]
    run = copy_of(prepared, tmp_path / 'run', words)
    call(*CLI, 'student', *words, '--out', run)
    last = {
        n: read_log(run / 'students' / n / 'log.jsonl')[-1]['step'] for n in ('plain', 'longer', 'longest')
    }
    assert last['plain'] == 6
    # one layer of width 32: a matrix product's operations are two a parameter and token, attention's four a width and length
    L, K, V = (
        16,
        3,
        json.loads((run / 'students' / 'plain' / 'config.json').read_text(encoding='utf-8'))['vocab_size'],
    )
    encoder = (
        2 * (12 * 32**2 + 32**2) + 4 * 32 * L
    )  # four projections, two of four times the width, the pooler's is left out or in
    low, high = (3 * (2 * p + 4 * 32 * L + 2 * 32 * V * K / L) for p in (12 * 32**2, 13 * 32**2))
    assert 6 * (1 + (2 * 12 * 32**2 + 4 * 32 * L) / high) - 1 <= last['longer'] <= 6 * (1 + encoder / low) + 1
    assert last['longest'] > last['longer'] + 2  # four steps of the teacher, video and all
