"""Workers of a pool: who leaves when the process that started them is killed."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

WORKS = """
import sys, time
from vidlankd_nb.pools import run_parts
if __name__ == '__main__':
    run_parts([(float(sys.argv[1]),)] * 2, 2, time.sleep)
"""


def started(folder, seconds):
    "A process with two workers that are at work, and all that it started."
    (folder / 'works.py').write_text(WORKS, encoding='utf-8')
    p = subprocess.Popen([sys.executable, folder / 'works.py', str(seconds)], cwd=folder)
    until = time.monotonic() + 60
    family = []
    while time.monotonic() < until and p.poll() is None:
        family = psutil.Process(p.pid).children(recursive=True)
        if sum('multiprocessing' in ' '.join(q.cmdline()) for q in family) >= 4:
            break  # the one that keeps count of resources, the server, two workers
        time.sleep(0.05)
    return p, family


@pytest.mark.skipif(sys.platform != 'linux', reason='workers are forks of a server on Linux alone')
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_nobody_is_left_when_the_process_that_started_them_is_killed(tmp_path, how):
    p, family = started(tmp_path, 3600)
    assert len(family) >= 4, 'no workers came to be'
    p.send_signal(how)
    p.wait()
    gone, left = psutil.wait_procs(family, timeout=20)
    for q in left:
        q.kill()
    assert not left, [q.cmdline() for q in left]


def test_workers_end_by_themselves_when_the_work_is_done(tmp_path):
    p, family = started(tmp_path, 0.2)
    assert p.wait(60) == 0
    gone, left = psutil.wait_procs(family, timeout=20)
    assert not left
