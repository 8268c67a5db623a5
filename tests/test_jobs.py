"Units made once, whoever asks; locks, and disks without them; processes that end with the one that began them."

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.trainings import ENV, python, start

from vidlankd_nb import jobs
from vidlankd_nb.files import UserError
from vidlankd_nb.jobs import Job, Runner, Unit, changed, held, lock_folder, make_unit, record_of, take_lock


def wait_for(path, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f'{path} did not come to be'
        time.sleep(0.01)


# --- locks

HOLD = """
import sys, time
from pathlib import Path
from vidlankd_nb.jobs import lock_folder
lock = lock_folder(Path(sys.argv[1]))
Path(sys.argv[1], 'held').touch()
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    p = start('-c', HOLD, tmp_path)
    wait_for(tmp_path / 'held')
    with pytest.raises(UserError, match='in use by another process'):
        lock_folder(tmp_path)
    p.kill()
    p.join()
    lock_folder(tmp_path).release()


def test_one_waits_for_the_other(tmp_path):
    lock, said = tmp_path / '.lock', []
    mine = take_lock(lock, 'taken')

    def second():
        with held(lock, waiting=lambda: said.append('waiting')):
            said.append('mine')

    t = threading.Thread(target=second)
    t.start()
    while not said:
        time.sleep(0.01)
    time.sleep(0.2)
    assert said == ['waiting']
    mine.release()
    t.join()
    assert said == ['waiting', 'mine']


@pytest.mark.skipif(os.name == 'nt', reason='locks of Windows are not made of flock')
@pytest.mark.parametrize('answer', [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_without_locks_is_told_of_once(answer, tmp_path, monkeypatch, capfd, recwarn):
    import fcntl

    def flock(fd, how):
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, 'flock', flock)
    for _ in range(2):
        with held(tmp_path / '.lock'), pytest.raises(UserError, match='not now'):
            take_lock(tmp_path / '.lock', 'not now')
    said = capfd.readouterr().err
    assert said.count('on a disk without file locks') == 1 and len(said.strip().splitlines()) == 1
    assert not [w for w in recwarn if 'SoftFileLock' in str(w.message)]
    assert not list(tmp_path.glob('.lock.soft'))


def test_another_error_of_the_disk_is_not_hidden(tmp_path, monkeypatch):
    import fcntl

    def flock(fd, how):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.raises(OSError, match='Input/output error'):
        take_lock(tmp_path / '.lock', 'taken')


# --- units

MAKE = """
import sys, time
from pathlib import Path
from vidlankd_nb.jobs import Unit, make_unit
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
def make():
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'first.txt').write_text('one')
    time.sleep(seconds)
    (folder/'second.txt').write_text('two')
print(make_unit(Unit('corpus', folder, 'key', make), say=print)['made'])
"""


def test_a_killed_unit_is_made_again(tmp_path):
    unit = tmp_path / 'store' / 'corpus-key'
    p = start('-c', MAKE, unit, 60)
    wait_for(unit / 'first.txt')
    p.kill()
    p.join()
    assert not record_of(unit).exists()
    assert python('-c', MAKE, unit, 0).stdout.split('\n')[:2] == ['corpus …', 'True']
    assert python('-c', MAKE, unit, 0).stdout.strip() == 'False'
    assert set(json.loads(record_of(unit).read_text(encoding='utf-8'))['files']) == {
        'first.txt',
        'second.txt',
    }


def test_two_processes_make_a_unit_once(tmp_path):
    unit = tmp_path / 'store' / 'corpus-key'
    said = [[str(tmp_path / f'{n}{k}') for n in ('out', 'err')] for k in range(2)]
    both = [start('-c', MAKE, unit, 1, said=s) for s in said]
    for p in both:
        p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    texts = sorted(open(out, encoding='utf-8').read() for out, _ in said)
    assert texts == ['corpus …\nTrue\n', 'waiting for corpus, which another process makes\nFalse\n']


def test_what_changed_after_it_was_made_is_named(tmp_path):
    folder = tmp_path / 'corpus-key'

    def make():
        folder.mkdir()
        (folder / 'a.txt').write_text('a', encoding='utf-8')
        (folder / '.hidden').write_text('h', encoding='utf-8')
        (folder / 'checkpoints').mkdir()

    unit = Unit('corpus', folder, 'key', make)
    assert make_unit(unit, lambda text: None)['made'] and not (folder / 'checkpoints').exists()
    os.utime(folder / 'a.txt', (1, 1))
    assert changed(folder) is None
    (folder / 'a.txt').write_text('b', encoding='utf-8')
    said = r"a\.txt changed after it was made.*--again to make 'corpus'"
    with pytest.raises(UserError, match=said):
        make_unit(unit)
    (folder / 'a.txt').unlink()
    assert changed(folder) == 'a.txt'


def test_a_unit_that_fails_has_no_record_and_its_lock_is_free(tmp_path):
    def make():
        raise UserError('no videos')

    unit = Unit('features', tmp_path / 'features-key', 'key', make)
    for _ in range(2):
        with pytest.raises(UserError, match='no videos'):
            make_unit(unit, lambda text: None)
    assert not record_of(unit.folder).exists()


# --- a list that several processes walk through

WALK = """
import sys, time
from pathlib import Path
from vidlankd_nb.files import UserError
from vidlankd_nb.jobs import Unit, make_all
out, seconds = Path(sys.argv[1]), float(sys.argv[2])
def unit(name):
    def make():
        with open(out/name/'begun', 'a') as f: f.write('x')
        time.sleep(seconds)
        if name == 'bad': raise UserError('it diverged')
        (out/name/'done').touch()
    return Unit(name, out/name, name, make)
