"Several commands, machines and nodes on one folder of videos: nothing is lost, nothing is there twice, and the store is that of one process."

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.pictures import picture

from vidlankd_nb import extraction as E
from vidlankd_nb import machines as M
from vidlankd_nb import store as S
from vidlankd_nb.cli import main
from vidlankd_nb.config import Features, Pairs
from vidlankd_nb.decoding import Decoder
from vidlankd_nb.features import Pixels
from vidlankd_nb.files import NamedFiles, UserError
from vidlankd_nb.filming import write_video
from vidlankd_nb.named_pictures import open_pictures
from vidlankd_nb.pairs import PairSet, make_pairs
from vidlankd_nb.video import video_file


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    "Twelve short films of lengths that fill no batch, one of them cut, one in a folder of its own, and two files that are none."
    folder = tmp_path_factory.mktemp('machines') / 'videos'
    (folder / 'more').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(12):
        frames = rng.integers(0, 255, (5 + k, 32, 32, 3), np.uint8)
        write_video(folder / ('more' if k == 7 else '') / f'film{k}.mp4', frames, fps=10, gop=5)
    frames = np.stack([picture(k) for k in range(40)])
    write_video(folder / 'long.mkv', frames, fps=10, gop=10)
    whole = (folder / 'long.mkv').read_bytes()
    (folder / 'long.mkv').write_bytes(whole[: len(whole) // 2])
    (folder / 'notes.txt').write_text('no video', encoding='utf-8')
    (folder / 'empty.mp4').touch()
    return folder


@pytest.fixture(scope='module')
def alone(videos):
    "What one process makes of them."
    out = videos.parent / 'alone'
    E.extract_folder(videos, out, Features(batch=8), progress=False)
    return out


def extract(videos, out, **more):
    return E.extract_folder(videos, out, Features(batch=8), progress=False, **more)


def stored(folder):
    "Every file of a store but the report, which has times."
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != 'report.json'}


def facts(folder):
    "The report, without times."
    report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    return {k: v for k, v in report.items() if 'second' not in k}


# -- two commands with one folder


HOLD = """
import sys, time
from pathlib import Path
from vidlankd_nb import extraction as E
real = E._Filling.fill
def slow(self, *a, **k): Path(sys.argv[3]).touch(); time.sleep(60); return real(self, *a, **k)
E._Filling.fill = slow
E.extract_folder(sys.argv[1], sys.argv[2], progress=False)
"""


def test_a_second_command_says_who_fills_the_store(videos, alone, tmp_path):
    first = subprocess.Popen([sys.executable, '-c', HOLD, videos, tmp_path / 'out', tmp_path / 'held'])
    until = time.monotonic() + 60
    while not (tmp_path / 'held').exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    with pytest.raises(UserError) as e:
        extract(videos, tmp_path / 'out')
    said = str(e.value)
    assert f'is in use by another process ({first.pid} on ' in said and '--shard 1/2' in said
    first.send_signal(signal.SIGKILL)
    first.wait()
    extract(videos, tmp_path / 'out')  # a lock dies with its process
    assert stored(tmp_path / 'out') == stored(alone) and facts(tmp_path / 'out') == facts(alone)


def test_a_lock_in_the_folder_of_videos_is_no_file_of_it(videos, tmp_path):
    for _ in range(2):
        r = extract(videos, videos / 'inside')
    assert [x['file'] for x in r['skipped']] == ['empty.mp4', 'notes.txt']
    for left in videos.glob('.inside.filling.lock*'):
        left.unlink()
    shutil.rmtree(videos / 'inside')


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='root may write everywhere')
def test_where_nothing_can_be_written_beside_the_store_the_lock_lies_in_it(videos, tmp_path):
    (tmp_path / 'mount' / 'out').mkdir(parents=True)
    (tmp_path / 'mount').chmod(0o555)
    assert extract(videos, tmp_path / 'mount' / 'out')['done']


# -- parts


