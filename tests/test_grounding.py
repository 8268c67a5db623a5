"Similarity, words from pieces, states of many texts, the picture, and exact retrieval."

import importlib.util

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from vidlankd_nb.files import UserError
from vidlankd_nb.heatmaps import Look, heat_map, heat_maps, peak_inside, show_clips, similarity
from vidlankd_nb.pictures import STYLE
from vidlankd_nb.retrieval import nearest_neighbours, recall, search
from vidlankd_nb.states import check_sentence, join_pieces, text_states, word_states


def test_similarity_is_cosine():
    g = torch.Generator().manual_seed(0)
    h, v = torch.randn(5, 7, generator=g), torch.randn(3, 7, generator=g)
    want = [[torch.cosine_similarity(a, b, dim=0).item() for b in v] for a in h]
    assert np.allclose(similarity(h, v), want, atol=1e-6)
    assert np.allclose(similarity(3 * h.numpy(), v.numpy()), want, atol=1e-6)
    assert similarity(torch.zeros(1, 7), v).abs().max() == 0
    with pytest.raises(UserError, match='distillation head'):
        similarity(h, v[:, :4])


def test_join_pieces():
    states = torch.arange(12.0).view(6, 2)
    assert join_pieces(states, [None, 0, 1, 1, 2, None]).tolist() == [[2, 3], [5, 6], [8, 9]]


def small_tokenizer():
    raw = Tokenizer(
        models.WordPiece(
            {w: i for i, w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'the', 'na', '##der', 'jumps'])},
            unk_token='[UNK]',
        )
    )
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token='[PAD]', unk_token='[UNK]', model_max_length=8
    )


def test_word_states_join_pieces_and_drop_special_tokens():
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=8,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            hidden_dropout_prob=0.5,
        )
    ).train()
    words, states = word_states(model, tokenizer, 'the nader jumps')
    assert words == ['the', 'nader', 'jumps'] and model.training
    with torch.no_grad():
        h = model.eval()(torch.tensor([[2, 4, 5, 6, 7, 3]])).last_hidden_state[0]
    assert torch.allclose(states, torch.stack([h[1], h[2:4].mean(0), h[4]]), atol=1e-6)


def test_sentences_are_looked_at_before_they_are_read():
    tokenizer = small_tokenizer()
    assert check_sentence(tokenizer, 'the nader jumps') == ['nader (na·der)']
    for text, said in (
        ('', 'empty'),
        ('  ', 'empty'),
        (None, 'empty'),
        ('the zebra jumps', "lacks 'zebra'"),
        ('the ' * 7, 'has 9 tokens'),
    ):
        with pytest.raises(UserError, match=said):
            check_sentence(tokenizer, text)
    double = lambda h: 2 * h
    vectors = torch.arange(16.0).view(8, 2)
    words, states = word_states(lambda ids: vectors[ids], tokenizer, 'the nader jumps', double)
    assert words == ['the', 'nader', 'jumps'] and states.tolist() == [[16, 18], [22, 24], [28, 30]]


def tiny_encoder():
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    return BertModel(BertConfig(hidden_dropout_prob=0.5, **sizes))


def test_states_of_many_texts_do_not_depend_on_their_batch_and_leave_the_model_as_it_was():
    tokenizer = small_tokenizer()
    together = tokenizer(['the nader jumps', 'jumps'], padding=True, return_tensors='pt')
    alone = tokenizer(['jumps'], return_tensors='pt')
    for training in (True, False):
        model = tiny_encoder().train(training)
        (first, both), (second, one) = text_states(model, [together, alone])
        assert first is together and second is alone and model.training is training
        assert not both.requires_grad and torch.allclose(both[1, :3], one[0], atol=1e-6)


