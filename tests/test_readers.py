"Students as readers: what aligns, the rotation, and words in the plane."

import numpy as np
import pytest
import torch

from vidlankd_nb.files import UserError
from vidlankd_nb.readers import aligns, layout, rotation, show_words, student_reader


def test_a_rotation_is_found_and_is_one():
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((200, 12))
    q = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    found = rotation(3 * teacher @ q.T, torch.tensor(teacher))  # lengths do not matter
    assert np.allclose(found, q, atol=1e-8) and np.allclose(found @ found.T, np.eye(12), atol=1e-10)
    unrelated = rotation(rng.standard_normal((5000, 12)), rng.standard_normal((5000, 12)))
    a, b = rng.standard_normal((2, 5000, 12))
    assert abs(torch.cosine_similarity(torch.tensor(a @ unrelated), torch.tensor(b), dim=-1).mean()) < 0.03


def test_what_aligns():
    assert [
        aligns(o)
        for o in ('l2', 'infonce', 'ntxent', 'nst+l2', 'nst', 'crd', 'nst+crd', 'soft_label', 'voken', 'none')
    ] == [True] * 4 + [False] * 6


def test_a_student_of_another_width_is_named():
    from types import SimpleNamespace as S

    with pytest.raises(UserError, match='width 48 and the teacher 32'):
        student_reader('x', S(config=S(hidden_size=48)), None, S(text=S(config=S(hidden_size=32))))


@pytest.mark.parametrize('how', ['pca', 'mds', 'tsne'])
def test_layouts_repeat_and_keep_groups_together(how):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 20)) * 4
    states = np.concatenate([c + rng.standard_normal((8, 20)) * 0.3 for c in centres])
    flat = layout(states, how)
    assert flat.shape == (24, 2) and np.array_equal(flat, layout(states, how))
    group = np.repeat(range(3), 8)
    away = ((flat[:, None] - flat) ** 2).sum(-1) + np.eye(24) * 1e9
    assert (group[away.argmin(1)] == group).all()


def test_an_unknown_layout_is_named():
    with pytest.raises(UserError, match="'pca', 'mds' or 'tsne'"):
        layout(np.eye(4), 'umap')


def test_words_are_marked_by_what_they_look_like():
    ax = show_words(np.eye(4)[:, :2], list('abcd'), ['red', 'blue', 'red', 'blue'], title='x')
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['blue', 'red'] and [
        len(c.get_offsets()) for c in ax.collections
    ] == [2, 2]
    assert [t.get_text() for t in ax.texts] == list('abcd') and ax.get_title(loc='left') == 'x'
