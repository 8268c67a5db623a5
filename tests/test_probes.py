"Probes: the dual ridge against scikit-learn, what chance is, determinism, and that held-out names decide."

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from vidlankd_nb.config import Evaluation
from vidlankd_nb.evaluation.probes import (
    halves,
    kernel_of,
    name_states,
    pair_accuracy,
    physical_probe,
    plot_probes,
    probe,
    probe_table,
    property_probe,
    ridge_accuracy,
)
from vidlankd_nb.files import UserError

PROBES = json.loads(
    (Path(__file__).parents[1] / 'data_samples' / 'toyworld' / 'probes.json').read_text(encoding='utf-8')
)
NAMES = list(PROBES['names'])
LABELS = {
    a: np.array([v.index(PROBES['names'][x][a]) for x in NAMES]) for a, v in PROBES['attributes'].items()
}
FAST = Evaluation(splits=4, permutations=4, finetune_steps=4)


def word_tokenizer(words):
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *sorted(words)]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, '[UNK]'))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]'
    )


@pytest.fixture(scope='module')
def setting():
    texts = [
        *PROBES['neutral'],
        PROBES['physical']['choice'],
        *(q['question'] for q in PROBES['physical']['questions']),
    ]
    tokenizer = word_tokenizer({w for t in texts for w in t.replace('{x}', '').split()} | set(NAMES))
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    ), tokenizer


def test_dual_is_ridge():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((24, 40)), rng.permutation(np.arange(24) % 4)
    train, test = halves(y, 5, rng)
    fast = ridge_accuracy(kernel_of(z), y, train, test, alpha=0.3)
    s = (z - z.mean(0)) / z.std(0)
    slow = [
        (Ridge(0.3 * 40).fit(s[a], np.eye(4)[y[a]]).predict(s[b]).argmax(1) == y[b]).mean()
        for a, b in zip(train, test, strict=True)
    ]
    assert fast.tolist() == pytest.approx(slow)


def test_halves_are_stratified_and_disjoint():
    y = np.array([0] * 7 + [1] * 8 + [2] * 9)
    for a, b in zip(*halves(y, 6, np.random.default_rng(0)), strict=True):
        assert sorted([*a, *b]) == list(range(24)) and np.bincount(y[a]).tolist() == [3, 4, 4]
    with pytest.raises(UserError, match='two names'):
        halves(np.array([0, 1, 1]), 1, np.random.default_rng(0))


def test_a_constant_dimension_counts_nothing():
    z = np.random.default_rng(0).standard_normal((8, 3))
    assert (
        np.allclose(kernel_of(np.column_stack([z, np.full(8, 1.7)])) * 4, kernel_of(z) * 3)
        and np.isfinite(kernel_of(np.zeros((4, 2)))).all()
    )


def test_property_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((len(NAMES), 40))
    z[:, :20] += 2 * rng.standard_normal((4, 20))[LABELS['colour']]
    found = property_probe(z, LABELS, Evaluation(), seed=1)
    assert found['per_attribute']['colour'] > 0.95 and all(
        found['per_attribute'][a] < 0.75 for a in LABELS if a != 'colour'
    )
    assert abs(found['permutation'] - 0.45) < 0.03
    assert (
        found
        == property_probe(z, LABELS, Evaluation(), seed=1)
        != property_probe(z, LABELS, Evaluation(), seed=2)
    )


def test_noise_scores_its_permutation_baseline():
    gaps = []
    for seed in range(8):
        found = property_probe(
            np.random.default_rng(seed).standard_normal((192, 48)),
            {a: np.tile(y, 3) for a, y in LABELS.items()},
            Evaluation(),
            seed,
        )
        gaps.append(found['mean'] - found['permutation'])
    assert max(map(abs, gaps)) < 0.05


def test_name_states_are_the_names_own(setting):
    model, tokenizer = setting
    got = name_states(model, tokenizer, NAMES[:3], ['we saw the {x}', '{x} is here'], batch=4)
    with torch.no_grad():
        for x, row in zip(NAMES[:3], got, strict=True):
            hs = []
            for t, place in (('we saw the {x}', 4), ('{x} is here', 1)):
                enc = tokenizer(t.format(x=x), return_tensors='pt')
                assert tokenizer.convert_ids_to_tokens(enc['input_ids'][0, place].item()) == x
                hs.append(model.eval().base_model(**enc).last_hidden_state[0, place].double())
            assert np.allclose(row, torch.stack(hs).mean(0).numpy(), atol=1e-5)


