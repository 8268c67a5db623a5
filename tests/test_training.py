"""What the training engine promises, through the real command line."""

import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.trainings import CLI, SMALL, agree, call, copy_of, here, log, refused, together, weights, yaml_of

# ten steps, two micro-batches each, several epochs' worth of a small corpus, dropout on
TEN = [
    *SMALL,
    '--student.steps',
    '10',
    '--student.accumulate',
    '2',
    '--student.log_every',
    '1',
    '--student.save_every',
    '4',
    '--student.text.dropout',
    '0.1',
    '--students',
    '{l2: {objective: l2, weight: 5}}',
]
LAST = 'checkpoints/step-00000010'
PATCHED = "import sys\nfrom vidlankd_nb import training, student\n{}\nfrom vidlankd_nb.cli import main\nmain(sys.argv[1:])"  # the command, with something broken


@pytest.fixture(scope='module')
def whole(prepared, tmp_path_factory):
    "The student, trained without interruption."
    folder = copy_of(prepared, tmp_path_factory.mktemp('runs') / 'whole', TEN)
    call(*CLI, 'student', *TEN, '--out', folder)
    return folder / 'students' / 'l2'


@pytest.fixture
def run(prepared, tmp_path):
    "A run of its own to train `TEN` in."
    return copy_of(prepared, tmp_path / 'run', TEN)


def student_of(folder):
    return folder / 'students' / 'l2'


# --- killed and resumed

CUTS = {
    'before the first checkpoint': ('vidlankd_nb.training:optimizer_step', 3),
    'mid-epoch': ('vidlankd_nb.training:optimizer_step', 8),
    'mid-accumulation': ('accelerate:Accelerator.backward', 14),  # the second micro-batch of step 7
    'while a checkpoint is written': ('vidlankd_nb.checkpoints:_fsync', 3),
    'before a checkpoint is renamed': ('vidlankd_nb.checkpoints:_fsync', 4),
    'after it is renamed, before older ones go': ('vidlankd_nb.checkpoints:_fsync', 15),
}


@pytest.mark.parametrize('cut', CUTS)
def test_killed_and_resumed_bit_for_bit(cut, run, whole):
    call(
        sys.executable,
        here / 'support' / 'dies_at.py',
        *CUTS[cut],
        'student',
        *TEN,
        '--out',
        run,
        code=-signal.SIGKILL,
    )
    mine = student_of(run)
    assert not (mine / 'model.safetensors').exists()
    call(*CLI, 'student', *TEN, '--out', run)
    for name in ('model.safetensors', f'{LAST}/weights.safetensors', f'{LAST}/moments.safetensors'):
        assert (mine / name).read_bytes() == (whole / name).read_bytes(), name
    assert log(mine) == log(whole) and [r['step'] for r in log(whole) if 'terms' in r] == list(range(1, 11))


def test_sigterm_saves_and_asks_for_the_same_command(run, whole):
    code = "import os, signal\nstep = training.optimizer_step\ndef asked(*a):\n    if a[-1] == 5: os.kill(os.getpid(), signal.SIGTERM)\n    return step(*a)\ntraining.optimizer_step = asked"
    call(sys.executable, '-c', PATCHED.format(code), 'student', *TEN, '--out', run, code=75)
    assert (student_of(run) / 'checkpoints' / 'step-00000006').is_dir()
    call(*CLI, 'student', *TEN, '--out', run)
    assert (student_of(run) / 'model.safetensors').read_bytes() == (whole / 'model.safetensors').read_bytes()


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(run, whole):
    call(
        sys.executable,
        here / 'support' / 'dies_at.py',
        'vidlankd_nb.training:optimizer_step',
        9,
        'student',
        *TEN,
        '--out',
        run,
        code=-signal.SIGKILL,
    )
    checkpoints = student_of(run) / 'checkpoints'
    assert sorted(p.name for p in checkpoints.iterdir()) == ['step-00000004', 'step-00000008']
    with open(checkpoints / 'step-00000008' / 'moments.safetensors', 'r+b') as f:
        f.truncate(1000)
    assert (
        'step-00000008 is damaged (moments.safetensors)' in call(*CLI, 'student', *TEN, '--out', run).stdout
    )
    assert (student_of(run) / 'model.safetensors').read_bytes() == (whole / 'model.safetensors').read_bytes()