def test_a_walk_over_states_that_is_left_early_leaves_the_model_as_it_was():
    model = tiny_encoder().train()
    batch = {'input_ids': torch.tensor([[2, 4, 3]]), 'attention_mask': torch.ones(1, 3, dtype=torch.int64)}
    walk = text_states(model, [batch, batch])
    next(walk)
    assert not model.training
    walk.close()
    assert model.training
    long = {k: v.repeat(1, 9) for k, v in batch.items()}
    with pytest.raises(UserError, match='reads at most 16'):
        list(text_states(model, [long]))
    assert model.training


def picture(words=3, frames=4, **kwargs):
    sim = np.linspace(-0.5, 0.5, words * frames).reshape(words, frames)
    return heat_map(
        sim,
        [f'word{i}' for i in range(words)],
        np.zeros((frames, 6, 8, 3), np.uint8),
        np.arange(frames) / 2,
        **kwargs,
    )


def test_heat_map_labels_and_scale():
    ax = picture(limit=0.7, title='x')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['word0', 'word1', 'word2']
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        '0',
        '0.5',
        '1',
        '1.5',
    ] and ax.get_xlabel() == 'seconds'
    assert ax.images[0].get_clim() == (-0.7, 0.7) and ax.child_axes[0].get_title(loc='left') == 'x'
    assert ax.collections[-1].get_offsets().tolist() == [
        [3, 1],
        [3, 2],
    ]  # word0 is below zero everywhere: no dot


@pytest.mark.parametrize('words, frames', [(1, 8), (3, 4), (14, 40)])
def test_frames_stand_above_their_columns(words, frames):
    ax = picture(words, frames)
    ax.figure.canvas.draw()
    strip, gap = ax.child_axes[0], 1
    middle = lambda a, x: a.transData.transform((x, 0))[0]
    for i in (0, frames - 1):
        assert middle(ax, i) == pytest.approx(middle(strip, i * (8 + gap) + 3.5), abs=1.5)
    assert len(ax.get_xticks()) <= 16


def test_heat_map_refuses_what_does_not_fit():
    with pytest.raises(UserError, match='3 × 4'):
        heat_map(np.zeros((3, 4)), ['a', 'b'], np.zeros((4, 2, 2, 3), np.uint8), range(4))


def test_peak_inside():
    assert peak_inside([0, 1, 0.2, 0.1], [0, 0.25, 0.5, 0.75], 0.25, 0.5) == (True, 0.25)
    assert peak_inside(torch.tensor([0, 1, 0.2, 0.1]), [0, 0.25, 0.5, 0.75], 0.5, 1) == (False, 0.5)


def test_recall_is_exact_and_does_not_depend_on_the_chunk():
    rng = np.random.default_rng(0)
    t = rng.standard_normal((57, 9))
    q = t + 1.5 * rng.standard_normal((57, 9))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    ranks = np.array([1 + list(np.argsort(-row)).index(i) for i, row in enumerate(unit(q) @ unit(t).T)])
    found = recall(q, t, ks=(1, 3), chunk=1000)
    assert (
        found == recall(q, t, ks=(1, 3), chunk=8) == recall(torch.tensor(q), 5 * torch.tensor(t), ks=(1, 3))
    )
    assert found == pytest.approx(
        {
            'r1': (ranks <= 1).mean(),
            'r3': (ranks <= 3).mean(),
            'median_rank': np.median(ranks),
            'chance_r1': 1 / 57,
            'chance_r3': 3 / 57,
            'chance_median_rank': 29,
            'n': 57,
        }
    )
    assert 0 < found['r1'] < found['r3'] < 1


def test_a_collapsed_encoder_scores_nothing():
    rng = np.random.default_rng(0)
    same = np.tile(rng.standard_normal(33), (50, 1))
    assert recall(rng.standard_normal((50, 33)), same, chunk=7)['r10'] == 0 == recall(same, same)['r1']