def test_parts_are_a_split_that_no_order_changes():
    names = [f'id{k}' for k in range(1000)]
    parts = [{n for n in names if M.Part(k, 7).has(n)} for k in range(1, 8)]
    assert set().union(*parts) == set(names) and sum(map(len, parts)) == 1000
    assert min(map(len, parts)) > 100  # 143 on average, binomial with a spread of 11
    digest = hashlib.blake2b(b'id3', digest_size=8).digest()
    by_hand = (int.from_bytes(digest, 'big') >> 1) % 7 + 1
    assert M.Part(by_hand, 7).has('id3')


@pytest.mark.parametrize(
    'task, part',
    [((5, 5, 4, 1), '1/4'), ((8, 5, 4, 1), '4/4'), ((0, 0, 3, 1), '1/3'), ((6, 2, 3, 2), '3/3')],
)
def test_a_slurm_task_knows_its_part(task, part, monkeypatch):
    for name, value in zip(('ID', 'MIN', 'COUNT', 'STEP'), task, strict=True):
        monkeypatch.setenv(f'SLURM_ARRAY_TASK_{name}', str(value))
    assert str(M.part_named('slurm')) == part


def test_a_slurm_task_without_a_place_is_refused(monkeypatch):
    with pytest.raises(UserError, match='SLURM_ARRAY_TASK_ID is not set'):
        M.part_named('slurm')
    for name, value in (('ID', 9), ('MIN', 1), ('COUNT', 3)):  # sbatch --array 1,5,9
        monkeypatch.setenv(f'SLURM_ARRAY_TASK_{name}', str(value))
    with pytest.raises(UserError, match='task 9 has no place among 3 tasks'):
        M.part_named('slurm')


@pytest.fixture(scope='module')
def parts(videos):
    "The same in three parts, one of them interrupted and begun again."
    folders = []
    for k in (1, 2, 3):
        out = videos.parent / 'parts' / f'part-{k}'
        extract(videos, out, part=M.Part(k, 3))
        folders.append(out)
    return folders


def test_merged_parts_are_the_store_of_one_process(videos, alone, parts, tmp_path):
    M.merge_stores(reversed(parts), tmp_path / 'a')
    M.merge_stores([parts[0].parent], tmp_path / 'b')  # a folder of stores
    for out in (tmp_path / 'a', tmp_path / 'b'):
        assert stored(out) == stored(alone) and facts(out) == facts(alone)
    assert facts(alone)['partial'] and len(facts(alone)['skipped']) == 2
    M.merge_stores(parts, tmp_path / 'a')  # made already: nothing changes
    assert stored(tmp_path / 'a') == stored(alone)
    assert extract(videos, tmp_path / 'a')['frames'] == 0  # and goes on as if it had been one


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Ten pictures of two kinds and of several sizes, one of them cut."
    folder = tmp_path_factory.mktemp('pictures') / 'shop'
    rng = np.random.default_rng(0)
    for k in range(10):
        file = folder / ('fox' if k % 3 else 'polar_bear') / f'{k}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + k, 40 - k, 3), np.uint8)).save(file)
    (folder / 'fox' / 'cut.png').write_bytes((folder / 'fox' / '1.png').read_bytes()[:200])
    return folder


SHOWN = ['--pictures', '--backbone', 'colours', '--motion', 'zoom', '--batch', '8', '--workers', '0']


@pytest.fixture(scope='module')
def filmed(pictures):
    "What one process makes of the pictures."
    out = pictures.parent / 'filmed'
    cfg = Features(batch=8, backbone='colours', motion='zoom')
    E.extract_folder(open_pictures(pictures, cfg), out, cfg, progress=False)
    return out


def test_parts_of_pictures_are_merged_to_the_store_of_one_process(pictures, filmed, tmp_path):
    for k in (1, 2):
        main(['features', str(pictures), *SHOWN, '--shard', f'{k}/2', '--out', str(tmp_path / f'part-{k}')])
    main(['merge', str(tmp_path / 'part-1'), str(tmp_path / 'part-2'), '--out', str(tmp_path / 'whole')])
    assert stored(tmp_path / 'whole') == stored(filmed)
    both, one = facts(tmp_path / 'whole'), facts(filmed)
    assert {k: both[k] for k in one} == one and len(one['done']) == 10 and len(one['skipped']) == 1
    captions = [(tmp_path / f'part-{k}' / 'caption.json').read_bytes() for k in (1, 2)]
    assert captions[0] == captions[1] and len(json.loads(captions[0])) == 11


