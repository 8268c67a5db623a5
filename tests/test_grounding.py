"Similarity, words from pieces, the picture, and exact retrieval."
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from vidlankd_nb.config import UserError
from vidlankd_nb.grounding import heat_map, join_pieces, peak_inside, recall, similarity, word_states


def test_similarity_is_cosine():
    g = torch.Generator().manual_seed(0)
    h, v = torch.randn(5, 7, generator=g), torch.randn(3, 7, generator=g)
    want = [[torch.cosine_similarity(a, b, dim=0).item() for b in v] for a in h]
    assert np.allclose(similarity(h, v), want, atol=1e-6)
    assert np.allclose(similarity(3 * h.numpy(), v.numpy()), want, atol=1e-6)
    assert similarity(torch.zeros(1, 7), v).abs().max() == 0
    with pytest.raises(UserError, match='distillation head'): similarity(h, v[:, :4])


def test_join_pieces():
    states = torch.arange(12.).view(6, 2)
    assert join_pieces(states, [None, 0, 1, 1, 2, None]).tolist() == [[2, 3], [5, 6], [8, 9]]


def test_word_states_join_pieces_and_drop_special_tokens():
    raw = Tokenizer(models.WordPiece({w: i for i, w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'the', 'na', '##der', 'jumps'])}, unk_token='[UNK]'))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token='[PAD]', unk_token='[UNK]')
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, hidden_dropout_prob=.5)).train()
    words, states = word_states(model, tokenizer, 'the nader jumps')
    assert words == ['the', 'nader', 'jumps'] and model.training
    with torch.no_grad(): h = model.eval()(torch.tensor([[2, 4, 5, 6, 7, 3]])).last_hidden_state[0]
    assert torch.allclose(states, torch.stack([h[1], h[2:4].mean(0), h[4]]), atol=1e-6)


def picture(words=3, frames=4, **kwargs):
    sim = np.linspace(-.5, .5, words * frames).reshape(words, frames)
    return heat_map(sim, [f'word{i}' for i in range(words)], np.zeros((frames, 6, 8, 3), np.uint8), np.arange(frames) / 2, **kwargs)


def test_heat_map_labels_and_scale():
    ax = picture(limit=.7, title='x')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['word0', 'word1', 'word2']
    assert [t.get_text() for t in ax.get_xticklabels()] == ['0', '0.5', '1', '1.5'] and ax.get_xlabel() == 'seconds'
    assert ax.images[0].get_clim() == (-.7, .7) and ax.child_axes[0].get_title(loc='left') == 'x'
    assert ax.collections[0].get_offsets().tolist() == [[3, 1], [3, 2]]     # word0 is below zero everywhere: no dot


@pytest.mark.parametrize('words, frames', [(1, 8), (3, 4), (14, 40)])
def test_frames_stand_above_their_columns(words, frames):
    ax = picture(words, frames)
    ax.figure.canvas.draw()
    strip, gap = ax.child_axes[0], 1
    middle = lambda a, x: a.transData.transform((x, 0))[0]
    for i in (0, frames - 1): assert middle(ax, i) == pytest.approx(middle(strip, i * (8 + gap) + 3.5), abs=1.5)
    assert len(ax.get_xticks()) <= 16


def test_heat_map_refuses_what_does_not_fit():
    with pytest.raises(UserError, match='3 × 4'): heat_map(np.zeros((3, 4)), ['a', 'b'], np.zeros((4, 2, 2, 3), np.uint8), range(4))


def test_peak_inside():
    assert peak_inside([0, 1, .2, .1], [0, .25, .5, .75], .25, .5) == (True, .25)
    assert peak_inside(torch.tensor([0, 1, .2, .1]), [0, .25, .5, .75], .5, 1) == (False, .5)


def test_recall_is_exact_and_does_not_depend_on_the_chunk():
    rng = np.random.default_rng(0)
    t = rng.standard_normal((57, 9)); q = t + 1.5 * rng.standard_normal((57, 9))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    ranks = np.array([1 + list(np.argsort(-row)).index(i) for i, row in enumerate(unit(q) @ unit(t).T)])
    found = recall(q, t, ks=(1, 3), chunk=1000)
    assert found == recall(q, t, ks=(1, 3), chunk=8) == recall(torch.tensor(q), 5 * torch.tensor(t), ks=(1, 3))
    assert found == {'r1': (ranks <= 1).mean(), 'r3': (ranks <= 3).mean(), 'median_rank': np.median(ranks), 'chance_r1': 1 / 57, 'n': 57}
    assert 0 < found['r1'] < found['r3'] < 1


def test_a_collapsed_encoder_scores_nothing():
    rng = np.random.default_rng(0)
    same = np.tile(rng.standard_normal(33), (50, 1))
    assert recall(rng.standard_normal((50, 33)), same, chunk=7)['r10'] == 0 == recall(same, same)['r1']


def test_recall_names_what_is_wrong():
    with pytest.raises(UserError, match='must belong'): recall(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(UserError, match='not finite'): recall(np.ones((2, 2)), np.array([[1, np.nan], [1, 1]]))