def test_recall_names_what_is_wrong():
    with pytest.raises(UserError, match='must belong'):
        recall(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(UserError, match='not finite'):
        recall(np.ones((2, 2)), np.array([[1, np.nan], [1, 1]]))
    with pytest.raises(UserError, match='no queries'):
        recall(np.ones((0, 2)), np.ones((0, 2)))


@pytest.mark.parametrize('mine, theirs', [(1, 6), (5, 6), (6, 8), (6, 5), (8, 6)])
@pytest.mark.parametrize('chunk', [1, 1024])
def test_each_row_has_one_label(mine, theirs, chunk):
    "One label was taken for all queries, and labels beyond the last row were passed over in silence."
    states = np.random.default_rng(0).standard_normal((6, 4))
    with pytest.raises(UserError, match=f'{mine} labels of 6 queries and {theirs} of 6 targets'):
        recall(states, states, labels=([0] * mine, [0] * theirs), chunk=chunk)


def test_queries_and_targets_of_one_width():
    x = np.ones((6, 4))
    for queries, targets in ((x, np.ones((6, 3))), (x[0], x[0])):
        with pytest.raises(UserError, match='rows of one width'):
            recall(queries, targets, labels=(range(len(queries)), range(len(targets))))
    with pytest.raises(UserError, match='rows of one width'):
        recall(x[0], x[0])


def test_any_clip_of_the_same_label_is_right_and_chance_knows_it():
    rng = np.random.default_rng(1)
    t, of = rng.standard_normal((40, 6)), rng.integers(0, 12, 40)
    q, mine = rng.standard_normal((9, 6)), rng.permutation(of)[:9]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    ranks = [
        min(r for r, j in enumerate(np.argsort(-row), 1) if of[j] == m)
        for row, m in zip(unit(q) @ unit(t).T, mine, strict=True)
    ]
    found = recall(q, t, ks=(1, 5), chunk=2, labels=(mine, of))
    assert (found['r1'], found['r5'], found['median_rank']) == (
        np.mean(np.array(ranks) <= 1),
        np.mean(np.array(ranks) <= 5),
        np.median(ranks),
    )
    draws = np.array(
        [
            [min(r for r, j in enumerate(rng.permutation(40), 1) if of[j] == m) for m in mine]
            for _ in range(2000)
        ]
    )
    assert found['chance_r5'] == pytest.approx((draws <= 5).mean(), abs=0.02) and found[
        'chance_r1'
    ] == pytest.approx(np.mean([(of == m).mean() for m in mine]))
    with pytest.raises(UserError, match='no right target'):
        recall(q, t, labels=(mine + 100, of))


def test_search_is_exact_in_pieces_and_reads_mapped_files(tmp_path):
    rng = np.random.default_rng(0)
    q, t = rng.standard_normal((7, 5)).astype(np.float32), rng.standard_normal((301, 5)).astype(np.float32)
    np.save(tmp_path / 't.npy', t)
    scores, found = search(q, np.load(tmp_path / 't.npy', mmap_mode='r'), 4, chunk=3)
    cosine = q @ t.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    assert (found == np.argsort(-cosine, 1)[:, :4]).all() and np.allclose(
        scores, -np.sort(-cosine, 1)[:, :4], atol=1e-6
    )
    assert search(q, t[:2], 5)[1].shape == (7, 2)
    with pytest.raises(UserError, match='one space'):
        search(q, t[:, :3])


def test_neighbours_do_not_depend_on_the_pieces_of_the_targets():
    rng = np.random.default_rng(0)
    unit = lambda x: torch.nn.functional.normalize(torch.from_numpy(x), dim=-1)
    q, t = unit(rng.standard_normal((7, 5))), unit(rng.standard_normal((101, 5)))
    whole = (q @ t.T).sort(1, descending=True)
    for k in (1, 3, 101):
        for size in (2, 40, 101):  # pieces smaller than k, larger, and all at once
            scores, found = nearest_neighbours(q, t.split(size), k)
            assert torch.equal(found, whole.indices[:, :k]) and torch.allclose(scores, whole.values[:, :k])
    assert nearest_neighbours(q, t[:2].split(1), 5)[1].shape == (7, 2)
    twins = torch.eye(5, dtype=torch.float64)[[2, 0, 2, 2]]
    assert (
        nearest_neighbours(torch.eye(5, dtype=torch.float64)[[2]], twins.split(1))[1].item() == 0
    )  # of equal ones the first
    assert search(q, t, 50, chunk=2)[1].shape == (7, 50)  # more than a piece holds


def test_faiss_agrees_or_is_named():
    rng = np.random.default_rng(0)
    q, t = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((200, 8)).astype(np.float32)
    if importlib.util.find_spec('faiss') is None:
        with pytest.raises(UserError, match='pip install faiss-cpu'):
            search(q, t, by='faiss')
        pytest.skip('faiss is not installed')
    assert (search(q, t, 4, by='faiss')[1] == search(q, t, 4)[1]).all()
    assert (search(q, t, 4, by='faiss:IVF2,Flat')[0][:, 0] <= search(q, t, 4)[0][:, 0] + 1e-6).all()
    with pytest.raises(UserError, match='knows no index'):
        search(q, t, by='faiss:nonsense')
    with pytest.raises(UserError, match='Unknown search'):
        search(q, t, by='fais')


def looked(frames=True):
    rng = np.random.default_rng(0)
    rows = {n: rng.uniform(-1, 1, (3, 5)) for n in ('word vectors', 'words in context')}
    return Look(
        'v:0',
        'the nader jumps',
        'the nader jumps',
        ['the', 'nader', 'jumps'],
        np.arange(5) / 4,
        rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8) if frames else None,
        rows,
    )