def test_parts_of_a_folder_smaller_than_their_number(videos, tmp_path):
    one = tmp_path / 'v'
    one.mkdir()
    (one / 'film0.mp4').write_bytes((videos / 'film0.mp4').read_bytes())
    for k in range(1, 4):
        extract(one, tmp_path / f'p{k}', part=M.Part(k, 3))
    M.merge_stores([tmp_path / f'p{k}' for k in range(1, 4)], tmp_path / 'out')
    assert S.FeatureStore(tmp_path / 'out').ids == ['film0']


def test_captions_choose_among_the_videos_of_a_part(videos, tmp_path):
    captions = {f'film{k}': dict(start=[0], end=[0.4], text=['x']) for k in (1, 2, 3, 7)}
    captions['ghost'] = captions['film1']
    for k in (1, 2):
        extract(videos, tmp_path / f'p{k}', part=M.Part(k, 2), captions=captions)
    whole = extract(videos, tmp_path / 'whole', captions=captions)
    M.merge_stores([tmp_path / 'p1', tmp_path / 'p2'], tmp_path / 'out')
    assert facts(tmp_path / 'out') == {k: v for k, v in whole.items() if 'second' not in k}
    assert whole['no_video'] == ['ghost'] and len(whole['done']) == 4


def refused(stores, out, match):
    with pytest.raises(UserError, match=match):
        M.merge_stores(stores, out)


def test_what_would_be_wrong_in_silence_is_refused(videos, alone, parts, tmp_path):
    out = tmp_path / 'out'
    refused(parts[:1] + parts[2:], out, r'1 of 3 parts are missing: 2/3\..*--shard 2/3')
    refused([parts[0], parts[0]], out, 'are one store: name it once')
    refused([*parts, alone], out, "Two stores have features of one video: 'film.*, and 10 more")
    E.extract_folder(videos, tmp_path / 'fast', Features(fps=2), progress=False, part=M.Part(2, 3))
    refused([parts[0], tmp_path / 'fast', parts[2]], out, 'fps is None in the first, 2')
    extract(videos, tmp_path / 'half', part=M.Part(2, 2))
    refused([*parts, tmp_path / 'half'], out, 'parts of one split make one store')
    refused([videos], out, 'holds no features')
    refused(parts, parts[0], 'is one of the stores that are merged')
    assert not out.exists()
    M.merge_stores([alone], out)
    refused([tmp_path / 'half', tmp_path / 'half2'], out, 'holds no features')


def test_a_part_that_was_killed_is_not_finished(videos, parts, tmp_path):
    "Its report is written last; without, videos would be missing that nobody misses."
    shutil.copytree(parts[1], tmp_path / 'part')
    (tmp_path / 'part' / 'report.json').unlink()
    refused([parts[0], tmp_path / 'part', parts[2]], tmp_path / 'out', 'has not ended')


def test_a_shard_of_another_number_is_refused(videos, parts):
    with pytest.raises(UserError, match="shard is '1/3' there, '2/3' now"):
        extract(videos, parts[0], part=M.Part(2, 3))


