"""What clusters do to the engine: stale disks, damaged checkpoints, full disks, signals, other ways to start workers."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from support.trainings import CLI, ENV, SMALL, call, copy_of, refused, together
from torch.utils._python_dispatch import TorchDispatchMode

from vidlankd_nb.checkpoints import Checkpoints
from vidlankd_nb.files import UserError, whole_file, write_aside


def two(folder, *steps, score=None):
    "Checkpoints of a tiny model at these steps."
    checkpoints = Checkpoints(folder, keep=2)
    for step in steps:
        weights = {'w': torch.full((3,), float(step))}
        checkpoints.save(step, weights, {}, {'identity': {}, 'score': score})
    return checkpoints


def flip(file):
    "Change one byte of a file."
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# --- one choice for all processes

CHOOSES = """
import sys
import tracemalloc
import torch.distributed as dist
from vidlankd_nb import checkpoints
checkpoints.PATIENCE = 1
dist.init_process_group('gloo')
seen = checkpoints.Checkpoints(sys.argv[1] + str(dist.get_rank()))
try:
    print('goes on from', checkpoints.agreed_step(seen))
except checkpoints.UserError as e:
    sys.exit('vidlankd: ' + str(e))
"""


def test_a_process_that_sees_an_older_disk_stops_all(tmp_path):
    two(tmp_path / 'view-0', 4, 8)
    two(tmp_path / 'view-1', 4)
    said = together(2, '-c', CHOOSES, tmp_path / 'view-', code=1)
    assert all('as seen by process 1' in words for words in said)
    two(tmp_path / 'view-1', 8)
    together(2, '-c', CHOOSES, tmp_path / 'view-')


def test_the_first_process_chooses_where_another_sees_more(tmp_path):
    "The first one is behind: all go on from what it has, if they have it too."
    two(tmp_path / 'view-0', 4)
    two(tmp_path / 'view-1', 4, 8)
    together(2, '-c', CHOOSES, tmp_path / 'view-')
    flip(tmp_path / 'view-1' / 'step-00000004' / 'weights.safetensors')
    together(2, '-c', CHOOSES, tmp_path / 'view-', code=1)


DIFFERENT = """
import sys
import torch.distributed as dist
from vidlankd_nb.checkpoints import UserError, check_same_work
dist.init_process_group('gloo')
told = sys.argv[1:]
try:
    check_same_work(told[dist.get_rank()], {'key': told[2 + dist.get_rank()]})
    print('the same')
except UserError as e:
    sys.exit('vidlankd: ' + str(e))
