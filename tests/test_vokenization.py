"Vokens on a shrunken `large-world`, which goes the whole road: labels, resumption, refusals, flat memory."

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from support.trainings import CLI, python

from vidlankd_nb.config import Pairs, Vokens
from vidlankd_nb.corpus import Examples
from vidlankd_nb.encoders import states_of
from vidlankd_nb.files import UserError
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.objectives import reads_vokens
from vidlankd_nb.pairs import PairSet
from vidlankd_nb.presets import load_run
from vidlankd_nb.teacher import VideoTeacher
from vidlankd_nb.tokenizer import load_tokenizer
from vidlankd_nb.vokenization import (
    VokenLabels,
    choose_clips,
    diversity,
    make_vokens,
    nearest_vokens,
    quantisation,
    voken_vectors,
)

FEW = {
    'threads': 1,
    'world': {
        'names': 64,
        'withheld': 64,
        'noun_clips': 192,
        'generic_clips': 30,
        'two_event_clips': 10,
        'sentences': 400,
    },
    'features': {'workers': 0},
    'pairs': {'valid_share': 0.2},
    'corpus': {'valid_share': 0.1},
    'vokens': {'count': 16},
    'evaluation': {'splits': 2, 'permutations': 2, 'finetune_steps': 2},
    **{
        k: {
            'steps': 3,
            'batch': 4,
            'workers': 0,
            'log_every': 1,
            'save_every': 3,
            'text': {'layers': 2, 'width': 64, 'heads': 4},
        }
        for k in ('teacher', 'student')
    },
}


def vidlankd(*args):
    return python(*CLI[1:], *args)


def refused(*args):
    out = vidlankd(*args)
    assert (
        out.returncode == 2 and 'Traceback' not in out.stderr and len(out.stderr.strip().splitlines()) == 1
    ), (out.returncode, out.stderr)
    return out.stderr


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    file = tmp_path_factory.mktemp('config') / 'few.yaml'
    file.write_text(yaml.safe_dump(FEW), encoding='utf-8')
    return ['--config', 'large-world', '--config', file]