def test_an_interrupted_merge_is_repeated(alone, parts, tmp_path, monkeypatch):
    "Killed after each shard in turn; shards are small, so that there are many."
    init = S.StoreWriter.__init__
    monkeypatch.setattr(
        S.StoreWriter, '__init__', lambda self, *a, **k: init(self, *a, **k | {'shard_bytes': 20_000})
    )
    M.merge_stores(parts, tmp_path / 'whole')
    n = len(S.shards(tmp_path / 'whole'))
    assert n > 3
    flush = S.StoreWriter.flush
    for at in range(n):
        left = [at]

        def dying(self, left=left):
            if self.rows and not left[0]:
                raise KeyboardInterrupt
            left[0] -= bool(self.rows)
            flush(self)

        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(S.StoreWriter, 'flush', dying)
            M.merge_stores(parts, tmp_path / f'out{at}')
        with pytest.raises(UserError, match='holds no features'):
            S.FeatureStore(tmp_path / f'out{at}')
        M.merge_stores(parts, tmp_path / f'out{at}')
        assert stored(tmp_path / f'out{at}') == stored(tmp_path / 'whole')
    (tmp_path / 'out2' / 'store.json').unlink()
    (tmp_path / 'out2' / 'features-00000.arrow').unlink()
    refused(parts, tmp_path / 'out2', 'holds other features')
    with pytest.raises(UserError, match='holds a merge that was not finished'):
        S.StoreWriter(tmp_path / 'out2', {'width': 384})


# -- an engine of somebody else


def backwards(files, decoder, backbone, cfg):
    "Whole videos, the last file first."
    from vidlankd_nb.decoding import computed

    for number in reversed(range(len(files))):
        yield from computed(decoder.pieces(number, files[number]), backbone, cfg.batch)


def test_what_arrives_in_another_order_becomes_the_same_store(videos, alone, tmp_path):
    extract(videos, tmp_path / 'out', engine=backwards)
    assert stored(tmp_path / 'out') == stored(alone) and facts(tmp_path / 'out') == facts(alone)


@pytest.mark.parametrize('after', [2, 6, 14])
def test_what_has_arrived_is_kept_when_the_engine_fails(after, videos, alone, tmp_path):
    def failing(*args):
        for n, item in enumerate(backwards(*args)):
            if n == after:
                raise UserError('the cluster is gone')
            yield item

    writer = S.StoreWriter
    with pytest.raises(UserError, match='cluster is gone'), pytest.MonkeyPatch.context() as m:
        m.setattr(E, 'StoreWriter', lambda *a, **k: writer(*a, **{'seconds': 0, **k}))
        extract(videos, tmp_path / 'out', engine=failing)
    assert not (tmp_path / 'out' / 'report.json').exists()
    have = len(S.stored_files(tmp_path / 'out' / 'arrived'))
    assert have and not S.shards(tmp_path / 'out')
    read = []

    def counted(files, *rest):
        read.extend(files)
        yield from backwards(files, *rest)

    extract(videos, tmp_path / 'out', engine=counted)
    assert len(read) == 15 - have  # 13 films, 2 files that are none
    a, b = S.FeatureStore(tmp_path / 'out'), S.FeatureStore(alone)
    assert a.ids == b.ids and all(np.array_equal(a[i].values, b[i].values) for i in b.ids)
    assert (
        not (tmp_path / 'out' / 'arrived').exists()
        and facts(tmp_path / 'out')['done'] == facts(alone)['done']
    )
    M.merge_stores([tmp_path / 'out'], tmp_path / 'canonical')
    assert stored(tmp_path / 'canonical') == stored(alone)


# -- Ray


