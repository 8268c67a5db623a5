"""Commands and small runs for the tests of training."""
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

here = Path(__file__).parent
ENV = os.environ | {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
CLI = [sys.executable, '-m', 'vidlankd_nb.cli']
# a small corpus and a teacher of four steps: what the trainings of students begin with
SMALL = ['--config', 'quick', '--world.sentences', '100', '--corpus.valid_share', '0.14', '--controls', '{}', '--teacher.steps', '4', '--teacher.log_every', '2', '--teacher.save_every', '2']
STAGES = ('world', 'features', 'pairs', 'corpus', 'teacher')


def call(*args, code=0, env=ENV, **kwargs):
    "Run a command that must end with `code`."
    out = subprocess.run(list(map(str, args)), capture_output=True, text=True, env=env, timeout=300, **kwargs)
    assert out.returncode == code, (out.returncode, out.stdout[-1500:], out.stderr[-3000:])
    return out


def refused(*args):
    "The one sentence of a command that must end with code 2."
    said = call(*args, code=2).stderr
    assert 'Traceback' not in said and len(lines := [x for x in said.splitlines() if x.startswith('vidlankd: ')]) == 1, said
    return lines[0]


def yaml_of(words):
    from vidlankd_nb.config import parse_run, to_yaml
    return to_yaml(parse_run(list(map(str, words)))[0])


def copy_of(prepared, folder, words):
    "A copy of a prepared run whose students are those of `words`: the stages before do not depend on them."
    shutil.copytree(prepared, folder)
    (folder/'config.yaml').write_text(yaml_of(words))
    assert {p.stem for p in (folder/'stages').iterdir()} <= set(STAGES)
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def launch(processes, *program):
    "The words that start a command in several processes of this machine."
    program = program or ('-m', 'vidlankd_nb.cli')
    return [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', processes, '--master-port', free_port(), *program] if processes > 1 else [sys.executable, *program]


def weights(folder, file='model.safetensors'):
    "All weights of a model, or of a checkpoint's file, in one row."
    return torch.cat([v.double().flatten() for _, v in sorted(load_file(folder/file).items())])


def agree(a, b, what, bound=2e-5):
    "Largest and mean deviation between two trainings: shown by `pytest -rP`, bounded here."
    apart = (a - b).abs()
    said = f'{what}: largest deviation {apart.max():.1e}, mean {apart.mean():.1e}'
    print(said)
    assert apart.max() < bound, said


def log(folder):
    "A training's log without its times."
    return [{k: v for k, v in json.loads(line).items() if k != 'speed'} for line in (folder/'log.jsonl').read_text().splitlines()]
