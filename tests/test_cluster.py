"""Every way of starting several processes that the documentation names, and a scheduler's warning to all of them."""

import json
import subprocess
import sys
import time

import psutil
import pytest
from support import trainings
from support.trainings import CLI, SMALL, agree, call, copy_of, free_port, here, together, weights

EXPORTS = dict(
    line.split()[1].split('=', 1)
    for line in (here.parent / 'scripts' / 'train.slurm').read_text(encoding='utf-8').splitlines()
    if line.startswith('export ')
)  # what it tells torchrun
ENV = trainings.ENV | EXPORTS
# Ten steps, dropout off: dropout masks are drawn by each process for its own share. The only checkpoint is the last, or a signal's.
TEN = [
    *SMALL,
    '--student.steps',
    '10',
    '--student.log_every',
    '1',
    '--student.save_every',
    '20',
    '--student.text.dropout',
    '0',
    '--students',
    '{nst+crd: {objective: nst+crd, options: {crd: {queue: 64}}}}',
]


@pytest.fixture(scope='module')
def alone(prepared, tmp_path_factory):
    "The weights that one process trains."
    folder = copy_of(prepared, tmp_path_factory.mktemp('runs') / 'alone', TEN)
    call(*CLI, 'student', *TEN, '--out', folder)
    return student(folder)


@pytest.fixture
def run(prepared, tmp_path):
    "A run of its own to train in."
    return copy_of(prepared, tmp_path / 'run', TEN)


def student(folder):
    return weights(folder / 'students' / 'nst+crd')


def start(*args):
    return subprocess.Popen(
        list(map(str, args)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENV,
        encoding='utf-8',
    )


def torchrun(folder, *program, nodes=2, processes=1):
    "`torchrun` agents, one a node, that meet at a port of this machine; signals are passed on as in scripts/train.slurm."
    words = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--nnodes',
        nodes,
        '--nproc-per-node',
        processes,
        '--rdzv-backend',
        'c10d',
        '--rdzv-endpoint',
        f'127.0.0.1:{free_port()}',
        '--rdzv-id',
        'test',
        *(program or ('-m', 'vidlankd_nb.cli')),
        'student',
        *TEN,
        '--out',
        folder,
    ]
    return [start(*words) for _ in range(nodes)]


def finish(processes, seconds=300):
    "Exit codes and outputs; whatever hangs is ended and told."
    outputs, until = [], time.monotonic() + seconds
    try:
        for p in processes:
            outputs.append(p.communicate(timeout=max(1, until - time.monotonic()))[0])
    finally:
        for p in processes:  # an agent's workers are not of its process group
            if p.poll() is None:
                for q in [*psutil.Process(p.pid).children(recursive=True), p]:
                    q.kill()
    return [p.returncode for p in processes], outputs


def test_accelerate_launch(run, alone):
    call(
        sys.executable,
        '-m',
        'accelerate.commands.launch',
        '--cpu',
        '--num_processes',
        2,
        '--num_machines',
        1,
        '--mixed_precision',
        'no',
        '--dynamo_backend',
        'no',
        '--main_process_port',
        free_port(),
        '-m',
        'vidlankd_nb.cli',
        'student',
        *TEN,
        '--out',
        run,
        env=ENV,
    )
    agree(student(run), alone, 'accelerate launch')


def test_torchrun_on_two_nodes(run, alone):
    codes, outputs = finish(torchrun(run))
    assert codes == [0, 0], outputs
    agree(student(run), alone, 'torchrun')


WARNINGS = {
    'both agents at once': (2, 1, '0:4,1:4'),
    'one agent earlier': (2, 1, '0:6,1:4'),
    'one agent only': (2, 1, '1:4'),
    'one agent of two processes': (1, 2, '0:4'),
}


@pytest.mark.parametrize('who', WARNINGS)
def test_a_warning_to_torchrun_saves_and_the_same_command_goes_on(who, run, alone):
    nodes, processes, when = WARNINGS[who]
    codes, outputs = finish(
        torchrun(run, here / 'support' / 'warned_at.py', when, nodes=nodes, processes=processes)
    )
    assert all(codes), (codes, outputs)
    saved = [p.name for p in (run / 'students' / 'nst+crd' / 'checkpoints').iterdir()]
    assert len(saved) == 1 and 'step-00000005' <= saved[0] < 'step-00000010', (saved, outputs)
    assert not (run / 'students' / 'nst+crd' / 'model.safetensors').exists()
    if who == 'one agent earlier':
        assert finish(torchrun(run, nodes=nodes, processes=processes))[0] == [0] * nodes
    else:
        together(2, *CLI[1:], 'student', *TEN, '--out', run)
    assert [
        json.loads(line)['step']
        for line in (run / 'students' / 'nst+crd' / 'log.jsonl').read_text(encoding='utf-8').splitlines()
        if 'terms' in line
    ] == list(range(1, 11))
    agree(student(run), alone, 'torchrun')
