"""Commands and small runs for the tests of training."""

import json
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

here = Path(__file__).parent.parent  # the tests
os.environ |= {
    'OMP_NUM_THREADS': '1',
    'HF_HUB_OFFLINE': '1',
}  # more threads than free cores wait for each other
ENV = dict(os.environ)
CLI = [sys.executable, '-m', 'vidlankd_nb.cli']
# a small corpus and a teacher of four steps: what the trainings of students begin with
SMALL = [
    '--config',
    'quick',
    '--world.sentences',
    '100',
    '--corpus.valid_share',
    '0.18',
    '--controls',
    '{}',
    '--teacher.steps',
    '4',
    '--teacher.log_every',
    '2',
    '--teacher.save_every',
    '2',
]
STAGES = ('world', 'features', 'pairs', 'corpus', 'teacher')


# A Python that has imported everything and done nothing; each command is a fork of it, a process of its own that starts at once.
warm = multiprocessing.get_context('forkserver')
warm.set_forkserver_preload(
    [
        'vidlankd_nb.cli',
        'vidlankd_nb.experiments',
        'vidlankd_nb.ablation',
        'vidlankd_nb.report',
        'vidlankd_nb.vocabulary',
        'vidlankd_nb.evaluation.grid',
        'accelerate',
        'datasets',
        'matplotlib.pyplot',
        'transformers.models.bert.modeling_bert',
        'transformers.models.auto.modeling_auto',
        'transformers.models.auto.tokenization_auto',
    ]
)


def _program(words, said, env, cwd):
    for fd, file in zip((1, 2), said, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    os.environ.clear()
    os.environ.update(env)
    if cwd:
        os.chdir(cwd)
    if words[:2] == ['-m', 'vidlankd_nb.cli']:
        from vidlankd_nb.cli import main

        sys.argv = ['vidlankd', *words[2:]]
        main()
    elif words[0] == '-c':
        sys.argv = ['-c', *words[2:]]
        exec(compile(words[1], '<words>', 'exec'), {'__name__': '__main__'})
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name='__main__')


def start(*words, said=(os.devnull, os.devnull), env=ENV, cwd=None):
    "A Python program in a process that is warm already: the words after `python`."
    p = warm.Process(target=_program, args=(list(map(str, words)), said, dict(env), cwd))
    p.start()
    return p


def python(*words, timeout=300, **kwargs):
    "The same, to its end: `returncode`, `stdout`, `stderr`."
    with tempfile.TemporaryDirectory() as d:
        said = [os.path.join(d, n) for n in ('out', 'err')]
        for f in said:
            open(f, 'w', encoding='utf-8').close()
        p = start(*words, said=said, **kwargs)
        p.join(timeout)
        if p.exitcode is None:
            p.kill()
            p.join()
            raise subprocess.TimeoutExpired(words, timeout)
        return SimpleNamespace(
            returncode=p.exitcode,
            **dict(zip(('stdout', 'stderr'), (open(f, encoding='utf-8').read() for f in said), strict=True)),
        )


def call(*args, code=0, env=ENV, cwd=None, **kwargs):
    "Run a command that must end with `code`."
    args = list(map(str, args))
    if (
        args[0] == sys.executable
        and (args[1] == '-c' or args[1].endswith('.py') or args[1:3] == CLI[1:])
        and not kwargs
    ):
        out = python(*args[1:], env=env, cwd=cwd)
    else:
        out = subprocess.run(
            args, capture_output=True, encoding='utf-8', env=env, cwd=cwd, timeout=300, **kwargs
        )
    assert out.returncode == code, (out.returncode, out.stdout[-1500:], out.stderr[-3000:])
    return out


def refused(*args):
    "The one sentence of a command that must end with code 2."
    said = call(*args, code=2).stderr
    assert (
        'Traceback' not in said
        and len(lines := [x for x in said.splitlines() if x.startswith('vidlankd: ')]) == 1
    ), said
    return lines[0]


def yaml_of(words):
    from vidlankd_nb.presets import parse_run, to_yaml

    return to_yaml(parse_run(list(map(str, words)))[0])


def copy_of(prepared, folder, words):
    "A copy of a prepared run whose students are those of `words`: the stages before do not depend on them."
    shutil.copytree(prepared, folder)
    (folder / 'config.yaml').write_text(yaml_of(words), encoding='utf-8')
    assert {p.stem for p in (folder / 'stages').iterdir()} <= set(STAGES)
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def together(n, *words, code=0):
    "A program in `n` processes of one group: what each said of its errors. test_cluster.py has people's launchers, slow to start."
    port, last = free_port(), []
    with tempfile.TemporaryDirectory() as d:
        said = [(f'{d}/{r}-out', f'{d}/{r}-err') for r in range(n)]
        group = [
            start(
                *words,
                said=said[r],
                env=ENV
                | {
                    k: str(v)
                    for k, v in {
                        'RANK': r,
                        'LOCAL_RANK': r,
                        'WORLD_SIZE': n,
                        'LOCAL_WORLD_SIZE': n,
                        'MASTER_ADDR': '127.0.0.1',
                        'MASTER_PORT': port,
                    }.items()
                },
            )
            for r in range(n)
        ]
        for p in group:
            p.join(300)
        last = [Path(e).read_text(encoding='utf-8')[-2000:] if Path(e).exists() else '' for _, e in said]
        for p in group:
            p.kill()
    assert [p.exitcode for p in group] == [code] * n, ([p.exitcode for p in group], last)
    return last


def weights(folder, file='model.safetensors'):
    "All weights of a model, or of a checkpoint's file, in one row."
    return torch.cat([v.double().flatten() for _, v in sorted(load_file(folder / file).items())])


def agree(a, b, what, bound=2e-5):
    "Largest and mean deviation between two trainings: shown by `pytest -rP`, bounded here."
    apart = (a - b).abs()
    said = f'{what}: largest deviation {apart.max():.1e}, mean {apart.mean():.1e}'
    print(said)
    assert apart.max() < bound, said


def log(folder):
    "A training's log without its times."
    return [
        {k: v for k, v in json.loads(line).items() if k != 'speed'}
        for line in (folder / 'log.jsonl').read_text(encoding='utf-8').splitlines()
    ]
