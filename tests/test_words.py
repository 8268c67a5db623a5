"The contrast of words and frames: padding, reloading, shuffled videos, and two processes that give what one gives."

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModel

from vidlankd_nb.batches import derangement
from vidlankd_nb.config import Encoder, Teacher
from vidlankd_nb.corpus import train_tokenizer
from vidlankd_nb.files import UserError
from vidlankd_nb.teacher import TeacherTask, VideoTeacher, make_teacher
from vidlankd_nb.tokenizer import load_tokenizer


@pytest.fixture(scope='module')
def tok(tmp_path_factory):
    file = tmp_path_factory.mktemp('tok') / 'text.txt'
    file.write_text('the small red ball rolls to the left and glows\n', encoding='utf-8')
    return train_tokenizer([file], 200)


def task(tok, **settings):
    torch.manual_seed(0)
    cfg = Teacher(text=Encoder(layers=1, width=16, heads=2), **{'word_weight': 1, **settings})
    return TeacherTask(make_teacher(cfg, tok, video_width=6, max_frames=5), cfg)


def batch(n=6, L=5, F=5):
    gen = torch.Generator().manual_seed(1)
    tokens, frames = torch.tensor([5, 4, 3, 5, 4, 4])[:n, None], torch.tensor([5, 1, 3, 4, 5, 2])[:n, None]
    special = torch.ones(n, L, dtype=torch.bool)
    special[:, 1:] = torch.arange(1, L) >= tokens - 1
    b = dict(
        input_ids=torch.randint(5, 15, (n, L), generator=gen),
        attention_mask=(torch.arange(L) < tokens).long(),
        special=special,
        video=torch.randn(n, F, 6, generator=gen),
        video_mask=torch.arange(F) < frames,
        masked_at=torch.ones(n, 1, dtype=torch.long),
        labels=torch.full((n, 1), -100),
    )
    b['labels'][::2] = 7  # every other caption hides its first word
    return b


def loss(t, b):
    return sum(t(b, {'mlm': 1.0})[k] for k in ('contrast', 'words'))


def grads(t):
    return torch.cat([p.grad.flatten() for p in t.parameters() if p.grad is not None])


def work(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.set_num_threads(1)
    t = task(load_tokenizer(folder))
    value = loss(t, {k: v.chunk(2)[rank] for k, v in batch().items()})
    value.backward()
    both = grads(t)
    dist.all_reduce(both)
    torch.save((value.detach(), both / 2), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tok, tmp_path):
    tok.save_pretrained(tmp_path)
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    t = task(tok)
    value = loss(t, batch())
    value.backward()
    for rank in range(2):
        theirs, both = torch.load(tmp_path / f'{rank}.pt')
        torch.testing.assert_close(theirs, value.detach())
        torch.testing.assert_close(both, grads(t), rtol=1e-4, atol=1e-6)


def test_each_word_once_is_every_word(tok):
    "The task scores each different word once; the formula scores every token."
    from vidlankd_nb.teacher import frame_scores, infonce_of

    t, b = task(tok).double(), batch()
    b['video'] = b['video'].double()
    real, out = t.visible(b), t.model(b['input_ids'], b['attention_mask'], b['video'], b['video_mask'])
    slow = infonce_of(
        frame_scores(out.words, out.local, b['video_mask'], t.cfg.word_temperature) / t.cfg.temperature, real
    )
    fast = t.word_contrast(b['input_ids'], real, out.local, b['video_mask'])
    torch.testing.assert_close(slow, fast)
    used = [t.model.word.weight, t.model.text.get_input_embeddings().weight, t.model.video.near.weight]
    for x, y in zip(
        torch.autograd.grad(slow, used, retain_graph=True), torch.autograd.grad(fast, used), strict=True
    ):
        torch.testing.assert_close(x, y)


def test_padding_does_not_leak(tok):
    t, b = task(tok).eval(), batch()
    bad = b | {'video': torch.where(b['video_mask'][..., None], b['video'], torch.nan)}
    good = loss(t, b)
    other = loss(t, bad)
    torch.testing.assert_close(good, other)
    other.backward()
    assert all(p.grad.isfinite().all() for p in t.parameters() if p.grad is not None)
    local = t.model.video.local(bad['video'], bad['video_mask'])
    alone = t.model.video.local(
        b['video'][2:3, :3], b['video_mask'][2:3, :3]
    )  # the clip of three frames, without padding
    torch.testing.assert_close(local[2:3, :3], alone)


def test_a_local_state_sees_its_neighbours_and_no_more(tok):
    for window in (1, 3):
        t, b = task(tok, word_window=window), batch()
        video, mask = b['video'][:1], torch.ones(1, 5, dtype=torch.bool)
        changed = video.clone()
        changed[0, 2] += 1
        moved = (t.model.video.local(video, mask) - t.model.video.local(changed, mask)).abs().sum(-1)[
            0
        ] > 1e-6
        assert moved.tolist() == [abs(f - 2) <= window // 2 for f in range(5)]


def test_saved_and_reloaded(tok, tmp_path):
    b = batch()
    for settings, has in (({}, True), ({'word_weight': 0.0}, False), ({'contrast': 'none'}, False)):
        t = task(tok, **settings)
        assert (
            t.model.config.has_words
            == has
            == ('words' in t.weights)
            == any('video.near' in n for n, _ in t.model.named_parameters())
        )
        t.model.save_pretrained(tmp_path / 't')
        again = AutoModel.from_pretrained(tmp_path / 't')
        with torch.no_grad():
            a, z = (
                m.eval()(b['input_ids'], b['attention_mask'], b['video'], b['video_mask'])
                for m in (t.model, again)
            )
        assert (
            isinstance(again, VideoTeacher) and list(a) == list(z) and all(torch.equal(a[k], z[k]) for k in a)
        )
        assert ('words' in a) == has


def test_work_is_counted(tok):
    b = batch()
    assert task(tok).flops_per_token(b) > task(tok, word_weight=0.0).flops_per_token(b)


@pytest.mark.parametrize('window', [0, 2, -1])
def test_a_window_without_a_middle_is_refused(tok, window):
    with pytest.raises(UserError, match='teacher.word_window'):
        task(tok, word_window=window)


@pytest.mark.parametrize('n', [2, 3, 50])
def test_shuffled_videos_are_never_ones_own(n):
    partner = derangement(n, seed=0)
    assert (
        sorted(partner) == list(range(n))
        and (partner != np.arange(n)).all()
        and np.array_equal(partner, derangement(n, seed=0))
    )
    assert n < 10 or not np.array_equal(partner, derangement(n, seed=1))