"""


@pytest.mark.parametrize(
    ('told', 'code'), [(('l2', 'l2', 'a', 'a'), 0), (('l2', 'nst', 'a', 'a'), 1), (('l2', 'l2', 'a', 'b'), 1)]
)
def test_processes_do_not_train_different_students(told, code):
    "One sees the first student finished, the other does not: their gradients must not be added up."
    said = together(2, '-c', DIFFERENT, *told, code=code)
    assert all(('process 1 something else than process 0' in words) == (code == 1) for words in said)


# --- damaged checkpoints


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path):
    checkpoints = two(tmp_path, 2, 4, 6)
    checkpoints = two(tmp_path, 8)
    for step in (6, 8):
        flip(checkpoints.path(step) / 'weights.safetensors')
    two(tmp_path / 'whole', 4)
    os.replace(tmp_path / 'whole' / 'step-00000004', checkpoints.path(4))
    said = []
    _, _, state = checkpoints.load(said.append)
    assert state['step'] == 4 and len(said) == 4
    assert 'step-00000006 is damaged (weights.safetensors)' in said[2]
    two(tmp_path, 5)
    assert checkpoints.steps() == [4, 5]
    assert sorted(p.name for p in tmp_path.glob('damaged-*')) == [
        'damaged-step-00000006',
        'damaged-step-00000008',
    ]
    two(tmp_path, 6, 8)
    assert checkpoints.newest() == 8


def test_a_save_before_any_load_counts_whole_ones_only(tmp_path):
    checkpoints = two(tmp_path, 6, 8)
    for step in (6, 8):
        flip(checkpoints.path(step) / 'moments.safetensors')
    two(tmp_path, 3)
    two(tmp_path, 4)
    assert checkpoints.steps() == [3, 4]


@pytest.mark.parametrize('manifest', ['[]', 'null', '{}', '7', '[' * 100_000, '{"state.json": 0}'])
def test_a_manifest_that_names_nothing_is_damage(tmp_path, manifest):
    checkpoints = two(tmp_path, 1, 2)
    (checkpoints.path(2) / 'manifest.json').write_text(manifest, encoding='utf-8')
    (checkpoints.path(1) / 'state.json').write_text(manifest, encoding='utf-8')
    assert checkpoints.score(1) is None
    assert checkpoints.newest(lambda _: None) is None


# --- written whole, on the disk


def test_weights_get_their_name_when_all_is_on_the_disk(tmp_path, monkeypatch):
    from vidlankd_nb import experiments

    done = []

    def flush(path):
        done.append(('flush', path.name))

    def replace(source, target):
        done.append(('name', target.name))
        os.rename(source, target)

    def save(aside):
        aside.mkdir()
        for name in ('model.safetensors', 'tokenizer.json', 'config.json'):
            (aside / name).write_text(name, encoding='utf-8')

    monkeypatch.setattr(experiments, 'flush', flush)
    monkeypatch.setattr(experiments.os, 'replace', replace)
    out = tmp_path / 'out'
    out.mkdir()
    experiments.save_model(save, out)
    named = done.index(('name', 'model.safetensors'))
    for name in ('config.json', 'tokenizer.json', 'model.safetensors', 'out'):
        assert ('flush', name) in done[:named], done
    for name in ('config.json', 'tokenizer.json'):
        assert ('name', name) in done[: done.index(('flush', 'out'))]
    assert done[-1] == ('flush', 'out') and not (out / '.saving').exists()


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() != 0, reason='a small disk is mounted by root')
def test_a_disk_that_is_full_when_a_model_is_saved_is_a_sentence(prepared, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    from vidlankd_nb.experiments import save_model

    small = tmp_path / 'small'
    small.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=100k', 'tmpfs', small]).returncode:
        pytest.skip('nothing can be mounted here')
    try:
        model = AutoModel.from_pretrained(prepared / 'teachers' / 'video')
        tok = AutoTokenizer.from_pretrained(prepared / 'corpus' / 'tokenizer')
        for save in (model.save_pretrained, tok.save_pretrained):
            (small / 'fill').write_bytes(b'x' * (60_000 if save == model.save_pretrained else 90_000))
            with pytest.raises(
                UserError, match='The model could not be written to .*No space left.*Make room'
            ):
                save_model(save, small)
            assert [p.name for p in small.iterdir()] == ['fill']
    finally:
        subprocess.run(['umount', small], check=True)


def test_a_planted_link_is_not_followed_and_leftovers_are_cleared(tmp_path):
    "A writer is killed before the rename; the next one takes its file away, and those of living ones stay."
    other = tmp_path / 'other'
    other.write_text('mine', encoding='utf-8')
    (tmp_path / f'.a.json.{os.getpid()}').symlink_to(other)
    code = f"import os\nfrom vidlankd_nb import files\ndef die(path): os.kill(os.getpid(), 9)\nfiles.flush = die\nfiles.write_aside({str(tmp_path / 'a.json')!r}, 'torn')"
    call(sys.executable, '-c', code, code=-signal.SIGKILL)
    (left,) = tmp_path.glob('.a.json.*.part')
    with whole_file(tmp_path / 'a.json') as alive:
        assert not left.exists()
        write_aside(tmp_path / 'a.json', 'first')
        assert alive.exists()
        alive.write_text('second', encoding='utf-8')
    assert (tmp_path / 'a.json').read_text(encoding='utf-8') == 'second' and other.read_text(
        encoding='utf-8'
    ) == 'mine'
    assert list(tmp_path.glob('.a.json.*.part')) == []
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / 'a.json'):
        raise ZeroDivisionError
    assert (tmp_path / 'a.json').read_text(encoding='utf-8') == 'second' and list(
        tmp_path.glob('.a.json.*.part')
    ) == []


def test_what_a_killed_process_left_of_a_tokenizer_is_cleared(prepared, tmp_path):
    from vidlankd_nb.files import new_beside
    from vidlankd_nb.tokenizer import load_tokenizer, save_tokenizer

    alive = new_beside(tmp_path / 'tokenizer', is_folder=True)
    dead = alive.with_name(alive.name.replace(f'-{os.getpid()}-', '-999999999-'))
    dead.mkdir()
    (dead / 'tokenizer.json').write_text('torn', encoding='utf-8')
    save_tokenizer(load_tokenizer(prepared / 'corpus' / 'tokenizer'), tmp_path / 'tokenizer')
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, 'tokenizer'])


# --- a warning to every process

EIGHT = [
    *SMALL,
    '--student.steps',
    '8',
    '--student.log_every',
    '4',
    '--student.save_every',
    '20',
    '--student.workers',
    '2',
    '--students',
    '{l2: {objective: l2, weight: 5}}',
]
WARNED = """
import multiprocessing, os, signal, subprocess, sys, time
from vidlankd_nb import training
def main(method, name, words):
    multiprocessing.set_start_method(method, force=True)
    step = training.optimizer_step
    def warned(*a):
        if a[-1] == 3:
            # from another process, as a scheduler does: a worker leaves in peace when its own parent asks
            send = f'import os; os.killpg({os.getpgid(0)}, {int(getattr(signal, name))})'
            subprocess.run([sys.executable, '-S', '-c', send])
            time.sleep(.5)
        return step(*a)
    training.optimizer_step = warned
    from vidlankd_nb.cli import main
    main(words)