@pytest.mark.parametrize('frames', [True, False])
def test_heat_maps_share_one_scale(frames):
    look = looked(frames)
    axes = heat_maps(look, limit=0.8)
    strips = axes[0].child_axes  # the frames stand once, above the first map
    assert len(strips) == frames and not axes[1].child_axes
    titled = [*(strips or axes[:1]), axes[1]]
    assert [a.get_title(loc='left') for a in titled] == list(look.rows)
    assert [a.images[0].get_clim() for a in axes] == [(-0.8, 0.8)] * 2 and len(
        axes[0].figure.axes
    ) == 3  # two maps, one colour bar
    for a, sim in zip(axes, look.rows.values(), strict=True):
        assert np.array_equal(a.images[0].get_array(), sim)
    assert look.figures()['cosine']['word vectors'][1][2] == round(look.rows['word vectors'][1, 2], 4)


def test_clips_are_shown_with_scores_and_captions_and_style_stays_inside():
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    ax = show_clips(
        [np.zeros((3, 8, 8, 3), np.uint8), np.ones((20, 8, 8, 3), np.uint8)],
        [0.5, -0.25],
        ['one', 'two ' * 40],
        title='x',
    )
    assert [t.get_text() for t in ax.texts][:3] == ['0.50', 'one', '-0.25'] and ax.texts[
        3
    ].get_text().endswith('…')
    assert [im.get_array().shape for im in ax.images] == [(8, 72, 3)] * 2 and ax.get_title(loc='left') == 'x'
    assert all(plt.rcParams[k] == before[k] for k in STYLE)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run, too short to learn anything."
    from vidlankd_nb.experiments import Experiment
    from vidlankd_nb.presets import load_run

    folder = tmp_path_factory.mktemp('run') / 'quick'
    cfg = load_run('quick', teacher__word_weight=1)
    cfg.controls, cfg.students = {}, {k: cfg.students[k] for k in ('l2', 'nst')}
    x = Experiment(cfg, folder, show=False)
    x.do('world', 'features', 'pairs', 'corpus', 'teacher', 'student', 'ground')
    x.close()
    return folder


def command(*words):
    "Exit code and last line of standard error of a `vidlankd ground`."
    import contextlib
    import io

    from vidlankd_nb.cli import main

    err, code = io.StringIO(), 0
    with contextlib.redirect_stderr(err):
        try:
            main(['ground', *map(str, words)])
        except SystemExit as e:
            code = e.code
    return code, err.getvalue().strip()