def test_a_full_disk_is_one_sentence(run):
    "Files may not grow beyond 40 kB, which stops the checkpoint's weights half-way as a full disk does."
    import resource

    limit = lambda: (
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    said = call(*CLI, 'student', *TEN, '--out', run, code=2, preexec_fn=limit).stderr
    assert 'The checkpoint of step 4 could not be written' in said and 'Traceback' not in said, said[-2000:]
    assert list((student_of(run) / 'checkpoints').iterdir()) == []


def test_the_best_checkpoint_stays(tmp_path):
    from vidlankd_nb.checkpoints import Checkpoints

    c = Checkpoints(tmp_path, keep=2)
    for step, score in enumerate((3.0, 1.0, 2.0, 2.5, 2.2), 1):
        c.save(step, {'w': torch.zeros(2)}, {}, {'identity': {}, 'score': score})
    assert c.steps() == [2, 4, 5] and c.best() == 2
    c.save(6, {'w': torch.zeros(2)}, {}, {'identity': {}, 'score': float('nan')})
    assert c.best() == 2  # a held-out loss of NaN is no best
    (c.path(2) / 'state.json').write_text('{"sco', encoding='utf-8')
    c.save(
        7, {'w': torch.zeros(2)}, {}, {'identity': {}, 'score': 3.0}
    )  # a torn file is no reason to lose a new checkpoint
    assert c.best() == 5 and c.steps() == [5, 6, 7]


def test_workers_change_nothing(run, whole):
    "Order, masks and dropout are functions of numbers: two processes that load data leave the same bits."
    words = [*TEN, '--student.workers', '2']
    call(*CLI, 'student', *words, '--out', run)
    for name in ('model.safetensors', f'{LAST}/moments.safetensors'):
        assert (student_of(run) / name).read_bytes() == (whole / name).read_bytes(), name


# --- one process, several processes, micro-batches

PLAIN = [*TEN, '--student.text.dropout', '0', '--student.accumulate', '1', '--student.batch', '16']
ALL = '{text_only: {objective: none}, l2: {objective: l2, weight: 5}, nst: {objective: nst, weight: 100}, infonce: {objective: infonce}, crd: {objective: crd, weight: 0.3, options: {queue: 64}}, soft: {objective: soft_label}}'
SEPARABLE = '{text_only: {objective: none}, l2: {objective: l2, weight: 5}, soft: {objective: soft_label}}'


def trained(prepared, folder, *more, processes=1, some=ALL):
    "The folder of students trained in a copy of `prepared`, dropout off."
    words = [*PLAIN, '--students', some, *more]
    copy_of(prepared, folder, words)
    together(processes, *CLI[1:], 'student', *words, '--out', folder) if processes > 1 else call(
        *CLI, 'student', *words, '--out', folder
    )
    return folder / 'students'


@pytest.fixture(scope='module')
def alone(prepared, tmp_path_factory):
    return trained(prepared, tmp_path_factory.mktemp('runs') / 'alone')


@pytest.fixture(scope='module')
def pair(prepared, tmp_path_factory):
    return trained(prepared, tmp_path_factory.mktemp('runs') / 'pair', processes=2)


@pytest.fixture(scope='module')
def shares(prepared, tmp_path_factory):
    return trained(
        prepared, tmp_path_factory.mktemp('runs') / 'shares', '--student.sharding', 'fsdp', processes=2
    )


@pytest.fixture(scope='module')
def in_four(prepared, tmp_path_factory):
    return trained(
        prepared, tmp_path_factory.mktemp('runs') / 'four', '--student.accumulate', 4, some=SEPARABLE
    )


def same_training(one, other, name, what):
    "Weights, optimizer state and held-out losses of two trainings of one student, to rounding."
    for file in ('model.safetensors', f'{LAST}/weights.safetensors', f'{LAST}/moments.safetensors'):
        agree(weights(one / name, file), weights(other / name, file), f'{what}, {name}, {file}')
    a, b = ([r['valid'] for r in log(f / name) if 'valid' in r] for f in (one, other))
    assert len(a) == 3 and all(
        x[k] == pytest.approx(y[k], abs=1e-5) for x, y in zip(a, b, strict=True) for k in x
    ), (a, b)


@pytest.mark.parametrize('name', ['text_only', 'l2', 'nst', 'infonce', 'crd', 'soft'])
def test_two_processes_are_one(name, alone, pair):
    same_training(alone, pair, name, 'two processes')


@pytest.mark.parametrize('name', ['text_only', 'l2', 'nst', 'infonce', 'crd', 'soft'])
def test_two_processes_with_a_share_each_are_one(name, alone, shares):
    same_training(alone, shares, name, 'fsdp')


@pytest.mark.parametrize('name', ['text_only', 'l2', 'soft'])
def test_four_micro_batches_are_one(name, alone, in_four):
    same_training(alone, in_four, name, 'four micro-batches')


@pytest.mark.skipif(not shutil.which('c++'), reason="PyTorch's compiler for processors needs a C++ compiler")
def test_compiled_is_not_compiled(prepared, alone, tmp_path):
    agree(
        weights(alone / 'l2'),
        weights(
            trained(
                prepared,
                tmp_path / 'compiled',
                '--student.compile',
                'true',
                some='{l2: {objective: l2, weight: 5}}',
            )
            / 'l2'
        ),
        'compiled',
    )


def test_the_held_out_rows_do_not_divide(prepared):
    "The tests above would not notice rows counted twice if two processes could always share them."
    from vidlankd_nb.corpus import Examples

    assert len(Examples(prepared / 'corpus', 'valid')) % 2 == 1


def test_what_two_processes_saved_in_shares_one_goes_on_with(prepared, alone, tmp_path):
    words = [*PLAIN, '--student.sharding', 'fsdp', '--students', '{nst: {objective: nst, weight: 100}}']
    run = copy_of(prepared, tmp_path / 'run', words)
    code = "import os, signal\nstep = training.optimizer_step\ndef asked(*a):\n    if a[-1] == 5 and os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGTERM)\n    return step(*a)\ntraining.optimizer_step = asked"
    (tmp_path / 'asked.py').write_text(PATCHED.format(code), encoding='utf-8')
    together(2, tmp_path / 'asked.py', 'student', *words, '--out', run, code=75)
    assert (run / 'students' / 'nst' / 'checkpoints' / 'step-00000006').is_dir()
    call(*CLI, 'student', *words, '--out', run)
    agree(weights(alone / 'nst'), weights(run / 'students' / 'nst'), 'fsdp, then one process')


def test_two_processes_train_the_same_teacher(prepared, tmp_path):
    for kind in ('ddp', 'fsdp'):
        folder = tmp_path / kind
        shutil.copytree(prepared, folder)
        shutil.rmtree(folder / 'teachers')
        (folder / 'stages' / 'teacher.json').unlink()
        together(2, *CLI[1:], 'teacher', *SMALL, '--teacher.sharding', kind, '--out', folder)
        agree(
            weights(prepared / 'teachers' / 'video'),
            weights(folder / 'teachers' / 'video'),
            f'teacher, {kind}',
        )
        a, b = (
            [r['valid'] for r in log(f / 'teachers' / 'video') if 'valid' in r] for f in (prepared, folder)
        )
        assert all(x[k] == pytest.approx(y[k], abs=1e-5) for x, y in zip(a, b, strict=True) for k in x), (
            a,
            b,
        )


def test_what_does_not_go_together_is_refused(run):
    nst = ['--students', '{nst: {objective: nst}}']
    (run / 'config.yaml').write_text(yaml_of([*TEN, *nst]), encoding='utf-8')
    assert 'set accumulate to 1' in refused(*CLI, 'student', *TEN, *nst, '--out', run)
    for name, wrong, meant in (('sharding', 'fdsp', 'fsdp'), ('precision', 'fp16', 'bf16')):
        assert f"Unknown student.{name} '{wrong}': did you mean '{meant}'?" in refused(
            *CLI, 'student', *TEN, f'--student.{name}', wrong, '--out', run
        )


def test_shares_are_not_compiled():
    from types import SimpleNamespace

    from vidlankd_nb.config import Training
    from vidlankd_nb.files import UserError
    from vidlankd_nb.training import place

    two, both = (
        SimpleNamespace(num_processes=2, device=torch.device('cpu')),
        Training(sharding='fsdp', compile=True),
    )
    with pytest.raises(UserError, match='set sharding to ddp, or compile to false'):
        place(torch.nn.Linear(2, 2), both, two)
    assert isinstance(
        place(torch.nn.Linear(2, 2), both, SimpleNamespace(num_processes=1, device=torch.device('cpu'))),
        torch.nn.Linear,
    )  # one process has nothing to share


# --- what moves, and what stops


def checkpoint(folder, step):
    return load_file(folder / 'checkpoints' / f'step-{step:08d}' / 'weights.safetensors')


def still(folder):
    "Names of the weights that are the same after two steps and after four."
    first, last = checkpoint(folder, 2), checkpoint(folder, 4)
    return [k for k in first if torch.equal(first[k], last[k]) and first[k].is_floating_point()]


def test_everything_that_should_move_moves(prepared, tmp_path):
    "The teacher's video encoder, too; with frozen_video it stands still, and nothing else does."
    assert still(prepared / 'teachers' / 'video') == [
        'model.video.scale'
    ]  # a constant: the size of the training features
    folder = tmp_path / 'run'
    shutil.copytree(prepared, folder)
    shutil.rmtree(folder / 'teachers')
    (folder / 'stages' / 'teacher.json').unlink()
    words = [*SMALL, '--teacher.frozen_video', 'true']
    (folder / 'config.yaml').write_text(yaml_of(words), encoding='utf-8')
    call(*CLI, 'teacher', *words, '--out', folder)
    video = [k for k in checkpoint(folder / 'teachers' / 'video', 4) if k.startswith('model.video.')]
    assert still(folder / 'teachers' / 'video') == video and len(video) > 10


def test_every_weight_of_a_student_moves_and_its_teacher_does_not(run, whole):
    before, after = checkpoint(whole, 8), checkpoint(whole, 10)
    assert [
        k for k in before if before[k].is_floating_point() and torch.equal(before[k], after[k])
    ] == [] and any(k.startswith('head.') for k in before)
    code = """
import torch
forward = student.teacher_outputs
def reads(teacher, *a):
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    out, again = forward(teacher, *a), forward(teacher, *a)
    assert not out.hidden_states.requires_grad and torch.equal(out.hidden_states, again.hidden_states)   # no dropout
    return out
student.teacher_outputs = reads
"""
    call(sys.executable, '-c', PATCHED.format(code), 'student', *TEN, '--out', run)
    assert (student_of(run) / 'model.safetensors').read_bytes() == (whole / 'model.safetensors').read_bytes()


def test_a_training_that_breaks_says_where(run):
    "NaN after a mad learning rate: the checkpoint before it is whole, and its weights are finite."
    words = [*TEN, '--student.lr', '1e30', '--student.warmup', '0', '--student.save_every', '1']
    (run / 'config.yaml').write_text(yaml_of(words), encoding='utf-8')
    said = refused(*CLI, 'student', *words, '--out', run)
    assert 'Step 2: ' in said and 'is nan; examples [' in said and 'the last checkpoint stands' in said, said
    assert [p.name for p in (student_of(run) / 'checkpoints').iterdir()] == ['step-00000001'] and all(
        v.isfinite().all() for v in checkpoint(student_of(run), 1).values()
    )


def test_a_loss_that_breaks_in_one_process_moves_no_weight_in_any(run):
    "NaN without a gradient, in the second of two processes: both leave the step out, and the next checkpoint is not written."
    code = (
        "import os\nreal, calls = student.mlm_sum, []\ndef poisoned(*a):\n    if a[0].training: calls.append(1)\n    bad = os.environ['RANK'] == '1' and len(calls) == 3   # the first micro-batch of step 2\n    return torch.where(torch.tensor(bad), torch.nan, real(*a))\nimport torch; student.mlm_sum = poisoned\n"
        "look = training.Watch.look\ndef looking(self):\n    if len(calls) == 2: rows['before'] = state()\n    if len(calls) == 4: assert torch.equal(rows['before'], state()), 'moved'\n    return look(self)\nrows, tasks, place = {}, [], training.place\n"
        "def placed(task, *a): tasks.append(place(task, *a)); return tasks[-1]\ndef state(): return torch.cat([p.detach().flatten() for p in tasks[-1].parameters()]).clone()\ntraining.Watch.look, training.place = looking, placed"
    )
    together(2, '-c', PATCHED.format(code), 'student', *TEN, '--out', run, code=2)
    assert not (student_of(run) / 'checkpoints').exists() and [r['step'] for r in log(student_of(run))] == [1]


def test_an_exploding_gradient_is_named(run):
    words = [*TEN, '--student.stop_norm', '0.5']
    (run / 'config.yaml').write_text(yaml_of(words), encoding='utf-8')
    said = refused(*CLI, 'student', *words, '--out', run)
    assert 'Step 1: gradient norm is ' in said and 'examples [' in said, said


def test_out_of_memory_says_what_to_change_and_the_same_run_goes_on(run):
    "A real failure to allocate in step 6; in twice as many micro-batches the run goes on from its checkpoint."
    code = "real, calls = student.mlm_sum, []\ndef greedy(*a):\n    if a[0].training: calls.append(1)\n    if len(calls) == 11: training.torch.empty(2**50)   # five steps of two micro-batches, and one more\n    return real(*a)\nstudent.mlm_sum = greedy"
    said = refused(sys.executable, '-c', PATCHED.format(code), 'student', *TEN, '--out', run)
    assert (
        'Step 6: out of memory with 8 examples at a time. Set accumulate to 4' in said
        and 'the last checkpoint stands' in said
    ), said
    saved = [p.name for p in (student_of(run) / 'checkpoints').iterdir()]
    call(*CLI, 'student', *TEN, '--student.accumulate', 4, '--out', run)
    steps = [r['step'] for r in log(student_of(run)) if 'terms' in r]
    assert (
        saved == ['step-00000004']
        and steps == list(range(1, 11))
        and 'accumulate: 4' in (run / 'config.yaml').read_text(encoding='utf-8')
    )


def test_a_vocabulary_that_does_not_fit_is_an_error(run, prepared, tmp_path):
    "Weights and teachers from elsewhere, whose words have other numbers."
    from vidlankd_nb.corpus import train_tokenizer

    shutil.copytree(prepared / 'teachers' / 'video', tmp_path / 'teacher')
    train_tokenizer([prepared / 'corpus' / 'captions.txt'], 60).save_pretrained(tmp_path / 'teacher')
    words = [*TEN, '--students', f'{{l2: {{objective: l2, teacher: {tmp_path / "teacher"}}}}}']
    (run / 'config.yaml').write_text(yaml_of(words), encoding='utf-8')
    said = refused(*CLI, 'student', *words, '--out', run)
    assert (
        'was made with another tokenizer than' in said
        and f'--corpus.tokenizer {tmp_path / "teacher"}' in said
    ), said


def test_wrong_devices_and_broken_weights_are_one_sentence(run, prepared):
    "A device that is not there; a teacher whose weights are torn, or hold a NaN."
    said = refused(
        sys.executable,
        '-c',
        "import os; os.environ['ACCELERATE_TORCH_DEVICE'] = 'cuda:99'\n" + PATCHED.format(''),
        'student',
        *TEN,
        '--out',
        run,
    )
    assert 'device that was asked for cannot be used' in said, said
    file = run / 'teachers' / 'video' / 'model.safetensors'
    good = load_file(file)
    good[next(k for k in good if 'attention' in k)].view(-1)[0] = torch.nan
    save_file(good, file, {'format': 'pt'})
    assert 'tensors hold NaN or infinity' in refused(*CLI, 'student', *TEN, '--out', run)
    with open(file, 'r+b') as f:
        f.truncate(300)
    assert 'No masked-LM weights at' in refused(*CLI, 'student', *TEN, '--out', run)


# --- the folder of a model


def test_the_model_card_tells_how_it_was_made_and_loads_it(whole, prepared):
    for folder, expected in (
        (
            whole,
            [
                '# l2',
                'objective `l2` (weight 5)',
                '| training | 10 | mlm |',
                '| held out | 10 | distillation |',
                'examples of up to 16 tokens, from corpus.txt',
                '      dropout: 0.1',
            ],
        ),
        (
            prepared / 'teachers' / 'video',
            [
                '# teacher (video)',
                '| held out | 4 | contrast |',
                'from caption.json',
                '      contrast: infonce',
            ],
        ),
    ):
        card = (folder / 'README.md').read_text(encoding='utf-8')
        assert not [x for x in expected if x not in card], card
        lines = card.split('## Loading')[1].split('## Data')[0].splitlines()
        code = '\n'.join(x[4:] for x in lines if x.startswith('    '))
        call(sys.executable, '-c', code, cwd=folder)
