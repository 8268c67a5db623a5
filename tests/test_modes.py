"""What trains is in train mode at every step, whatever its weights came from; what only reads stays in eval mode."""

import signal
import sys

import numpy as np
import pytest
import torch
from support.trainings import CLI, SMALL, call, copy_of, here, log

from vidlankd_nb import training
from vidlankd_nb.config import Distillation, Encoder, FineTuning, Teacher, Training
from vidlankd_nb.corpus import Examples
from vidlankd_nb.encoders import load_text, text_encoder
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.student import StudentTask
from vidlankd_nb.tokenizer import load_tokenizer


@pytest.fixture(scope='module')
def weights(prepared, tmp_path_factory):
    "A folder of weights whose configuration has dropout .1."
    folder = tmp_path_factory.mktemp('weights') / 'bert'
    tok = load_tokenizer(prepared / 'corpus' / 'tokenizer')
    torch.manual_seed(5)
    text_encoder(Encoder(layers=1, width=32, heads=2, dropout=0.1), tok).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@pytest.fixture
def seen(monkeypatch):
    "For each step: the modes of all modules of the task, and whether two readings of the batch differ."
    steps = []
    step = training.optimizer_step

    def looked(acc, model, task, optimizer, micro_batches, *more):
        state = torch.get_rng_state()
        readings = [
            sum(task(micro_batches[0], {k: 1.0 for k in task.weights}).values()).item() for _ in range(2)
        ]
        torch.set_rng_state(state)
        steps.append(({m.training for m in task.modules()}, readings[0] != readings[1]))
        return step(acc, model, task, optimizer, micro_batches, *more)

    monkeypatch.setattr(training, 'optimizer_step', looked)
    return steps


@pytest.mark.parametrize('stopped', [False, True])
def test_a_student_from_a_folder_trains_with_dropout(prepared, weights, seen, tmp_path, stopped):
    data, valid = (
        TextBatches(Examples(prepared / 'corpus', s), load_tokenizer(weights)) for s in ('train', 'valid')
    )
    cfg = Training(steps=6, batch=8, log_every=2, save_every=2)

    def task():
        return StudentTask(load_text(weights), Distillation('l2'), load_text(weights))

    if stopped:

        class Accident(Exception):
            pass

        write = training.Log.write

        def torn(self, record):
            if record['step'] == 3:
                raise Accident
            return write(self, record)

        with pytest.MonkeyPatch.context() as m, pytest.raises(Accident):
            m.setattr(training.Log, 'write', torn)
            training.train(
                task(),
                data,
                Training(steps=6, batch=8, log_every=3, save_every=2),
                tmp_path,
                valid=valid,
                show=False,
            )
        seen.clear()
    mine = task()
    training.train(mine, data, cfg, tmp_path, valid=valid, show=False)
    assert seen == [({True}, True)] * (4 if stopped else 6)
    assert not mine.teacher.training and not any(m.training for m in mine.teacher.modules())


def test_a_teacher_from_a_folder_trains_with_dropout(prepared, weights, seen, tmp_path):
    from vidlankd_nb.batches import PairBatches
    from vidlankd_nb.config import Pairs
    from vidlankd_nb.pairs import PairSet
    from vidlankd_nb.teacher import TeacherTask, make_teacher

    tok = load_tokenizer(weights)
    cfg = Teacher(
        steps=4, batch=8, log_every=2, save_every=2, video_layers=2, text=Encoder(pretrained=str(weights))
    )
    data, valid = (
        PairBatches(PairSet.load(prepared / 'pairs', s), tok, Pairs(max_tokens=16, max_frames=16))
        for s in ('train', 'valid')
    )
    teacher = make_teacher(cfg, tok, data.width, 16)
    assert teacher.config.video_dropout == 0.1 and {
        m.p for m in teacher.video.modules() if isinstance(m, torch.nn.Dropout)
    } == {0.1}
    training.train(TeacherTask(teacher, cfg), data, cfg, tmp_path, valid=valid, show=False)
    assert seen == [({True}, True)] * 4


def test_fine_tuning_trains_with_dropout_and_is_scored_without(weights, seen, tmp_path):
    from vidlankd_nb.evaluation.benchmarks import TASKS
    from vidlankd_nb.evaluation.encoders import candidate
    from vidlankd_nb.evaluation.finetuning import TaskBatches, fine_tune, predict

    rows = [{'a': 'we saw the ball', 'b': 'the ball is here', 'label': i % 2} for i in range(16)]
    c, cfg = candidate(weights), FineTuning(epochs=2, batch=8, log_every=1)
    data = TaskBatches(TASKS['rte'], rows, c, cfg)
    task = fine_tune(c, TASKS['rte'], data, cfg, tmp_path, show=False, device='cpu')
    assert seen == [({True}, True)] * 4
    once, again = (np.stack(predict(task, data, cfg, device='cpu')) for _ in range(2))
    assert (once == again).all()


FROM_FOLDER = [
    *SMALL,
    '--student.steps',
    '10',
    '--student.log_every',
    '1',
    '--student.save_every',
    '4',
    '--students',
    '{l2: {objective: l2, weight: 5}}',
]


def test_killed_and_resumed_from_a_folder_with_dropout(prepared, weights, tmp_path):
    "Bit for bit the uninterrupted training; validations lie before and after the cut."
    words = [*FROM_FOLDER, '--student.text.pretrained', str(weights)]
    whole, cut = (copy_of(prepared, tmp_path / name, words) for name in ('whole', 'cut'))
    call(*CLI, 'student', *words, '--out', whole)
    for step in (3, 7):
        call(
            sys.executable,
            here / 'support' / 'dies_at.py',
            'vidlankd_nb.training:optimizer_step',
            step,
            'student',
            *words,
            '--out',
            cut,
            code=-signal.SIGKILL,
        )
    call(*CLI, 'student', *words, '--out', cut)
    a, b = (f / 'students' / 'l2' for f in (whole, cut))
    assert (a / 'model.safetensors').read_bytes() == (b / 'model.safetensors').read_bytes() and log(a) == log(
        b
    )


def test_layers_of_the_video_encoder_start_each_for_itself():
    "Copies of one layer would be moved alike by the same signal; biases and norms start alike in any case."
    from vidlankd_nb.teacher import VideoEncoder

    torch.manual_seed(0)
    encoder = VideoEncoder(12, 16, layers=3, heads=2, hidden=24, dropout=0.25)
    matrices = [{n: p for n, p in layer.named_parameters() if p.ndim == 2} for layer in encoder.layers.layers]
    assert len(matrices) == 3 and len(matrices[0]) == 4
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not any(torch.equal(matrices[a][n], matrices[b][n]) for n in matrices[0])
    assert {m.p for m in encoder.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


@pytest.mark.parametrize('given, text, expected', [(None, 0.1, 0.1), (0.3, 0.1, 0.3), (0.0, 0.1, 0.0)])
def test_the_video_encoders_dropout_follows_its_setting(prepared, given, text, expected, tmp_path):
    from vidlankd_nb.teacher import VideoTeacher, make_teacher

    tok = load_tokenizer(prepared / 'corpus' / 'tokenizer')
    cfg = Teacher(video_dropout=given, text=Encoder(layers=1, width=32, heads=2, dropout=text))
    make_teacher(cfg, tok, 12, 8).save_pretrained(tmp_path / 'teacher')
    again = VideoTeacher.from_pretrained(tmp_path / 'teacher')
    assert {m.p for m in again.video.modules() if isinstance(m, torch.nn.Dropout)} == {expected}