def test_without_ray_a_sentence_says_what_to_install(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(UserError, match=r"pip install 'vidlankd_nb\[ray\]'"):
        extract(videos, tmp_path / 'out', engine=M.engine_named('ray'))
    with pytest.raises(UserError, match="Unknown --engine 'rai': did you mean 'ray'"):
        M.engine_named('rai')


NODES = """
import os, sys, time
os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
import ray
from ray.cluster_utils import Cluster
from vidlankd_nb import machines as M
from vidlankd_nb.config import Features
from vidlankd_nb.extraction import extract_folder
from vidlankd_nb.named_pictures import open_pictures
room = dict(object_store_memory=80 << 20)
watch = dict(health_check_period_ms=1000, health_check_initial_delay_ms=1000)   # a lost node is noticed in five seconds
head = dict(num_cpus=1, include_dashboard=False, _system_config=watch, **room)
cluster = Cluster(initialize_head=True, head_node_args=head)
lost = cluster.add_node(num_cpus=1, **room)
ray.init(address=cluster.address, log_to_driver=False, logging_level='ERROR')
assert len(ray.nodes()) == 2
def engine(*args):
    for n, item in enumerate(M.decoded_by_ray(*args)):
        if n == 2: cluster.remove_node(lost, allow_graceful=False)
        yield item
extract_folder(sys.argv[1], sys.argv[2], Features(batch=8), progress=False, engine=engine)
shown = Features(batch=8, backbone='colours', motion='zoom')
extract_folder(open_pictures(sys.argv[3], shown), sys.argv[4], shown, progress=False, engine=M.decoded_by_ray)
def alive(): return sum(node['Alive'] for node in ray.nodes())
until = time.monotonic() + 60
while alive() > 1 and time.monotonic() < until: time.sleep(.2)   # a quick job ends before the loss is noticed
print('alive:', alive(), 'node')
sys.stdout.flush()
ray.shutdown()
cluster.shutdown()
"""


def test_a_ray_cluster_that_loses_a_node_makes_the_store_of_one_process(
    videos, alone, pictures, filmed, tmp_path
):
    "Videos while a node is lost, then pictures on what is left."
    pytest.importorskip('ray.data', reason='Ray has no release for this version of Python')
    r = subprocess.run(
        [sys.executable, '-c', NODES, videos, tmp_path / 'out', pictures, tmp_path / 'shown'],
        capture_output=True,
        timeout=240,
        encoding='utf-8',
    )
    assert r.returncode == 0, r.stderr[-3000:]
    assert 'alive: 1 node' in r.stdout
    assert stored(tmp_path / 'out') == stored(alone) and facts(tmp_path / 'out') == facts(alone)
    assert stored(tmp_path / 'shown') == stored(filmed) and facts(tmp_path / 'shown') == facts(filmed)


def test_a_node_that_does_not_see_the_videos_is_named(tmp_path):
    pixels = Pixels()
    decoder = Decoder(None, 1, pixels.size, None, 'AREA', 8, folder=tmp_path / 'absent')
    batch = pa.table(dict(file=[0], path=[os.fsencode(tmp_path / 'absent' / 'a.mp4')]))
    with pytest.raises(UserError, match=r'The node \S+ sees no folder .*absent'):
        list(M._decode(batch, decoder))


# -- small shared memory


FORBIDDEN = """
import sys
import torch.multiprocessing.reductions as R
def refuse(*a, **k): raise RuntimeError('a tensor goes through shared memory')
R.reduce_tensor = R.reduce_storage = refuse
from multiprocessing.reduction import ForkingPickler
import torch
ForkingPickler.register(torch.Tensor, refuse)
from vidlankd_nb.config import Features
from vidlankd_nb.extraction import extract_folder
extract_folder(sys.argv[1], sys.argv[2], Features(batch=8, workers=2), progress=False, strict=False)
"""


def test_workers_hand_no_tensor_through_shared_memory(videos, alone, tmp_path):
    subprocess.run([sys.executable, '-c', FORBIDDEN, videos, tmp_path / 'out'], check=True, timeout=120)
    a, b = S.FeatureStore(tmp_path / 'out'), S.FeatureStore(alone)
    assert a.ids == b.ids and all(np.array_equal(a[i].values, b[i].values) for i in b.ids)


def test_workers_that_cannot_begin_are_a_sentence(videos, tmp_path, monkeypatch):
    import torch

    def full(*a, **k):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch.utils.data.DataLoader, '__iter__', full)
    with pytest.raises(
        UserError, match='2 decoding processes cannot be started .*No space left.*features.workers'
    ):
        E.extract_folder(videos, tmp_path / 'out', Features(workers=2), progress=False)


# -- reading


