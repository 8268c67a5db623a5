"Similarity, words from pieces, the picture, and exact retrieval."
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from vidlankd_nb.config import UserError
from vidlankd_nb.grounding import STYLE, Look, check_sentence, heat_map, heat_maps, join_pieces, peak_inside, recall, search, show_clips, similarity, word_states


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


def small_tokenizer():
    raw = Tokenizer(models.WordPiece({w: i for i, w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'the', 'na', '##der', 'jumps'])}, unk_token='[UNK]'))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token='[PAD]', unk_token='[UNK]', model_max_length=8)


def test_word_states_join_pieces_and_drop_special_tokens():
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, hidden_dropout_prob=.5)).train()
    words, states = word_states(model, tokenizer, 'the nader jumps')
    assert words == ['the', 'nader', 'jumps'] and model.training
    with torch.no_grad(): h = model.eval()(torch.tensor([[2, 4, 5, 6, 7, 3]])).last_hidden_state[0]
    assert torch.allclose(states, torch.stack([h[1], h[2:4].mean(0), h[4]]), atol=1e-6)


def test_sentences_are_looked_at_before_they_are_read():
    tokenizer = small_tokenizer()
    assert check_sentence(tokenizer, 'the nader jumps') == ['nader (na·der)']
    for text, said in (('', 'empty'), ('  ', 'empty'), (None, 'empty'), ('the zebra jumps', "lacks 'zebra'"), ('the ' * 7, 'has 9 tokens')):
        with pytest.raises(UserError, match=said): check_sentence(tokenizer, text)
    double = lambda h: 2 * h
    vectors = torch.arange(16.).view(8, 2)
    words, states = word_states(lambda ids: vectors[ids], tokenizer, 'the nader jumps', double)
    assert words == ['the', 'nader', 'jumps'] and states.tolist() == [[16, 18], [22, 24], [28, 30]]


def picture(words=3, frames=4, **kwargs):
    sim = np.linspace(-.5, .5, words * frames).reshape(words, frames)
    return heat_map(sim, [f'word{i}' for i in range(words)], np.zeros((frames, 6, 8, 3), np.uint8), np.arange(frames) / 2, **kwargs)


def test_heat_map_labels_and_scale():
    ax = picture(limit=.7, title='x')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['word0', 'word1', 'word2']
    assert [t.get_text() for t in ax.get_xticklabels()] == ['0', '0.5', '1', '1.5'] and ax.get_xlabel() == 'seconds'
    assert ax.images[0].get_clim() == (-.7, .7) and ax.child_axes[0].get_title(loc='left') == 'x'
    assert ax.collections[-1].get_offsets().tolist() == [[3, 1], [3, 2]]     # word0 is below zero everywhere: no dot


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
    assert found == pytest.approx({'r1': (ranks <= 1).mean(), 'r3': (ranks <= 3).mean(), 'median_rank': np.median(ranks), 'chance_r1': 1 / 57, 'chance_r3': 3 / 57, 'chance_median_rank': 29, 'n': 57})
    assert 0 < found['r1'] < found['r3'] < 1


def test_a_collapsed_encoder_scores_nothing():
    rng = np.random.default_rng(0)
    same = np.tile(rng.standard_normal(33), (50, 1))
    assert recall(rng.standard_normal((50, 33)), same, chunk=7)['r10'] == 0 == recall(same, same)['r1']