make_all([unit(n) for n in ('a', 'bad', 'b', 'c')], lambda u: not (u.folder/'done').exists())
"""


def test_two_processes_walk_through_a_list_and_make_each_unit_once(tmp_path):
    both = [start('-c', WALK, tmp_path, 0.3) for _ in range(2)]
    for p in both:
        p.join(60)
    assert [p.exitcode for p in both] == [0, 0]
    assert {p.parent.name: p.read_text(encoding='utf-8') for p in tmp_path.glob('*/begun')} == dict.fromkeys(
        ('a', 'bad', 'b', 'c'), 'x'
    )
    assert sorted(p.parent.name for p in tmp_path.glob('*/done')) == ['a', 'b', 'c']
    record = json.loads((tmp_path / 'bad' / 'failed.json').read_text(encoding='utf-8'))
    assert (record['unit'], record['status'], record['words']) == ('bad', 'failed', 'it diverged')


def test_what_a_killed_holder_left_is_made_by_the_one_that_waits(tmp_path):
    first = start('-c', WALK, tmp_path, 60)
    wait_for(tmp_path / 'a' / 'begun')
    second = start('-c', WALK, tmp_path, 0)
    for name in ('b', 'c'):
        wait_for(tmp_path / name / 'done')  # it passes by what is held
    time.sleep(0.3)
    assert second.is_alive() and not (tmp_path / 'a' / 'done').exists()
    first.kill()
    first.join()
    second.join(60)
    assert (
        second.exitcode == 0
        and (tmp_path / 'a' / 'done').exists()
        and (tmp_path / 'a' / 'begun').read_text(encoding='utf-8') == 'xx'
    )


def test_a_failure_stays_with_its_unit_and_other_errors_are_ours(tmp_path):
    asked = []

    def unit(name, make):
        return jobs.Unit(name, tmp_path / name, name, make)

    def bad():
        asked.append(1)
        raise UserError('no rows')

    def broken():
        raise ZeroDivisionError

    walk = [unit('bad', bad), unit('broken', broken)]
    with pytest.raises(ZeroDivisionError):
        jobs.make_all(walk, lambda u: True)
    assert jobs.failures(walk) == {walk[0]: 'no rows'} and asked == [1]
    for u in walk:
        take_lock(u.folder / '.lock', 'is free again').release()
    jobs.failure_of(walk[0].folder).unlink()
    jobs.make_all(walk[:1], lambda u: True)
    assert asked == [1, 1]  # tried once more, and not twice in one walk


# --- jobs


def job(key, code, **more):
    return Job(key, [sys.executable, '-c', code], **more)


def run(jobs, workers=2, **more):
    lines, ends = [], {}

    def said(j, line):
        lines.append((j.key, line))

    def ended(j, code, last):
        ends[j.key] = (code, last)

    Runner(jobs, workers, said, ended, **more).run()
    return lines, ends


def test_codes_and_last_lines():
    said, ended = run(
        [
            job('fine', 'print("one"); print("two")'),
            job('silent', ''),
            job('broken', 'print("oh"); raise SystemExit(3)'),
            job('killed', 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'),
        ]
    )
    assert ended == {
        'fine': (0, 'two'),
        'silent': (0, 'no output'),
        'broken': (3, 'oh'),
        'killed': (-signal.SIGKILL, 'no output'),
    }
    assert [line for k, line in said if k == 'fine'] == ['one\n', 'two\n']
    assert jobs.ended_by(*ended['killed']) == 'its process was ended by signal 9; last: no output'


def test_words_variables_and_gpus():
    show = (
        'import os, sys; word = sys.stdin.readline().strip(); '
        'print(word, os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"])'
    )
    _, ended = run([job('a', show, words='hello\n', env={'OMP_NUM_THREADS': '1'})], gpus=['3', '5'])
    assert ended == {'a': (0, 'hello 1 3')}


def test_what_ended_raises_stops_the_others(tmp_path):
    def ended(j, code, last):
        raise UserError(f'{j.key} failed')

    on = str(tmp_path / 'on')
    slow = job('slow', f'import time; open({on!r}, "w").close(); time.sleep(60)')
    bad = job('bad', f'import os, time\nwhile not os.path.exists({on!r}): time.sleep(.01)')
    runner = Runner([slow, bad, job('never', '')], 2, lambda j, line: None, ended)
    began = time.monotonic()
    with pytest.raises(UserError, match='bad failed'):
        runner.run()
    assert sorted(p.wait(20) for p in runner.children) == [-signal.SIGTERM, 0]
    assert time.monotonic() - began < 30


STOPPED = """
import sys
from vidlankd_nb.jobs import Job, Runner
code = 'import os, sys, time; open(sys.argv[1] + str(os.getpid()), "w").close(); time.sleep(60)'
Runner([Job(k, [sys.executable, '-c', code, sys.argv[1]]) for k in range(3)], 2, print, print).run()
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_jobs_and_then_us(number, tmp_path):
    p = subprocess.Popen(
        [sys.executable, '-c', STOPPED, str(tmp_path / 'job-')],
        env=ENV,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # ignored where a shell put us into the background
    until = time.monotonic() + 60
    while len(list(tmp_path.glob('job-*'))) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    children = [int(f.name[4:]) for f in tmp_path.glob('job-*')]
    p.send_signal(number)
    assert p.wait(20) == -number
    for child in children:
        while alive(child):
            assert time.monotonic() < until, 'a job outlived us'
            time.sleep(0.01)
    assert len(list(tmp_path.glob('job-*'))) == 2  # the third was never begun


def alive(pid):
    try:
        return open(f'/proc/{pid}/stat', encoding='utf-8').read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_job_sees_that_we_were_killed(tmp_path):
    "Its standard input ends."
    until_input_ends = 'os.read(0, 1); open(sys.argv[1] + "end", "w").close()'
    code = STOPPED.replace('time.sleep(60)', until_input_ends).replace('range(3)', 'range(1)')
    p = subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'job-')], env=ENV)
    until = time.monotonic() + 60
    while not list(tmp_path.glob('job-*')):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not (tmp_path / 'job-end').exists()
    p.kill()
    p.wait()
    wait_for(tmp_path / 'job-end')


DEAF = """
import os, pathlib, sys
os.close(0)
pathlib.Path(sys.argv[1]).touch()
print('no')
sys.stdout.flush()
os._exit(3)
"""


def test_a_process_that_dies_before_it_reads_is_an_exit_code(tmp_path, monkeypatch):
    write, deaf = jobs._write, tmp_path / 'deaf'

    def late(stream, words):
        wait_for(deaf)
        write(stream, words)

    monkeypatch.setattr(jobs, '_write', late)
    ends = []
    job = Job('a', [sys.executable, '-c', DEAF, str(deaf)], words='words that nobody reads')
    Runner([job], 1, lambda *_: None, lambda *end: ends.append(end)).run()
    assert ends == [(job, 3, 'no')]
