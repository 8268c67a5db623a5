"""What the training engine promises, through the real command line."""
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

here = Path(__file__).parent
ENV = os.environ | {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
CLI = [sys.executable, '-m', 'vidlankd_nb.cli']
# ten steps, two pieces each, several epochs' worth of a small corpus, dropout on
TEN = ['--config', 'quick', '--world.sentences', '100', '--student.steps', '10', '--student.accumulate', '2', '--student.log_every', '1', '--student.save_every', '4',
       '--student.text.dropout', '0.1', '--students', '{l2: {objective: l2, weight: 5}}', '--controls', '{}', '--teacher.steps', '4', '--teacher.log_every', '2', '--teacher.save_every', '2']


def call(*args, code=0):
    out = subprocess.run(list(map(str, args)), capture_output=True, text=True, env=ENV)
    assert out.returncode == code, (out.returncode, out.stdout[-1500:], out.stderr[-3000:])
    return out


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "A run of `TEN` up to the teacher; students start from copies of it."
    folder = tmp_path_factory.mktemp('runs')/'prepared'
    for stage in ('world', 'features', 'pairs', 'corpus', 'teacher'): call(*CLI, stage, *TEN, '--out', folder)
    return folder


@pytest.fixture(scope='module')
def whole(prepared, tmp_path_factory):
    "The student, trained without interruption."
    folder = tmp_path_factory.mktemp('runs')/'whole'
    shutil.copytree(prepared, folder)
    call(*CLI, 'student', *TEN, '--out', folder)
    return folder/'students'/'l2'


def log(folder):
    return [{k: v for k, v in json.loads(line).items() if k != 'speed'} for line in (folder/'log.jsonl').read_text().splitlines()]


CUTS = {'before the first checkpoint': ('vidlankd_nb.training:optimizer_step', 3),
        'mid-epoch': ('vidlankd_nb.training:optimizer_step', 8),
        'mid-accumulation': ('accelerate:Accelerator.backward', 14),      # the second piece of step 7
        'while a checkpoint is written': ('vidlankd_nb.training:_fsync', 3),
        'before a checkpoint is renamed': ('vidlankd_nb.training:_fsync', 4),
        'after it is renamed, before older ones go': ('vidlankd_nb.training:_fsync', 15)}


@pytest.mark.parametrize('cut', CUTS)
def test_killed_and_resumed_bit_for_bit(cut, prepared, whole, tmp_path):
    folder = tmp_path/'run'
    shutil.copytree(prepared, folder)
    call(sys.executable, here/'dies_at.py', *CUTS[cut], 'student', *TEN, '--out', folder, code=-signal.SIGKILL)
    assert not (folder/'students'/'l2'/'model.safetensors').exists()
    call(*CLI, 'student', *TEN, '--out', folder)
    mine = folder/'students'/'l2'
    last = 'checkpoints/step-00000010'
    for name in ('model.safetensors', f'{last}/weights.safetensors', f'{last}/moments.safetensors'): assert (mine/name).read_bytes() == (whole/name).read_bytes(), name
    assert log(mine) == log(whole) and [r['step'] for r in log(whole) if 'terms' in r] == list(range(1, 11))


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(prepared, whole, tmp_path):
    folder = tmp_path/'run'
    shutil.copytree(prepared, folder)
    call(sys.executable, here/'dies_at.py', 'vidlankd_nb.training:optimizer_step', 9, 'student', *TEN, '--out', folder, code=-signal.SIGKILL)
    checkpoints = folder/'students'/'l2'/'checkpoints'
    assert sorted(p.name for p in checkpoints.iterdir()) == ['step-00000004', 'step-00000008']
    with open(checkpoints/'step-00000008'/'moments.safetensors', 'r+b') as f: f.truncate(1000)
    out = call(*CLI, 'student', *TEN, '--out', folder)
    assert 'step-00000008 is damaged (moments.safetensors)' in out.stdout
    assert (folder/'students'/'l2'/'model.safetensors').read_bytes() == (whole/'model.safetensors').read_bytes()


def test_sigterm_saves_and_asks_for_the_same_command(prepared, whole, tmp_path):
    folder = tmp_path/'run'
    shutil.copytree(prepared, folder)
    code = "import os, signal, sys, vidlankd_nb.training as t\nstep = t.optimizer_step\ndef asked(*a):\n    if a[-1] == 5: os.kill(os.getpid(), signal.SIGTERM)\n    return step(*a)\nt.optimizer_step = asked\nfrom vidlankd_nb.cli import main; main(sys.argv[1:])"
    call(sys.executable, '-c', code, 'student', *TEN, '--out', folder, code=75)
    assert (folder/'students'/'l2'/'checkpoints'/'step-00000006').is_dir()
    call(*CLI, 'student', *TEN, '--out', folder)
    assert (folder/'students'/'l2'/'model.safetensors').read_bytes() == (whole/'model.safetensors').read_bytes()


def test_everything_that_should_move_moves(prepared):
    "The teacher's video encoder, too; with frozen_video it stands still."
    first, last = (load_file(prepared/'teachers'/'video'/'checkpoints'/f'step-{s:08d}'/'weights.safetensors') for s in (2, 4))
    still = [k for k in first if torch.equal(first[k], last[k]) and first[k].is_floating_point()]
    assert still == ['model.video.scale'], still   # a constant: the size of the training features
    captions = [load_file(prepared/'teachers'/'captions'/'checkpoints'/f'step-{s:08d}'/'weights.safetensors') for s in (2, 4)] if (prepared/'teachers'/'captions').exists() else []
    for k in (captions[0] if captions else {}):
        if 'model.video' in k: assert torch.equal(captions[0][k], captions[1][k]), k


def weights(folder, kind):
    return torch.cat([v.flatten() for _, v in sorted(load_file(folder/kind/'model.safetensors').items())])


def agree(a, b, bound=2e-5):
    "Largest and mean deviation between two trainings, shown when the bound is exceeded."
    apart = (a - b).abs()
    print(f'largest deviation {apart.max():.1e}, mean {apart.mean():.1e}')
    assert apart.max() < bound, f'largest deviation {apart.max():.1e}, mean {apart.mean():.1e}'


ALL = '{text_only: {objective: none}, l2: {objective: l2, weight: 5}, nst: {objective: nst, weight: 100}, infonce: {objective: infonce}, crd: {objective: crd, weight: 0.3, options: {queue: 64}}, soft: {objective: soft_label}}'


def students(folder, prepared, accumulate=1, processes=1, some=ALL):
    "Train students in a copy of `prepared`, dropout off, and return the folder."
    shutil.copytree(prepared, folder)
    words = [*TEN, '--student.text.dropout', '0', '--student.accumulate', accumulate, '--students', some]
    own = yaml_of(words)
    (folder/'config.yaml').write_text(own)
    for record in (folder/'stages').iterdir():  # the earlier stages do not depend on the students' settings
        assert record.stem in ('world', 'features', 'pairs', 'corpus', 'teacher')
    call(*launch(processes), 'student', *words, '--out', folder)
    return folder/'students'


def yaml_of(words):
    from vidlankd_nb.config import parse_run, to_yaml
    return to_yaml(parse_run(list(map(str, words)))[0])


def launch(processes):
    if processes == 1: return CLI
    return [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', processes, '--master-port', 29500 + os.getpid() % 1000, '-m', 'vidlankd_nb.cli']


@pytest.fixture(scope='module')
def alone(prepared, tmp_path_factory):
    return students(tmp_path_factory.mktemp('runs')/'alone', prepared)


@pytest.mark.parametrize('name', ['text_only', 'l2', 'nst', 'infonce', 'crd', 'soft'])
def test_two_processes_are_one(name, alone, pair_of_processes):
    agree(weights(alone, name), weights(pair_of_processes, name))


@pytest.fixture(scope='module')
def pair_of_processes(prepared, tmp_path_factory):
    return students(tmp_path_factory.mktemp('runs')/'two', prepared, processes=2)


@pytest.mark.parametrize('name', ['text_only', 'l2', 'soft'])
def test_four_pieces_are_one(name, alone, in_pieces):
    agree(weights(alone, name), weights(in_pieces, name))


@pytest.fixture(scope='module')
def in_pieces(prepared, tmp_path_factory):
    return students(tmp_path_factory.mktemp('runs')/'pieces', prepared, accumulate=4, some='{text_only: {objective: none}, l2: {objective: l2, weight: 5}, soft: {objective: soft_label}}')


def test_a_coupled_loss_is_not_computed_in_pieces(prepared, tmp_path):
    folder = tmp_path/'run'
    shutil.copytree(prepared, folder)
    words = [*TEN, '--students', '{nst: {objective: nst}}']
    (folder/'config.yaml').write_text(yaml_of(words))
    assert 'set accumulate to 1' in call(*CLI, 'student', *words, '--out', folder, code=2).stderr


def test_two_processes_train_the_same_teacher(prepared, tmp_path):
    folder = tmp_path/'run'
    shutil.copytree(prepared, folder)
    shutil.rmtree(folder/'teachers'); (folder/'stages'/'teacher.json').unlink()
    call(*launch(2), 'teacher', *TEN, '--out', folder)
    agree(weights(prepared/'teachers', 'video'), weights(folder/'teachers', 'video'))


def test_a_full_disk_is_one_sentence(prepared, tmp_path):
    "Files may not grow beyond 40 kB, which stops the checkpoint's weights half-way as a full disk does."
    import resource
    folder = tmp_path/'run'
    shutil.copytree(prepared, folder)
    limit = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)))
    out = subprocess.run([*CLI, 'student', *TEN, '--out', str(folder)], capture_output=True, text=True, env=ENV, preexec_fn=limit)
    assert out.returncode == 2 and 'The checkpoint of step 4 could not be written' in out.stderr and 'Traceback' not in out.stderr, out.stderr[-2000:]
    assert list((folder/'students'/'l2'/'checkpoints').iterdir()) == []


def test_the_best_checkpoint_stays(tmp_path):
    from vidlankd_nb.training import Checkpoints
    c = Checkpoints(tmp_path, keep=2)
    for step, score in enumerate((3.0, 1.0, 2.0, 2.5, 2.2), 1): c.save(step, {'w': torch.zeros(2)}, {}, {'identity': {}, 'score': score})
    assert c.steps() == [2, 4, 5] and c.best() == 2