def test_recall_names_what_is_wrong():
    with pytest.raises(UserError, match='must belong'): recall(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(UserError, match='not finite'): recall(np.ones((2, 2)), np.array([[1, np.nan], [1, 1]]))


def test_any_clip_of_the_same_label_is_right_and_chance_knows_it():
    rng = np.random.default_rng(1)
    t, of = rng.standard_normal((40, 6)), rng.integers(0, 12, 40)
    q, mine = rng.standard_normal((9, 6)), rng.permutation(of)[:9]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    ranks = [min(r for r, j in enumerate(np.argsort(-row), 1) if of[j] == m) for row, m in zip(unit(q) @ unit(t).T, mine)]
    found = recall(q, t, ks=(1, 5), chunk=2, labels=(mine, of))
    assert (found['r1'], found['r5'], found['median_rank']) == (np.mean(np.array(ranks) <= 1), np.mean(np.array(ranks) <= 5), np.median(ranks))
    draws = np.array([[min(r for r, j in enumerate(rng.permutation(40), 1) if of[j] == m) for m in mine] for _ in range(2000)])
    assert found['chance_r5'] == pytest.approx((draws <= 5).mean(), abs=.02) and found['chance_r1'] == pytest.approx(np.mean([(of == m).mean() for m in mine]))
    with pytest.raises(UserError, match='no right target'): recall(q, t, labels=(mine + 100, of))


def test_search_is_exact_in_pieces_and_reads_mapped_files(tmp_path):
    rng = np.random.default_rng(0)
    q, t = rng.standard_normal((7, 5)).astype(np.float32), rng.standard_normal((301, 5)).astype(np.float32)
    np.save(tmp_path/'t.npy', t)
    scores, found = search(q, np.load(tmp_path/'t.npy', mmap_mode='r'), 4, chunk=3)
    cosine = q @ t.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    assert (found == np.argsort(-cosine, 1)[:, :4]).all() and np.allclose(scores, -np.sort(-cosine, 1)[:, :4], atol=1e-6)
    assert search(q, t[:2], 5)[1].shape == (7, 2)
    with pytest.raises(UserError, match='one space'): search(q, t[:, :3])


def test_faiss_agrees_or_is_named():
    rng = np.random.default_rng(0)
    q, t = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((200, 8)).astype(np.float32)
    try: import faiss
    except ImportError:
        with pytest.raises(UserError, match='pip install faiss-cpu'): search(q, t, by='faiss')
        pytest.skip('faiss is not installed')
    assert (search(q, t, 4, by='faiss')[1] == search(q, t, 4)[1]).all()
    assert (search(q, t, 4, by='faiss:IVF2,Flat')[0][:, 0] <= search(q, t, 4)[0][:, 0] + 1e-6).all()
    with pytest.raises(UserError, match='knows no index'): search(q, t, by='faiss:nonsense')
    with pytest.raises(UserError, match='Unknown search'): search(q, t, by='fais')


def looked(frames=True):
    rng = np.random.default_rng(0)
    rows = {n: rng.uniform(-1, 1, (3, 5)) for n in ('word vectors', 'words in context')}
    return Look('v:0', 'the nader jumps', 'the nader jumps', ['the', 'nader', 'jumps'], np.arange(5) / 4, rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8) if frames else None, rows)


@pytest.mark.parametrize('frames', [True, False])
def test_heat_maps_share_one_scale(frames):
    look = looked(frames)
    axes = heat_maps(look, limit=.8)
    assert [a.child_axes[0].get_title(loc='left') for a in axes] == list(look.rows)
    assert [a.images[0].get_clim() for a in axes] == [(-.8, .8)] * 2 and len(axes[0].figure.axes) == 3      # two maps, one colour bar
    for a, sim in zip(axes, look.rows.values()): assert np.array_equal(a.images[0].get_array(), sim)
    assert look.figures()['cosine']['word vectors'][1][2] == round(look.rows['word vectors'][1, 2], 4)


def test_clips_are_shown_with_scores_and_captions_and_style_stays_inside():
    import matplotlib.pyplot as plt
    before = dict(plt.rcParams)
    ax = show_clips([np.zeros((3, 8, 8, 3), np.uint8), np.ones((20, 8, 8, 3), np.uint8)], [.5, -.25], ['one', 'two ' * 40], title='x')
    assert [t.get_text() for t in ax.texts][:3] == ['0.50', 'one', '-0.25'] and ax.texts[3].get_text().endswith('…')
    assert [im.get_array().shape for im in ax.images] == [(8, 72, 3)] * 2 and ax.get_title(loc='left') == 'x'
    assert all(plt.rcParams[k] == before[k] for k in STYLE)