def test_a_shard_says_that_its_numbers_were_looked_at(tmp_path, monkeypatch):
    "What was found finite when it was written is not read again; what was not, is."
    for name, bad in (('good', 1.0), ('bad', np.nan)):
        w = S.StoreWriter(tmp_path / name, dict(width=2))
        w.add('a', 'a.mp4', np.array([[1.0, 2.0], [bad, 2.0], [3.0, 4.0]]), 1.0)
        w.flush()
    assert S.FeatureStore(tmp_path / 'good')['a'].finite and not S.FeatureStore(tmp_path / 'bad')['a'].finite
    captions = {'a': dict(start=[0, 1], end=[1, 2], text=['one', 'two'])}
    report = make_pairs(tmp_path / 'bad', captions, Pairs(valid_share=0), tmp_path / 'p')[2]
    assert report['skipped_counts'] == {'features that are not finite': 1}
    report = make_pairs(tmp_path / 'bad', captions, Pairs(valid_share=0, check_finite=False), tmp_path / 'p')[
        2
    ]
    assert report['pairs']['train'] == 2
    monkeypatch.setattr('vidlankd_nb.pairs.is_finite', lambda x: pytest.fail('read again'))
    make_pairs(tmp_path / 'good', captions, Pairs(valid_share=0), tmp_path / 'p')
    S.remove_videos(tmp_path / 'good', {'nobody'})


def test_shards_held_open_are_a_setting(tmp_path):
    w = S.StoreWriter(tmp_path / 'f', dict(width=2), shard_bytes=1)
    for k in range(9):
        w.add(f'v{k}', f'v{k}.mp4', np.ones((4, 2)), 1.0)
    captions = {f'v{k}': dict(start=[0], end=[2], text=['x']) for k in range(9)}
    train = make_pairs(tmp_path / 'f', captions, Pairs(valid_share=0, open_shards=3), tmp_path / 'p')[0]
    again = PairSet.load(tmp_path / 'p', 'train')
    for pairs in (train, again):
        for i in range(len(pairs)):
            pairs[i]
        assert pairs.store.opened == 3 and len(pairs.store.maps) == 3


def test_a_video_is_looked_up_in_a_list_that_is_made_once(tmp_path, monkeypatch):
    for k in range(3):
        (tmp_path / f'v{k}.mp4').touch()
    listed = []
    real = NamedFiles.list_files
    monkeypatch.setattr(NamedFiles, 'list_files', lambda self: (listed.append(1), real(self)))
    old = time.time() - 60
    os.utime(tmp_path, (old, old))
    for _ in range(5):
        assert video_file(tmp_path, 'v1') == tmp_path / 'v1.mp4'
    assert video_file(tmp_path, 'absent') is None and len(listed) == 1
    (tmp_path / 'absent.mp4').touch()  # the folder has changed
    assert video_file(tmp_path, 'absent') == tmp_path / 'absent.mp4'
    (tmp_path / 'v1.mp4').unlink()
    assert video_file(tmp_path, 'v1') is None


def test_the_command_line_splits_and_merges(videos, alone, tmp_path, capsys):
    from vidlankd_nb.cli import main

    for k in (1, 2):
        main(['features', str(videos), '--out', str(tmp_path / f'p{k}'), '--shard', f'{k}/2', '--batch', '8'])
    main(['merge', str(tmp_path / 'p1'), str(tmp_path / 'p2'), '--out', str(tmp_path / 'out')])
    assert '12 videos done, 1 in part, 2 skipped' in capsys.readouterr().out
    assert stored(tmp_path / 'out') == stored(alone)
    for words, part in (
        (['features', str(videos), '--out', str(tmp_path / 'x'), '--shard', '3/2'], 'There is no part 3/2'),
        (['features', str(videos), '--out', str(tmp_path / 'x'), '--engine', 'rai'], "did you mean 'ray'"),
        (['merge', str(tmp_path / 'p1'), '--out', str(tmp_path / 'y')], '1 of 2 parts are missing: 2/2'),
    ):
        with pytest.raises(SystemExit) as e:
            main(words)
        assert e.value.code == 2 and part in capsys.readouterr().err
    assert not Path(tmp_path / 'x').exists() and not Path(tmp_path / 'y').exists()
