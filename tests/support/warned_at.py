"""Run `vidlankd ARGS…` with slow steps, and at a step of this process's own send SIGUSR1 to its parent, the torchrun agent: python warned_at.py RANK:STEP[,RANK:STEP] ARGS…"""

import os
import signal
import sys
import time

import vidlankd_nb.training as training

when, *args = sys.argv[1:]
steps = {int(rank): int(step) for rank, step in (w.split(':') for w in when.split(','))}
step = training.optimizer_step


def warned(*a):
    if steps.get(int(os.environ['RANK'])) == a[-1]:
        os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(0.2)  # a step in which a signal arrives
    return step(*a)


training.optimizer_step = warned
from vidlankd_nb.cli import main

main(args)