def test_ground_a_sentence_beside_the_clip_it_finds_and_beside_a_given_one(run, tmp_path, capsys):
    import json

    assert json.loads((run / 'figures' / 'grounding-0.json').read_text(encoding='utf-8'))[
        'cosine'
    ].keys() == {
        'word vectors',
        'words in context',
    }
    assert command(run, '--text', 'the red ball jumps', '--out', tmp_path / 'a') == (0, '')
    assert {p.name for p in (tmp_path / 'a').iterdir()} == {
        'look.png',
        'look.svg',
        'look.html',
        'look.json',
        'clips.png',
    }
    found = json.loads((tmp_path / 'a' / 'look.json').read_text(encoding='utf-8'))
    assert found['clips'][0]['words'] == ['the', 'red', 'ball', 'jumps'] and list(
        found['clips'][0]['cosine']
    ) == ['word vectors', 'words in context', 'student l2']
    scores = [c['score'] for c in found['clips']]
    assert (
        len(scores) == 5
        and scores == sorted(scores, reverse=True)
        and all(
            -1 <= v <= 1 for c in found['clips'] for rows in c['cosine'].values() for row in rows for v in row
        )
    )
    for clip in ('toy0000:3', 'toy0000:3.4'):  # in training or held out, by its start or any second of it
        assert command(
            run, '--text', 'the red ball jumps', '--clip', clip, '--out', tmp_path / 'b', '--students', 'nst'
        ) == (0, '')
        chosen = json.loads((tmp_path / 'b' / 'look.json').read_text(encoding='utf-8'))['clips'][0]
        assert chosen['clip'].startswith('toy0000:') and chosen['notes'] == {
            'student nst': 'turned by a rotation fitted on text'
        }
    assert 'read in pieces' not in capsys.readouterr().out
    assert (
        command(
            run,
            '--text',
            'the zuzuzu jumps',
            '--clip',
            'toy0000',
            '--students',
            'none',
            '--out',
            tmp_path / 'c',
        )[0]
        == 0
    )
    assert 'never seen in training: zuzuzu (z·' in capsys.readouterr().out


def test_what_ground_is_given_wrongly_is_named(run, tmp_path):
    for words, said in (
        ((run, '--text', ''), 'sentence is empty'),
        ((run, '--text', 'the жук jumps'), "lacks 'жук'"),
        ((run, '--text', 'the ' * 200), 'shorten it'),
        ((run, '--text', 'the ball', '--clip', 'toy000'), 'the nearest of'),
        ((run, '--text', 'the ball', '--clip', 'toy0000:999'), 'the nearest are toy0000:'),
        ((run, '--text', 'the ball', '--clip', 'toy0000:x'), 'should end in the second'),
        ((run, '--text', 'the ball', '--students', 'l3'), "did you mean 'l2'"),
        ((tmp_path, '--text', 'the ball'), 'holds no run'),
    ):
        code, err = command(*words)
        assert code == 2 and said in err and 'Traceback' not in err and len(err.splitlines()) == 1, (
            words,
            err,
        )
    assert not (run / 'looks').exists()


def test_models_that_do_not_fit_or_are_not_there_are_named(run, tmp_path):
    import shutil

    from vidlankd_nb.config import Encoder
    from vidlankd_nb.encoders import text_encoder
    from vidlankd_nb.tokenizer import load_tokenizer

    copy = shutil.copytree(run, tmp_path / 'copy')
    tok = load_tokenizer(copy / 'corpus' / 'tokenizer')
    text_encoder(Encoder(layers=1, width=48, heads=2), tok).save_pretrained(copy / 'students' / 'l2')
    code, err = command(copy, '--text', 'the ball')
    assert code == 2 and 'width 48' in err and 'teacher 32' in err
    (copy / 'students' / 'nst' / 'model.safetensors').unlink()
    assert 'No finished student' in command(copy, '--text', 'the ball', '--students', 'nst')[1]
    (copy / 'teachers' / 'video' / 'model.safetensors').unlink()
    assert 'No finished teacher' in command(copy, '--text', 'the ball')[1]
