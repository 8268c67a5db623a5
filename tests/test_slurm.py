"The SLURM scripts, played through with stand-ins for srun, scontrol and python: a warning is passed on, and the job goes back into the queue."

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

scripts = Path(__file__).parent.parent / 'scripts'
TRAINING = f"""#!{sys.executable}
import os, signal, sys, time
folder = os.environ['FOLDER']
def leave(*_): time.sleep(.3); open(folder + '/saved', 'w').close(); sys.exit(75)
signal.signal(signal.SIGUSR1, leave)
open(folder + '/words', 'w').write(' '.join(sys.argv[1:]))
os.rename(folder + '/words', folder + '/started')
for _ in range(int(os.environ['TENTHS'])): time.sleep(.1)
sys.exit(int(os.environ['CODE']))
"""
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo "$3-first"; else echo "$*" >> "$FOLDER/queue"; fi\n'
JOB = {
    'SLURM_JOB_ID': '7',
    'SLURM_JOB_NODELIST': 'nodes',
    'SLURM_NNODES': '2',
    'SLURM_GPUS_ON_NODE': '8',
    'SLURM_ARRAY_JOB_ID': '7',
    'SLURM_ARRAY_TASK_ID': '3',
}


def submit(script, folder, tenths, code=0):
    (folder / 'bin').mkdir()
    for name, text in (('srun', TRAINING), ('python', TRAINING), ('scontrol', SCONTROL)):
        (folder / 'bin' / name).write_text(text, encoding='utf-8')
        (folder / 'bin' / name).chmod(0o755)
    env = (
        os.environ
        | JOB
        | {
            'PATH': f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            'FOLDER': str(folder),
            'TENTHS': str(tenths),
            'CODE': str(code),
        }
    )
    words = ASKED.get(script, ['student', '--config', 'base'])
    return subprocess.Popen(['bash', str(scripts / f'{script}.slurm'), *words], env=env)


ASKED = {'features': ['my videos', 'parts', '--backbone', 'clip']}
WORDS = {
    'train': 'torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint nodes-first:20007 --rdzv-id 7 -m vidlankd_nb.cli student --config base',
    'ablate': '-m vidlankd_nb.cli ablate student --config base --cell 3',
    'features': '-m vidlankd_nb.cli features my videos --out parts/part-3 --shard slurm --backbone clip',
}


@pytest.mark.parametrize('script', WORDS)
def test_a_warned_job_saves_and_is_queued_again(script, tmp_path):
    job = submit(script, tmp_path, 300)
    until = time.monotonic() + 30
    while not (tmp_path / 'started').exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 75 and (tmp_path / 'saved').exists()
    assert (tmp_path / 'started').read_text(encoding='utf-8') == WORDS[script]
    assert (tmp_path / 'queue').read_text(
        encoding='utf-8'
    ) == f"requeue {'7' if script == 'train' else '7_3'}\n"


@pytest.mark.parametrize('script', WORDS)
@pytest.mark.parametrize('code', [0, 2])
def test_a_job_that_ends_by_itself_stays_out_of_the_queue(script, code, tmp_path):
    assert submit(script, tmp_path, 0, code).wait(30) == code
    assert not (tmp_path / 'queue').exists()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    "sbatch, with everything it needs; the jobs lie in the folder that is returned."
    stand_in = (Path(__file__).parent / 'support' / 'slurm.py').read_text(encoding='utf-8')
    (tmp_path / 'bin').mkdir()
    for name in ('sbatch', 'srun', 'scontrol', 'torchrun', 'python'):
        (tmp_path / 'bin' / name).write_text(f'#!{sys.executable}\n{stand_in}', encoding='utf-8')
        (tmp_path / 'bin' / name).chmod(0o755)
    monkeypatch.setenv('PATH', f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv('STAND_IN_QUEUE', str(tmp_path / 'queue'))
    monkeypatch.setenv('LEAVES_WITH', '75')
    for name in [n for n in os.environ if n.startswith(('SLURM_', 'SRUN_'))]:
        monkeypatch.delenv(name)
    return tmp_path


def sbatch(cluster, *words):
    subprocess.run([shutil.which('sbatch'), *map(str, words)], check=True, cwd=cluster, timeout=60)
    return {f.name: f.read_text(encoding='utf-8') for f in sorted(cluster.glob('task-*'))}


def test_a_training_on_two_nodes_has_its_cores_a_port_of_its_own_and_goes_on(cluster, monkeypatch):
    with socket.create_server(('127.0.0.1', 20041)):  # another job's
        tasks = sbatch(cluster, '--nodes', 2, scripts / 'train.slurm', 'student', '--config', 'my base')
    words = '48 --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node1:20042 --rdzv-id 41 -m vidlankd_nb.cli student --config my base'
    assert tasks == {f'task-41-{node}-start-{start}': words for node in (0, 1) for start in (0, 1)}
    log = (cluster / 'slurm-41.log').read_text(encoding='utf-8')
    assert 'start 1: 2 nodes meet at node1:20042' in log and 'start 2: ' in log
    assert 'since GLOO_SOCKET_IFNAME is not set' in log
    monkeypatch.setenv('GLOO_SOCKET_IFNAME', 'ib0')
    monkeypatch.setenv('NEVER_WARNED', '1')
    sbatch(cluster, scripts / 'train.slurm', 'student')
    assert 'network: ib0' in (cluster / 'slurm-41.log').read_text(encoding='utf-8')


@pytest.mark.parametrize('code, starts', [(1, 2), (75, 2), (0, 1), (2, 1)])
def test_what_is_queued_again_after_a_warning(cluster, monkeypatch, code, starts):
    "torchrun ends with 1 when it was warned; what finished in time, or never could, is not started again."
    monkeypatch.setenv('LEAVES_WITH', str(code))
    assert len(sbatch(cluster, scripts / 'train.slurm', 'student')) == starts


@pytest.mark.parametrize('code, starts', [(1, 1), (75, 9)])
def test_exit_code_75_alone_queues_a_job_that_was_not_warned(cluster, monkeypatch, code, starts):
    monkeypatch.setenv('NEVER_WARNED', '1')
    monkeypatch.setenv('ENDS_WITH', str(code))
    assert len(sbatch(cluster, scripts / 'train.slurm', 'student')) == starts


def test_a_training_as_a_job_array(cluster):
    tasks = sbatch(
        cluster, '--array', '3,5', scripts / 'train.slurm', 'run', '--seed', '%a', '--out', 'runs/base-%a'
    )
    ends = {name: words.split('vidlankd_nb.cli ')[1] for name, words in tasks.items()}
    assert ends == {
        f'task-{job}-0-start-{start}': f'run --seed {task} --out runs/base-{task}'
        for job, task in ((41, 3), (42, 5))
        for start in (0, 1)
    }


def test_a_grid_as_a_job_array(cluster):
    tasks = sbatch(cluster, '--array', '0-1', scripts / 'ablate.slurm', '--config', 'tiny')
    assert list(tasks.values()) == [
        f'- -m vidlankd_nb.cli ablate --config tiny --cell {k}' for k in (0, 0, 1, 1)
    ]
    assert (cluster / 'slurm-41-1.log').exists()


def test_single_parts_are_repeated_by_their_number(tmp_path, monkeypatch):
    monkeypatch.setenv('SHARDS', '16')
    assert submit('features', tmp_path, 0).wait(30) == 0
    assert '--out parts/part-3 --shard 3/16 ' in (tmp_path / 'started').read_text(encoding='utf-8')
