"The SLURM scripts, played through with stand-ins for srun, scontrol and python: a warning is passed on, and the job goes back into the queue."

import os
import signal
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
        (folder / 'bin' / name).write_text(text)
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
    'train': 'torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint nodes-first:29500 --rdzv-id 7 -m vidlankd_nb.cli student --config base',
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
    assert (tmp_path / 'started').read_text() == WORDS[script]
    assert (tmp_path / 'queue').read_text() == f"requeue {'7' if script == 'train' else '7_3'}\n"


@pytest.mark.parametrize('script', WORDS)
@pytest.mark.parametrize('code', [0, 2])
def test_a_job_that_ends_by_itself_stays_out_of_the_queue(script, code, tmp_path):
    assert submit(script, tmp_path, 0, code).wait(30) == code
    assert not (tmp_path / 'queue').exists()


def test_single_parts_are_repeated_by_their_number(tmp_path, monkeypatch):
    monkeypatch.setenv('SHARDS', '16')
    assert submit('features', tmp_path, 0).wait(30) == 0
    assert '--out parts/part-3 --shard 3/16 ' in (tmp_path / 'started').read_text()
