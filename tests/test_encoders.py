"""Every architecture that transformers classifies texts with, through the whole door: read, tried, trained, scored – or refused by name."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.architectures import small_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    CanineTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from vidlankd_nb.config import FineTuning
from vidlankd_nb.encoders import most_tokens
from vidlankd_nb.evaluation.benchmarks import TASKS
from vidlankd_nb.evaluation.encoders import candidate, hushed, padding_id, with_head
from vidlankd_nb.evaluation.finetuning import FineTuneTask, TaskBatches, fine_tune, predict
from vidlankd_nb.evaluation.grid import Grid, evaluate
from vidlankd_nb.evaluation.suite import score
from vidlankd_nb.files import UserError

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
WORDS = [*'abcdefghijklmnopqrstuvwxyz', 'one', 'two', 'three', 'ball', 'box', 'red', 'blue', 'rolls', 'falls']
FIVE_STEPS = FineTuning(
    steps=5, epochs=None, batch=2, lr=1e-3, max_length=16, span_length=16, stride=2, precision='fp32',
    predict_batch=4, log_every=5, save_every=100,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures('one_thread')


def word_tokenizer(template='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', **more):
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token='[UNK]'))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [('[CLS]', 2), ('[SEP]', 3)]
    inner.post_processor = processors.TemplateProcessing(single=template, pair=pair, special_tokens=ends)
    names = {'pad_token': '[PAD]', 'unk_token': '[UNK]', 'cls_token': '[CLS]', 'sep_token': '[SEP]'}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **(names | {'mask_token': '[MASK]'} | more))


@pytest.fixture(scope='session')
def tokenizers(tmp_path_factory):
    "Folders of a tokenizer with two ends, of XLNet's kind, of GPT-2's kind and of CANINE's."
    folder = tmp_path_factory.mktemp('tokenizers')
    word_tokenizer().save_pretrained(folder / 'bert')
    word_tokenizer('$A [SEP] [CLS]:2', '$A [SEP] $B:1 [SEP]:1 [CLS]:2', padding_side='left').save_pretrained(
        folder / 'xlnet'
    )
    word_tokenizer(
        '$A',
        '$A [SEP] $B',
        pad_token=None,
        cls_token=None,
        sep_token=None,
        mask_token=None,
        eos_token='[SEP]',
    ).save_pretrained(folder / 'gpt2')
    CanineTokenizer().save_pretrained(folder / 'canine')
    return folder


def texts(n, seed=0):
    draw = np.random.default_rng(seed)
    return [' '.join(draw.choice(WORDS, size)) for size in draw.integers(1, 9, n)]


ROWS = {
    'sst2': [{'id': str(i), 'a': text, 'b': None, 'label': i % 2} for i, text in enumerate(texts(6))],
    'stsb': [
        {'id': str(i), 'a': text, 'b': 'a red ball', 'label': float(i % 5)} for i, text in enumerate(texts(6))
    ],
    'swag': [
        {'id': str(i), 'context': text, 'choices': ['falls', 'rolls a box', 'two', 'b'], 'label': i % 4}
        for i, text in enumerate(texts(4))
    ],
    'squad': [
        {
            'id': str(i),
            'context': f'{text} box',
            'question': 'two',
            'answers': [{'text': 'box', 'start': len(text) + 1}],
            'impossible': False,
        }
        for i, text in enumerate(texts(4))
    ],
}

# What is no text classifier here: name -> what the refusal says.
REFUSED = {
    'layoutlmv2': 'detectron2',  # a package for pictures of pages
    'perceiver': 'has no weights for',
    'reformer': 'does not read token ids and a mask alone',  # it trains at its full length only
}
WHERE = {'xlnet': 'left'} | dict.fromkeys(
    ('canine', 'convbert', 'fnet', 'nystromformer', 't5gemma', 't5gemma2', 'yoso'), 'whole'
)
DECODERS = ('gpt', 'bloom', 'ctrl', 'falcon', 'llama', 'mistral', 'opt', 'mpt', 'phi', 'qwen', 'gemma')


def saved(folder, name, tokenizers):
    "A random encoder without a head, with a tokenizer of its kind."
    kind = name if name in ('xlnet', 'canine') else 'gpt2' if name.startswith(DECODERS) else 'bert'
    torch.manual_seed(0)
    config = small_config(name)
    config.architectures = []  # of two kinds of Funnel the whole one
    with hushed():
        AutoModel.from_config(config).save_pretrained(folder)
    for file in (tokenizers / kind).iterdir():
        shutil.copy(file, folder)
    return folder


def goes_through(c, name, folder):
    "Five steps, a score, and logits that are those of each row alone."
    task, rows = TASKS[name], ROWS[name]
    data = TaskBatches(task, rows, c, FIVE_STEPS)
    model = fine_tune(c, task, data, FIVE_STEPS, folder, show=False, device='cpu')
    assert all(p.isfinite().all() for p in model.parameters())
    together = predict(model, data, FIVE_STEPS, 'cpu')
    alone = predict(model, data, replace(FIVE_STEPS, predict_batch=1), 'cpu')
    scores = score(task, rows, *data.answers(together))
    assert all(np.isfinite(value) for value in scores.values())
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    return model


@pytest.mark.parametrize('name', MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
def test_every_classifier_of_transformers_is_trained_and_scored_or_refused_by_name(
    name, tokenizers, tmp_path
):
    try:
        c = candidate(saved(tmp_path / name, name, tokenizers))
        model = goes_through(c, 'sst2', tmp_path / 'out')
    except (UserError, ImportError) as e:
        assert name in REFUSED, e
        assert REFUSED[name] in str(e)
        return
    assert name not in REFUSED
    assert c.padding['classification'] == WHERE.get(name, 'right')
    most = most_tokens(c.config)
    assert most is None or most <= 40
    words = {'input_ids': torch.full((1, most or 50), 7)}
    words['input_ids'][0, -1] = 3  # BART reads its answer off the end
    words['attention_mask'] = torch.ones_like(words['input_ids'])
    with torch.no_grad():
        model.logits(words)  # the longest text that is promised


# Heads for choices and for spans, where transformers has them and where the plain one stands in.
OTHER_KINDS = sorted({*MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES, *MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES})
SOME = ['albert', 'bert', 'convbert', 'distilbert', 'electra', 'gpt2', 'llama', 't5', 'xlnet']


@pytest.mark.parametrize('name', OTHER_KINDS if os.environ.get('VIDLANKD_EVERY_HEAD') else SOME)
@pytest.mark.parametrize('task', ['swag', 'squad'])
def test_choices_and_spans(name, task, tokenizers, tmp_path):
    c = candidate(saved(tmp_path / name, name, tokenizers))
    try:
        goes_through(c, task, tmp_path / 'out')
    except UserError as e:
        assert 'cannot be fine-tuned' in str(e) or 'cannot be read' in str(e)
        assert name not in SOME


def test_a_decoder_answers_from_its_last_real_token(tokenizers, tmp_path):
    "By hand: the stock head's matrix on the state of the last token of each text, of classes and of choices."
    c = candidate(saved(tmp_path / 'gpt2', 'gpt2', tokenizers))
    assert c.tokenizer.pad_token_id is None
    assert c.pad == 3  # no text ends with it
    for name in ('sst2', 'swag'):
        task = TASKS[name]
        model = with_head(c, task, 0).eval()
        data = TaskBatches(task, ROWS[name], c, FIVE_STEPS)
        logits = predict(FineTuneTask(model, task.kind), data, FIVE_STEPS, 'cpu')
        base = model.base_model
        for row, found in zip(ROWS[name], logits, strict=True):
            pairs = (
                [(row['a'],)] if name == 'sst2' else [(row['context'], choice) for choice in row['choices']]
            )
            by_hand = []
            for pair in pairs:
                ids = torch.tensor([c.tokenizer(*pair).input_ids])
                with torch.no_grad():
                    by_hand.append(model.score(base(input_ids=ids).last_hidden_state[0, -1]))
            np.testing.assert_allclose(found, torch.cat(by_hand).numpy(), rtol=1e-5, atol=1e-6)


def test_what_fills_a_batch_never_ends_a_text():
    assert padding_id(word_tokenizer()) == 0
    assert padding_id(word_tokenizer(pad_token=None, eos_token='[SEP]')) == 2  # [SEP] ends its texts
    assert padding_id(word_tokenizer('$A', pad_token=None, eos_token='[SEP]')) == 3


@pytest.mark.parametrize(
    ('kind', 'labels'),
    [
        (AutoModelForSequenceClassification, 3),
        (AutoModelForSequenceClassification, 2),
        (AutoModelForSequenceClassification, 1),
        (AutoModelForMultipleChoice, None),
        (AutoModelForQuestionAnswering, None),
    ],
)
def test_the_head_of_another_training_is_left_aside(kind, labels, tokenizers, tmp_path, capsys):
    plain = candidate(saved(tmp_path / 'plain', 'roberta', tokenizers))
    more = {'num_labels': labels} if labels else {}
    torch.manual_seed(9)
    with hushed():
        tuned_model = kind.from_pretrained(tmp_path / 'plain', **more)
        tuned_model.save_pretrained(tmp_path / 'tuned')
    for file in (tokenizers / 'bert').iterdir():
        shutil.copy(file, tmp_path / 'tuned')
    tuned = candidate(tmp_path / 'tuned')
    assert tuned.trained_head == type(tuned_model).__name__
    for name in ('rte', 'stsb', 'mnli', 'squad'):
        task = TASKS[name]
        for seed in (0, 1):
            one, other = with_head(plain, task, seed), with_head(tuned, task, seed)
            assert set(one.new) <= set(other.new) | {n for n in one.new if 'pooler' in n}
            for key, value in one.state_dict().items():
                if 'pooler' not in key:
                    assert torch.equal(value, other.state_dict()[key]), (name, key)
    if labels == 2:
        kept = with_head(tuned, TASKS['rte'], 0, keep_head=True)
        assert torch.equal(kept.classifier.out_proj.weight, tuned_model.classifier.out_proj.weight)
    else:
        with pytest.raises(UserError, match='no head for rte that could be kept|cannot be read'):
            with_head(tuned, TASKS['rte'], 0, keep_head=True)


def test_a_grid_says_that_a_head_is_left_aside(tokenizers, tmp_path, capsys):
    saved(tmp_path / 'plain', 'bert', tokenizers)
    with hushed():
        AutoModelForSequenceClassification.from_pretrained(tmp_path / 'plain').save_pretrained(
            tmp_path / 'tuned'
        )
    for file in (tokenizers / 'bert').iterdir():
        shutil.copy(file, tmp_path / 'tuned')
    (tmp_path / 'SST-2').mkdir()
    for split in ('train', 'dev'):
        lines = [f"{row['a']}\t{row['label']}" for row in ROWS['sst2']]
        (tmp_path / 'SST-2' / f'{split}.tsv').write_text(
            '\n'.join(['sentence\tlabel', *lines]) + '\n', encoding='utf-8'
        )
    found = {}
    for keep in (False, True):
        cfg = replace(FIVE_STEPS, keep_head=keep)
        models_ = {name: str(tmp_path / name) for name in (('tuned',) if keep else ('plain', 'tuned'))}
        grid = Grid(models_, ['sst2'], str(tmp_path / f'out-{keep}'), str(tmp_path), 1, cfg=cfg, device='cpu')
        results = evaluate(grid)
        said = capsys.readouterr().out
        line = 'tuned was saved with the head of another training (BertForSequenceClassification): each seed'
        assert said.count(line) == (not keep)
        assert 'plain was saved' not in said
        found[keep] = results[-1]['identity']['settings']
    assert 'keep_head' not in found[False]  # results from before there was a choice stay valid
    assert found[True]['keep_head']


def test_what_is_typed_is_what_a_table_calls_it(tokenizers, tmp_path):
    saved(tmp_path / '0f1e2d', 'bert', tokenizers)
    (tmp_path / 'my-bert').symlink_to(tmp_path / '0f1e2d')
    assert candidate(tmp_path / 'my-bert').name == 'my-bert'
    with pytest.raises(UserError, match='On the Hugging Face hub it is google-bert/bert-base-uncased'):
        candidate('bert-base-uncased')


def test_code_that_a_model_brings_is_not_run(tokenizers, tmp_path):
    saved(tmp_path / 'own', 'bert', tokenizers)
    says = {'model_type': 'mine', 'auto_map': {'AutoConfig': 'mine.MyConfig'}}
    (tmp_path / 'own' / 'config.json').write_text(json.dumps(says), encoding='utf-8')
    (tmp_path / 'own' / 'mine.py').write_text("raise SystemExit('was run')", encoding='utf-8')
    with pytest.raises(UserError, match='Python code of its own, which is not run here'):
        candidate(tmp_path / 'own')


def test_trainer_stands_beside_and_a_stopped_comparison_goes_on(tokenizers, tmp_path, monkeypatch, capsys):
    from vidlankd_nb.bench import evaluation as bench

    saved(tmp_path / 'bert', 'bert', tokenizers)
    (tmp_path / 'SST-2').mkdir()
    for split in ('train', 'dev'):
        lines = [f"{row['a']}\t{row['label']}" for row in ROWS['sst2']]
        (tmp_path / 'SST-2' / f'{split}.tsv').write_text(
            '\n'.join(['sentence\tlabel', *lines]) + '\n', encoding='utf-8'
        )

    def measured():
        return bench.bench_trainer(
            tmp_path / 'out', str(tmp_path), str(tmp_path / 'bert'), 'sst2', '0,1', cfg=FIVE_STEPS
        )

    first = measured()
    of_task = first['tasks']['sst2']
    differences = [
        of_task['figures']['vidlankd'][seed] - of_task['figures']['trainer'][seed] for seed in (0, 1)
    ]
    assert of_task['over seeds']['mean'] == pytest.approx(np.mean(differences))
    assert of_task['over rows']['mean'] == pytest.approx(np.mean(differences))  # of accuracies
    assert len(of_task['McNemar']) == 2
    assert bench.trainer_summary(first).count('\n') == 2
    (tmp_path / 'out' / 'trainer' / 'sst2-trainer-1.json').unlink()
    made = []
    theirs = bench.PROGRAMS['trainer']
    monkeypatch.setitem(bench.PROGRAMS, 'vidlankd', None)  # its cells are there
    monkeypatch.setitem(bench.PROGRAMS, 'trainer', lambda *args: made.append(args[-1]) or theirs(*args))
    assert measured()['tasks'] == first['tasks']
    assert made == [1]
