"How long several worlds took in all."

import json
import sys

import pytest

from vidlankd_nb import worlds
from vidlankd_nb.jobs import Job
from vidlankd_nb.locks import Taken, lock_folder
from vidlankd_nb.presets import load_run


@pytest.mark.parametrize('earlier, stages, least', [(100, 30, 100), (None, 500, 500), (None, None, 0)])
def test_the_time_in_all_is_that_of_every_command_so_far(tmp_path, monkeypatch, earlier, stages, least):
    "What earlier commands took is in clock.json; a world's stages took no less in folders that have none."
    told = []
    monkeypatch.setattr(
        worlds, 'world_job', lambda run, out, seed, redo: Job(seed, [sys.executable, '-c', ''])
    )
    monkeypatch.setattr(worlds, 'make_report', lambda folders, out, names, seconds: told.append(seconds))
    if earlier is not None:
        (tmp_path / 'clock.json').write_text(json.dumps({'seconds': earlier}), encoding='utf-8')
    if stages is not None:
        (tmp_path / 'seed-0' / 'stages').mkdir(parents=True)
        for name, share in (('teacher', 0.4), ('student', 0.6)):
            file = tmp_path / 'seed-0' / 'stages' / f'{name}.json'
            file.write_text(json.dumps({'seconds': stages * share}), encoding='utf-8')
    worlds.run_worlds(load_run('quick'), tmp_path, [0], show=False)
    assert least <= told[0] < least + 60
    worlds.run_worlds(load_run('quick'), tmp_path, [0], show=False)
    assert told[0] <= told[1] < least + 60


def test_a_second_command_leaves_the_settings_of_running_worlds_alone(tmp_path):
    held = lock_folder(tmp_path)
    (tmp_path / 'seed-0.yaml').write_text('what the first command wrote', encoding='utf-8')
    with pytest.raises(Taken, match='in use by another process'):
        worlds.run_worlds(load_run('quick'), tmp_path, [0, 1], show=False)
    held.release()
    assert (tmp_path / 'seed-0.yaml').read_text(encoding='utf-8') == 'what the first command wrote'
    assert not (tmp_path / 'seed-1.yaml').exists() and not (tmp_path / 'clock.json').exists()
