"""Run every notebook as `nbdev-test` does, two side by side, each in a process of its own.

Processes begin as forks of one that has imported what most pages import (warm.py). Pages that train many models
begin, so that both places are busy to the end.
"""

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb

LONG = ('tutorials', 'course')  # folders of pages that train many models


def run(page: Path, config: dict, answer) -> None:
    "In a process of its own: send whether a page ran, and how long it took."
    answer.send(test_nb(page, **config))


def in_a_process(page: Path, config: dict, context) -> tuple[bool, float]:
    "Did a page run, and how long did it take? A process that is killed is a page that failed."
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(page, config, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return False, 0.0
    finally:
        process.join()


def main() -> None:
    settings = get_config()
    pages = sorted(nbglob(as_path=True), key=lambda p: (p.parent.name not in LONG, p))
    config = {
        'basepath': settings.config_path,
        'skip_flags': settings.tst_flags.split(),
        'cell_timeout': settings.cell_timeout,
    }
    folder = tempfile.mkdtemp()  # of what pages write
    os.environ['TMPDIR'] = folder
    context = get_context('forkserver')
    context.set_forkserver_preload(['scripts.warm'])
    try:
        with ThreadPoolExecutor(2) as places:
            found = list(places.map(partial(in_a_process, config=config, context=context), pages))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = [str(page) for page, (passed, _) in zip(pages, found, strict=True) if not passed]
    if failed:
        sys.exit(f'failed, each with its traceback above, or killed: {", ".join(failed)}')
    print(f'all {len(pages)} pages ran; these took longest:')
    seconds = {page.name: time for page, (_, time) in zip(pages, found, strict=True)}
    for name in sorted(seconds, key=seconds.get, reverse=True)[:10]:
        print(f'{name}: {seconds[name]:.0f} s')


if __name__ == '__main__':
    main()
