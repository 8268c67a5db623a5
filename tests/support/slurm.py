"""Stand-ins for `sbatch`, `srun` and `scontrol` that behave as their manuals say, on one machine and without waiting.

What is kept of the manuals: sbatch reads `#SBATCH` lines, which options on its command line override; tasks of an array have
numbers of their own; a warning by `--signal=B:` reaches the script alone; `scontrol requeue` starts the script again, with
SLURM_RESTART_COUNT one higher. srun starts a process on each node; since 22.05 it takes the number of cores from
SRUN_CPUS_PER_TASK or its own option, and from nothing that sbatch was told; it passes signals on, and ends with the highest
exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

QUEUE = 'STAND_IN_QUEUE'  # file that collects what is put back into the queue


def options_of(words):
    "Options of sbatch by name, and what stands behind them."
    found, rest = {}, list(words)
    while rest and rest[0].startswith('--'):
        name, equals, value = rest.pop(0)[2:].partition('=')
        takes_value = name not in {'requeue'}
        found[name] = value if equals else rest.pop(0) if takes_value else ''
    return found, rest


def numbers(array):
    "The numbers of an array: '0-2' or '3,7', with or without '%8'."
    found = []
    for part in array.split('%')[0].split(','):
        first, _, last = part.partition('-')
        found += range(int(first), int(last or first) + 1)
    return found


def sbatch(words):
    given, (script, *args) = options_of(words)
    lines = re.findall(r'^#SBATCH (.+)$', Path(script).read_text(encoding='utf-8'), re.M)
    options = options_of(lines)[0] | given
    folder = Path(os.environ[QUEUE]).parent
    tasks = numbers(options['array']) if 'array' in options else [None]
    for at, task in enumerate(tasks):
        job = 41 + at
        env = {
            'SLURM_JOB_ID': str(job),
            'SLURM_NNODES': options['nodes'],
            'SLURM_JOB_NODELIST': f"node[1-{options['nodes']}]",
            'SLURM_CPUS_PER_TASK': options['cpus-per-task'],
            'SLURM_GPUS_ON_NODE': options['gpus-per-node'],
        }
        if task is not None:
            env |= {'SLURM_ARRAY_JOB_ID': '41', 'SLURM_ARRAY_TASK_ID': str(task)}
        name = options['output'].replace('%j', str(job)).replace('%A', '41').replace('%a', str(task))
        for start in range(9):
            if start:
                env['SLURM_RESTART_COUNT'] = str(start)
            with open(folder / name, 'a', encoding='utf-8') as log:
                shell = subprocess.Popen(
                    ['bash', script, *args], env=os.environ | env, cwd=folder, stdout=log, stderr=log
                )
                warn(shell, options, folder, start)
                shell.wait()
            queued = Path(os.environ[QUEUE])
            back = queued.read_text(encoding='utf-8').split() if queued.exists() else []
            queued.unlink(missing_ok=True)
            if not back:
                break
            assert back == ['requeue', str(job)] or back == ['requeue', f'41_{task}'], back


def warn(shell, options, folder, start):
    "Send the script its warning, once all tasks say that they are warm; only in the first life of a job."
    assert options['signal'].startswith('B:USR1@')
    until = time.monotonic() + 20
    while start == 0 and shell.poll() is None and time.monotonic() < until:
        if len(list(folder.glob('warm-*'))) == int(options['nodes']):
            for file in folder.glob('warm-*'):
                file.unlink()
            shell.send_signal(signal.SIGUSR1)
            return
        time.sleep(0.01)


def srun(words):
    nodes = int(os.environ['SLURM_NNODES'])
    cores = os.environ.get('SRUN_CPUS_PER_TASK', '1')
    steps = []
    for node in range(nodes):
        more = {'SLURM_NODEID': str(node), 'SLURM_PROCID': str(node), 'STAND_IN_CORES': cores}
        steps.append(subprocess.Popen(words, env=os.environ | more))
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: [step.send_signal(number) for step in steps])
    sys.exit(max(step.wait() for step in steps))


def scontrol(words):
    if words[0] == 'show':
        first, last = re.fullmatch(r'node\[(\d+)-(\d+)\]', words[2]).groups()
        print('\n'.join(f'node{k}' for k in range(int(first), int(last) + 1)))
    else:
        Path(os.environ[QUEUE]).write_text(' '.join(words), encoding='utf-8')


def program(words):
    "What is trained: warned in its first life, it says what it was given, saves, and leaves with the exit code of `LEAVES_WITH`."
    folder = Path(os.environ[QUEUE]).parent
    me = f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_NODEID', 0)}"
    start = int(os.environ.get('SLURM_RESTART_COUNT', 0))
    said = [os.environ.get('STAND_IN_CORES', '-'), *words]
    (folder / f'task-{me}-start-{start}').write_text(' '.join(said), encoding='utf-8')
    if start or 'NEVER_WARNED' in os.environ:
        sys.exit(int(os.environ.get('ENDS_WITH', 0)))
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(int(os.environ['LEAVES_WITH'])))
    (folder / f'warm-{me}').touch()
    time.sleep(20)


if __name__ == '__main__':
    called = Path(sys.argv[0]).name
    {'sbatch': sbatch, 'srun': srun, 'scontrol': scontrol}.get(called, program)(sys.argv[1:])