if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
"""


@pytest.mark.parametrize(
    'method, name', [('fork', 'SIGTERM'), ('fork', 'SIGUSR1'), ('forkserver', 'SIGTERM')]
)
def test_a_warning_to_the_whole_group_saves(method, name, prepared, tmp_path):
    "Workers that prepare batches are warned too, and hold out until the checkpoint is written."
    run = copy_of(prepared, tmp_path / 'run', EIGHT)
    (tmp_path / 'warned.py').write_text(WARNED, encoding='utf-8')
    words = [sys.executable, tmp_path / 'warned.py', method, name, 'student', *EIGHT, '--out', run]
    out = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        env=ENV,
        timeout=200,
        start_new_session=True,
        encoding='utf-8',
    )
    said = out.stdout + out.stderr
    assert out.returncode == 75 and 'killed' not in said and 'Traceback' not in said, said[-3000:]
    saved = [p.name for p in (run / 'students' / 'l2' / 'checkpoints').iterdir()]
    assert saved == ['step-00000004']


# --- names, and data that is larger than it looks

ODD = ['../../x', 'a/b', '..', '', '<b>bold</b>', 'a\\b', 'nul', '-x', 'a b']


@pytest.mark.parametrize('name', ODD)
def test_one_rule_for_names(name, tmp_path):
    from vidlankd_nb.config import Distillation, Run
    from vidlankd_nb.grids import make_cell
    from vidlankd_nb.presets import load_run

    for kind in ('students', 'controls'):
        with pytest.raises(UserError, match=f'A {kind[:-1]} cannot be called'):
            Run(**{kind: {name: Distillation()}})
        file = tmp_path / 'run.yaml'
        file.write_text(json.dumps({kind: {name: {'objective': 'none'}}}), encoding='utf-8')
        with pytest.raises(UserError, match=f'A {kind[:-1]} cannot be called'):
            load_run('quick', file)
    with pytest.raises(UserError, match='A cell cannot be called'):
        make_cell(name, 'table', {'objective': 'none'})


def test_a_name_on_the_command_line_is_refused_before_anything_is_written(tmp_path):
    words = ['world', '--config', 'quick', '--students', '{../../x: {objective: none}}']
    assert "'../../x'" in refused(*CLI, *words, '--out', tmp_path / 'run')
    assert list(tmp_path.iterdir()) == []


def bomb(key):
    "Nine names, each nine times the one before: 9⁹ values."
    lines = [f'{key}:', '  a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'  a{i}: &a{i} [' + ', '.join([f'*a{i - 1}'] * 9) + ']' for i in range(1, 9)]
    return '\n'.join(lines)


def test_yaml_that_explodes_is_refused_wherever_it_is_read(tmp_path):
    from vidlankd_nb.evaluation.results import read_published
    from vidlankd_nb.grids import read_grid
    from vidlankd_nb.presets import load_run, parse_run

    for text, said in (
        (bomb('students'), 'values once each repetition'),
        ('students: ' + '{a: ' * 100_000, 'nested too deeply'),
        ('students: &s {a: *s}', 'holds itself'),
    ):
        file = tmp_path / 'f.yaml'
        file.write_text(text, encoding='utf-8')
        for read in (load_run, read_grid, read_published):
            with pytest.raises(UserError, match=said):
                read(file)
    with pytest.raises(UserError, match='values once each repetition'):
        parse_run(['--students', '{' + bomb('x')[3:].replace('\n', ', ').replace(', ', '', 1).strip() + '}'])


@pytest.mark.parametrize('deep', ['[', '{"v": '])
def test_json_that_is_nested_deeply_is_named(deep, tmp_path):
    from vidlankd_nb.config import Corpus
    from vidlankd_nb.corpus import build_corpus
    from vidlankd_nb.layouts import open_captions

    deep = deep * 100_000
    for name, text in (
        ('a.json', deep),
        ('b.json', '{"v": {"start": ' + deep),
        ('c.jsonl', f'{deep}\n{deep}'),
    ):
        (tmp_path / name).write_text(text, encoding='utf-8')
        with pytest.raises(UserError, match=name):
            list(open_captions(tmp_path / name))
    (tmp_path / 'text.jsonl').write_text('{"text": "a ball"}\n' + deep, encoding='utf-8')
    with pytest.raises(UserError, match='text.jsonl at byte'):
        build_corpus([tmp_path / 'text.jsonl'], tmp_path / 'corpus', Corpus())


def test_the_id_of_a_video_does_not_leave_its_folder(tmp_path):
    from vidlankd_nb.store import NpyFolder

    for folder in ('in', 'out'):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / f'{folder}.npy', np.ones((2, 3), np.float32))
    store = NpyFolder(tmp_path / 'in')
    assert store['in'].values.shape == (2, 3)
    for video in ('../out/out', str(tmp_path / 'out' / 'out'), '..', ''):
        with pytest.raises(KeyError):
            store[video]


def test_what_reaches_a_page_is_escaped():
    from vidlankd_nb.cards import model_card
    from vidlankd_nb.evaluation.typeset import as_html, as_latex, as_markdown

    odd = 'a|b<img src=x>\nc'
    for page in (as_markdown(['model'], [[odd]], [odd]), as_html([['model'], [[odd]], [odd]])):
        assert '<img' not in page and '&lt;img' in page
    log = [{'step': 1, 'terms': {odd: 1.0}}]
    assert '<img' not in model_card(odd, odd, 'code', odd, {}, log)
    assert as_latex(['model'], [['a_b & c']], []).count(r'a\_b \& c') == 1


# --- links


def test_pairs_are_found_through_links(prepared, tmp_path, monkeypatch):
    "The output lies behind a link to a deeper folder, and the features are named relative to the current one."
    from vidlankd_nb.config import Pairs
    from vidlankd_nb.pairs import PairSet, make_pairs

    (tmp_path / 'disk' / 'deep').mkdir(parents=True)
    (tmp_path / 'out').symlink_to(tmp_path / 'disk' / 'deep')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'features').symlink_to(prepared / 'features')
    monkeypatch.chdir(tmp_path / 'work')
    captions = prepared / 'world' / 'caption.json'
    made, _, _ = make_pairs('features', captions, Pairs(), tmp_path / 'out' / 'pairs')
    for folder in (tmp_path / 'out' / 'pairs', tmp_path / 'disk' / 'deep' / 'pairs'):
        again = PairSet.load(folder, 'train')
        assert len(again) == len(made) and np.array_equal(again[0].values, made[0].values)


# --- twenty million examples, and workers that are started anew


def test_the_order_of_many_examples_is_computed_and_that_of_few_stays():
    from vidlankd_nb.schedule import LISTED, MicroBatches, epoch_order, step_examples

    generator = np.random.Generator(np.random.Philox(key=[3, 2], counter=[0, 0, 1, 0]))
    listed = generator.permutation(1000)
    assert (epoch_order(1000, 3, 2) == listed).all()
    rows, epoch = step_examples(1000, 64, 3, 2 * (1000 // 64) + 4)
    assert epoch == 2 and (rows == listed[256:320]).all()

    class Many:
        def __len__(self):
            return 20_000_000

    data = MicroBatches(Many(), batch=1000, accumulate=2, seed=3, rank=1, world_size=2)
    tracemalloc.start()
    found = [data.examples(k)[0] for epoch in range(5) for k in range(40_000 * epoch, 40_000 * epoch + 20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6, f'{peak / 1e6:.1f} MB'
    first = np.concatenate(found[:20])
    assert len(set(first.tolist())) == len(first) == 20 * 250 and first.max() < 20_000_000
    n = LISTED + 5
    whole = epoch_order(n, 1, 0)
    assert (np.sort(whole) == np.arange(n)).all()
    assert (step_examples(n, 512, 1, 7)[0] == whole[7 * 512 : 8 * 512]).all()


def batches_of(prepared):
    "Text and pairs, as a student's and a teacher's training reads them."
    from vidlankd_nb.batches import PairBatches
    from vidlankd_nb.config import Pairs
    from vidlankd_nb.corpus import Examples
    from vidlankd_nb.masking import TextBatches
    from vidlankd_nb.pairs import PairSet
    from vidlankd_nb.tokenizer import load_tokenizer

    tok = load_tokenizer(prepared / 'corpus' / 'tokenizer')
    text = TextBatches(Examples(prepared / 'corpus', 'train'), tok)
    cfg = Pairs(max_tokens=16, max_frames=16)
    pairs = PairBatches(PairSet.load(prepared / 'pairs', 'train'), tok, cfg, shuffled=True)
    return text, pairs


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_nothing_of_a_corpus_is_pickled(prepared):
    text, pairs = batches_of(prepared)
    words = len(pickle.dumps(text.masker)) + len(pickle.dumps(pairs.tokenizer))
    for data in (text, pairs):
        before = data.batch(np.arange(5), 1)
        packed = pickle.dumps(data)
        assert len(packed) < words + 5000, (len(packed), words)
        same(pickle.loads(packed).batch(np.arange(5), 1), before)
    assert pairs.pairs.ready['video'].nbytes > 10 * words  # what must not travel


def test_workers_that_are_spawned_read_the_same(prepared):
    from torch.utils.data import DataLoader

    from vidlankd_nb.schedule import MicroBatches

    _, pairs = batches_of(prepared)
    here = MicroBatches(pairs, batch=8)
    loader = DataLoader(
        here, batch_size=None, sampler=range(3), num_workers=1, multiprocessing_context='spawn'
    )
    for k, batch in enumerate(loader):
        same(batch, here[k])


# --- devices


class Reads(TorchDispatchMode):
    "What a device would be waited for: numbers that Python reads, and shapes that depend on values."

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        if any(word in str(f) for word in ('_local_scalar', 'nonzero', 'unique', 'masked_select')):
            self.found.append(str(f))
        return f(*args, **(kwargs or {}))


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    "Packed blocks and their tokenizer."
    from vidlankd_nb.config import Corpus
    from vidlankd_nb.corpus import Examples, build_corpus, train_tokenizer
    from vidlankd_nb.masking import TextBatches

    folder = tmp_path_factory.mktemp('packed')
    lines = [f'{a} {b} stood near the door\n' for a in 'abcdefghijkl' for b in 'mnopqrstuvw']
    (folder / 'text.txt').write_text(''.join(lines), encoding='utf-8')
    tok = train_tokenizer([folder / 'text.txt'], 300)
    build_corpus(
        [folder / 'text.txt'], folder / 'corpus', Corpus(block=12, packed=True, valid_share=0.3), tok
    )
    return (
        TextBatches(Examples(folder / 'corpus'), tok),
        TextBatches(Examples(folder / 'corpus', 'valid'), tok),
        tok,
    )


def student_of(tok, objective, n=None):
    from vidlankd_nb.config import Distillation, Encoder
    from vidlankd_nb.encoders import text_encoder
    from vidlankd_nb.student import StudentTask

    shape = Encoder(layers=1, width=32, heads=2)
    torch.manual_seed(0)
    return StudentTask(text_encoder(shape, tok), Distillation(objective), text_encoder(shape, tok), n).train()


def test_a_student_step_reads_nothing_from_the_device(packed):
    "Forward, backward and update of packed blocks; what objectives there are, all at once."
    from vidlankd_nb.config import Training
    from vidlankd_nb.devices import make_accelerator
    from vidlankd_nb.monitoring import Watch
    from vidlankd_nb.training import make_optimizer, optimizer_step

    data, _, tok = packed
    batch = data.batch(np.arange(8), 0) | {'draw': torch.tensor(5)}
    task = student_of(tok, 'l2+nst+infonce+ntxent+crd+crd_bank+soft_label', len(data))
    cfg = Training()
    acc = make_accelerator(cfg, 'cpu')
    optimizer = make_optimizer(task, cfg)
    watch = Watch(list(task.weights), lambda step: np.arange(8), 1e6)
    with Reads() as reads:
        optimizer_step(acc, task, task, optimizer, [batch], cfg, 1e-3, task.weights, watch, 0)
    assert reads.found == []
    assert set(watch.look()) == {*task.weights, 'gradient norm'}


def test_captions_with_padding_read_nothing_from_the_device(prepared):
    "A mask (B, L) would be read back in each forward pass; the wide one gives the same states."
    from vidlankd_nb.config import Encoder, Teacher
    from vidlankd_nb.encoders import states_of
    from vidlankd_nb.teacher import TeacherTask, make_teacher

    _, pairs = batches_of(prepared)
    batch = pairs.batch(np.arange(8), 0)
    real = batch['attention_mask']
    assert not real.all()
    cfg = Teacher(text=Encoder(layers=2, width=32, heads=2))
    task = TeacherTask(make_teacher(cfg, pairs.tokenizer, pairs.width, 16), cfg).eval()
    text = task.model.text
    with Reads() as reads:
        wide = states_of(text, batch['input_ids'], real)
        task(batch, dict.fromkeys(task.weights, torch.tensor(1.0)))
    assert reads.found == []
    text.reads_wide_masks = False
    with Reads() as reads:
        narrow = states_of(text, batch['input_ids'], real)
    assert reads.found != []
    assert torch.equal(wide[real.bool()], narrow[real.bool()])


def test_a_student_step_is_one_graph(packed):
    data, _, tok = packed
    batch = data.batch(np.arange(8), 0) | {'draw': torch.tensor(5)}
    task = student_of(tok, 'l2+crd')
    scale = dict.fromkeys(task.weights, torch.tensor(1.0))
    torch._dynamo.reset()
    whole = torch.compile(task, fullgraph=True, backend='eager')(batch, scale)
    task = student_of(tok, 'l2+crd')
    for name, loss in task(batch, scale).items():
        assert torch.allclose(whole[name], loss, atol=1e-5), name


def test_a_teacher_step_is_one_graph_and_words_cost_no_reading(prepared):
    "The contrast of words: each different word once, or each place for itself, is the same loss with the same gradient."
    from vidlankd_nb.config import Encoder, Teacher
    from vidlankd_nb.teacher import TeacherTask, different_words, make_teacher

    _, pairs = batches_of(prepared)
    batch = pairs.batch(np.arange(8), 0)
    cfg = Teacher(word_weight=1.0, text=Encoder(layers=1, width=32, heads=2))
    losses, slopes = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        task = TeacherTask(make_teacher(cfg, pairs.tokenizer, pairs.width, 16), cfg).train()
        torch._dynamo.reset()
        step = torch.compile(task, fullgraph=True, backend='eager') if compiled else task
        terms = step(batch, dict.fromkeys(task.weights, torch.tensor(1.0)))
        sum(terms.values()).backward()
        losses.append(terms)
        slopes.append({n: p.grad for n, p in task.named_parameters() if p.grad is not None})
    assert losses[0].keys() == {'mlm', 'contrast', 'words'} and slopes[0].keys() == slopes[1].keys()
    for a, b in ((losses[0], losses[1]), (slopes[0], slopes[1])):
        for name in a:
            assert torch.allclose(a[name], b[name], atol=1e-5, rtol=1e-4), name
    each, number = different_words(
        torch.zeros(2, 3, dtype=torch.int64, device='meta')
    )  # a device that cannot be read
    assert each.shape == (6,) and number.shape == (2, 3)


def test_teacher_and_student_of_one_run_may_differ_in_precision(packed, tmp_path, monkeypatch):
    "Held-out losses are computed as in training, and nothing is left changed."
    from vidlankd_nb import training
    from vidlankd_nb.config import Training
    from vidlankd_nb.devices import has_bf16

    data, valid, tok = packed
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    seen = []
    shared = training._shared_losses

    def looked(*a):
        seen.append(torch.is_autocast_enabled(device))
        return shared(*a)

    monkeypatch.setattr(training, '_shared_losses', looked)
    before = torch.backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision()
    for precision in ('fp32', 'bf16', 'auto'):
        cfg = Training(steps=1, batch=8, precision=precision, trackers=[])
        training.train(student_of(tok, 'none'), data, cfg, tmp_path / precision, valid=valid, show=False)
        halved = precision == 'bf16' or (precision == 'auto' and has_bf16())
        assert set(seen) == {halved}, precision
        seen.clear()
    assert before == (torch.backends.cuda.matmul.fp32_precision, torch.get_float32_matmul_precision())
    assert training.make_accelerator(Training()).ddp_handler.broadcast_buffers is False


def test_a_bank_that_does_not_fit_is_refused_with_the_way_out(packed, monkeypatch):
    "Two sides of 20 million examples, 128 float32 numbers each: 20.48 GB."
    from vidlankd_nb import contrast

    monkeypatch.setattr(contrast, 'device_memory', lambda: 80_000_000_000)
    contrast.check_bank(19_000_000, 128)
    with pytest.raises(
        UserError, match="takes 20.5 GB, more than 25% of the device's 80.0 GB: .*'crd'.*queue"
    ):
        student_of(packed[2], 'crd_bank', 20_000_000)


def test_a_launchers_plugin_is_a_sentence(prepared, tmp_path):
    run = copy_of(prepared, tmp_path / 'run', EIGHT)
    for name, value in (('USE_DEEPSPEED', 'true'), ('GRADIENT_ACCUMULATION_STEPS', '4')):
        env = ENV | {f'ACCELERATE_{name}': value}
        said = call(*CLI, 'student', *EIGHT, '--out', run, env=env, code=2).stderr
        assert "accelerate's configuration" in said and 'Traceback' not in said


@pytest.mark.skipif(os.name == 'nt', reason='locks of Windows are not made of flock')
def test_a_network_disk_that_answers_with_the_kernels_own_number(tmp_path, monkeypatch, capfd):
    import fcntl

    from vidlankd_nb.jobs import held

    def flock(fd, how):
        raise OSError(524, 'Unknown error 524')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with held(tmp_path / '.lock'):
        pass
    assert capfd.readouterr().err.count('on a disk without file locks') == 1