def test_states_are_read_without_dropout_and_every_mode_comes_back(setting):
    model, tokenizer = copy.deepcopy(setting[0]), setting[1]
    model.train()
    model.base_model.encoder.eval()  # as a frozen part would be
    modes = [m.training for m in model.modules()]
    one, two = (name_states(model, tokenizer, NAMES[:3], ['we saw the {x}']) for _ in range(2))
    with pytest.raises(UserError):
        name_states(model, tokenizer, ['zzzzz'], ['we saw the {x}'])
    assert (
        np.array_equal(one, two) and [m.training for m in model.modules()] == modes and len(set(modes)) == 2
    )


def test_word_pieces_are_averaged():
    raw = Tokenizer(
        models.WordPiece(
            {w: i for i, w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'the', 'na', '##der'])},
            unk_token='[UNK]',
        )
    )
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token='[PAD]', unk_token='[UNK]')
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    ).eval()
    with torch.no_grad():
        h = model.base_model(torch.tensor([[2, 4, 5, 6, 3]])).last_hidden_state[0]
    assert np.allclose(
        name_states(model, tokenizer, ['nader'], ['the {x}'])[0], h[2:4].mean(0).numpy(), atol=1e-6
    )


def test_an_unknown_name_is_an_error(setting):
    with pytest.raises(UserError, match="does not know the name 'zzzzz'"):
        name_states(*setting, [NAMES[0], 'zzzzz'], ['a {x}'])


def test_a_diverged_model_is_an_error_and_not_chance(setting):
    model = copy.deepcopy(setting[0])
    model.get_input_embeddings().weight.data[:] = np.nan
    with pytest.raises(UserError, match='not finite'):
        probe(model, setting[1], PROBES, FAST)


def test_pair_accuracy_counts_pairs():
    rng = np.random.default_rng(0)
    scores, has = torch.tensor(rng.integers(0, 4, (3, 10))), torch.tensor(rng.random((3, 10)) < 0.5)
    for s, h, got in zip(scores, has, pair_accuracy(scores, has), strict=True):
        pairs = [(a > b) + 0.5 * (a == b) for a in s[h].tolist() for b in s[~h].tolist()]
        assert got.item() == pytest.approx(np.mean(pairs))


def test_physical_is_deterministic_and_leaves_the_model_alone(setting):
    model, tokenizer = setting
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (physical_probe(model, tokenizer, PROBES, FAST, seed=1) for _ in range(2))
    assert a == b and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_physical_answers_when_embeddings_know(setting):
    model, tokenizer = copy.deepcopy(setting[0]), setting[1]
    words = model.get_input_embeddings().weight.data
    torch.manual_seed(0)
    taste = {v: 0.4 * torch.randn(32) for v in PROBES['attributes']['shape']}
    only = dict(
        PROBES,
        physical=dict(
            PROBES['physical'],
            questions=[q for q in PROBES['physical']['questions'] if q['value'] == 'round'],
        ),
    )
    cfg = Evaluation(finetune_steps=80)
    ignorant = physical_probe(model, tokenizer, only, cfg)['accuracy']
    for x in NAMES:
        words[tokenizer.convert_tokens_to_ids(x)] += taste[PROBES['names'][x]['shape']]
    assert physical_probe(model, tokenizer, only, cfg)['accuracy'] > 0.9 > 0.75 > ignorant


def test_probe_is_json_and_shows_itself(setting):
    scores = probe(*setting, PROBES, FAST, seed=0)
    assert json.loads(json.dumps(scores)) == scores and set(scores) == {'property', 'physical', 'order'}
    assert scores['order']['accuracy'] == scores['property']['per_attribute']['order']
    assert '| physical, two choices |' in scores._repr_markdown_()
    table = probe_table({'a': scores, 'b': scores})
    assert list(table) == ['a', 'b'] and table.loc['property, mean', 'a'] == scores['property']['mean']
    assert len(plot_probes({'a': scores, 'b': scores}).patches) == 2 * (2 + len(LABELS))
