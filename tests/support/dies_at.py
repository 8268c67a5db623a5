"""Run `vidlankd ARGS…` and die by SIGKILL at the n-th call of a function: python dies_at.py package.module:function n ARGS…"""

import importlib
import os
import signal
import sys

where, n, *args = sys.argv[1:]
module, name = where.split(':')
owner = importlib.import_module(module)
*path, name = name.split('.')
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, name), 0


def counted(*a, **kw):
    global calls
    calls += 1
    if calls == int(n):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **kw)


setattr(owner, name, counted)
from vidlankd_nb.cli import main

main(args)