@pytest.fixture(scope='module')
def run(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    out = vidlankd('run', *words, '--out', folder)
    assert out.returncode == 0, out.stderr[-3000:] + out.stdout[-1000:]
    return folder


def again(run, out, **kwargs):
    cfg = load_run(run / 'config.yaml')
    return make_vokens(
        out,
        run / 'teachers' / 'video',
        run / 'pairs',
        run / 'corpus',
        Vokens(**{'count': 16} | kwargs),
        cfg.pairs,
        cfg.seed,
        show=False,
    )


def test_the_whole_road_of_a_large_world(run):
    r = json.loads((run / 'report.json').read_text(encoding='utf-8'))
    assert set(r['students']) == {'text_only', 'l2', 'crd', 'voken'} and r['seconds']['vokens'] >= 0
    page = (run / 'report.html').read_text(encoding='utf-8')
    assert (
        all(0 <= s['withheld']['mean'] <= 1 for s in r['students'].values())
        and '<th>withheld</th>' in page
        and 'The vokens' in page
        and r['vokens'][0]['count'] == 16
    )
    assert load_run('large-world').world.names >= 2000 and load_run('large-world').student.text.width == 512


def test_labels_are_the_nearest_vokens(run):
    teacher, examples, tok = (
        VideoTeacher.from_pretrained(run / 'teachers' / 'video').eval(),
        Examples(run / 'corpus'),
        load_tokenizer(run / 'corpus' / 'tokenizer'),
    )
    vectors, (ids, lengths) = np.load(run / 'vokens' / 'vectors.npy'), examples[np.arange(4)]
    labels = VokenLabels(run / 'vokens', examples)[np.arange(4)].numpy()
    with torch.no_grad():
        states = (
            states_of(
                teacher.text,
                torch.from_numpy(ids.astype(np.int64)),
                torch.from_numpy(np.arange(ids.shape[1]) < lengths[:, None]).long(),
            )
            .double()
            .numpy()
        )
    cosine = states / np.linalg.norm(states, axis=-1, keepdims=True) @ vectors.T.astype(np.float64)
    special = np.isin(ids, tok.all_special_ids)
    assert (labels[special] == -1).all()
    assert np.allclose(
        np.take_along_axis(cosine, np.maximum(labels, 0)[..., None], -1)[..., 0][~special],
        cosine.max(-1)[~special],
        atol=1e-5,
    )
    batch = TextBatches(examples, tok, vokens=VokenLabels(run / 'vokens', examples)).batch(
        np.array([2, 0]), 5
    )
    assert (
        torch.equal(batch['vokens'], torch.from_numpy(labels[[2, 0]]))
        and not (batch['vokens'][~batch['special']] < 0).any()
    )


def test_the_same_vokens_from_the_same_seed(run, tmp_path):
    again(run, tmp_path / 'v')
    for f in (run / 'vokens').iterdir():
        assert (tmp_path / 'v' / f.name).read_bytes() == f.read_bytes(), f.name


def test_an_interrupted_run_goes_on(run, tmp_path):
    shutil.copytree(run / 'vokens', tmp_path / 'v')
    whole = (tmp_path / 'v' / 'train-00000.npy').read_bytes()
    (tmp_path / 'v' / 'vokens.json').unlink()
    (tmp_path / 'v' / 'valid-00000.npy').unlink()
    (tmp_path / 'v' / '.valid-00000.npy.77').write_bytes(whole[:100])
    kept = (tmp_path / 'v' / 'train-00000.npy').stat().st_mtime_ns
    again(run, tmp_path / 'v')
    assert (tmp_path / 'v' / 'train-00000.npy').stat().st_mtime_ns == kept and (
        tmp_path / 'v' / 'train-00000.npy'
    ).read_bytes() == whole
    assert (tmp_path / 'v' / 'valid-00000.npy').read_bytes() == (
        run / 'vokens' / 'valid-00000.npy'
    ).read_bytes() and not list((tmp_path / 'v').glob('.*'))
    made = again(run, tmp_path / 'v', source='frames')  # other settings: what was there goes
    assert (
        made['source'] == 'frames'
        and made['vectors']
        != json.loads((run / 'vokens' / 'vokens.json').read_text(encoding='utf-8'))['vectors']
    )


def test_vokens_of_another_corpus_are_refused(run, tmp_path):
    shutil.copytree(run / 'corpus', tmp_path / 'corpus')
    part = next((tmp_path / 'corpus').glob('train-*.arrow'))
    part.write_bytes(
        part.read_bytes()[:-4000] + bytes(3000) + part.read_bytes()[-1000:]
    )  # the same shape, other tokens
    with pytest.raises(UserError, match='another corpus'):
        VokenLabels(run / 'vokens', Examples(tmp_path / 'corpus'))
    with pytest.raises(UserError, match='another corpus'):
        VokenLabels(run / 'vokens', Examples(run / 'corpus', 'valid'), 'train')
    with pytest.raises(UserError, match='vidlankd vokens'):
        VokenLabels(tmp_path, Examples(run / 'corpus'))


def test_wrong_words(run, words, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    for name in ('vokens', 'student', 'evaluate', 'vocabulary', 'report'):
        (tmp_path / 'run' / 'stages' / f'{name}.json').unlink(missing_ok=True)
    config = (run / 'config.yaml').read_text(encoding='utf-8')

    def asked(stage, key, value):
        (tmp_path / 'run' / 'config.yaml').unlink()
        (tmp_path / 'run' / 'config.yaml').write_text(
            yaml.safe_dump(
                {**yaml.safe_load(config), 'vokens': {**yaml.safe_load(config)['vokens'], key: value}}
            ),
            encoding='utf-8',
        )
        return refused(stage, *words, f'--vokens.{key}', value, '--out', tmp_path / 'run')

    assert '1 and that' in asked('vokens', 'count', 100000)
    with pytest.raises(UserError, match='1 and that'):
        choose_clips(10, 0)
    assert "did you mean 'frames'" in asked('vokens', 'source', 'frame')
    assert "did you mean '--vokens.count'" in refused(
        'vokens', *words, '--vokens.counts', 3, '--out', tmp_path / 'other'
    )


def test_only_who_saw_videos_makes_vokens(run, tmp_path):
    from vidlankd_nb.config import Distillation
    from vidlankd_nb.vokenization import labels_for

    with pytest.raises(UserError, match="set its teacher to 'video'"):
        labels_for(Distillation('voken', teacher='captions'), run / 'vokens', {})
    assert labels_for(Distillation('l2'), run / 'vokens', {}) == {}
    assert [reads_vokens(o) for o in ('none', 'l2', 'voken', '2*voken', 'l2+voken')] == [
        False,
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(UserError, match="did you mean 'voken'"):
        reads_vokens('vokan')


def test_stills_have_no_clip_features(run):
    pairs = PairSet.load(run / 'pairs', 'train')
    pairs.store.parts = [100, 284]
    with pytest.raises(UserError, match='3D'):
        voken_vectors(
            VideoTeacher.from_pretrained(run / 'teachers' / 'video'),
            pairs,
            [0],
            Pairs(max_frames=16),
            'frames',
        )


def test_chunks_and_nested_draws():
    g = torch.Generator().manual_seed(1)
    h, v = (
        torch.nn.functional.normalize(torch.randn(n, 9, generator=g, dtype=torch.float64), dim=-1)
        for n in (333, 130)
    )
    ids, cosine = nearest_vokens(h, v, 50)
    assert torch.equal(
        nearest_vokens(torch.eye(3), torch.eye(3)[[2, 0, 1, 0, 2, 2]], 2)[0], torch.tensor([1, 2, 0])
    )  # a tie goes to the lower number
    assert torch.allclose(cosine, (h @ v.T).max(1).values, atol=1e-12)
    assert torch.equal(ids, nearest_vokens(h, v, 7)[0])
    curve = quantisation(h, v)
    assert [r['vokens'] for r in curve] == [1, 2, 4, 8, 16, 32, 64, 128, 130] and all(
        a['to_voken'] >= b['to_voken'] for a, b in zip(curve, curve[1:], strict=False)
    )
    assert (
        np.array_equal(choose_clips(50, 50, 3)[:20], choose_clips(50, 20, 3))
        and len(set(choose_clips(50, 50, 3))) == 50
    )
    assert diversity(np.array([4, 0, 4, 0]))['used'] == 0.5


def test_search_in_flat_memory():
    code = """
import resource, torch
from vidlankd_nb.vokenization import nearest_vokens
torch.set_num_threads(1)
h = torch.randn(24000, 8); v = torch.nn.functional.normalize(torch.randn(24000, 8), dim=-1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest_vokens(h, v, 1024)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, encoding='utf-8'
    )  # a process without a past: its memory is the point
    assert out.returncode == 0 and int(out.stdout) < 200, (
        out.stdout,
        out.stderr,
    )  # MB; all cosines at once are 2,300
