"""The presets' true architectures, for three steps, through the command line."""
import json

import pytest
import torch
from safetensors import safe_open
from support.trainings import CLI, call
from transformers import AutoModelForMaskedLM

from vidlankd_nb.config import load_run
from vidlankd_nb.teacher import VideoTeacher


def vidlankd(*args): return call(*CLI, *args).stdout


def steps(folder):
    "Every step of a training, with finite loss terms."
    records = [r for r in map(json.loads, (folder/'log.jsonl').read_text().splitlines()) if 'terms' in r]
    assert all(torch.isfinite(torch.tensor([*r['terms'].values(), r['gradient_norm']])).all() for r in records), records
    return [(r['step'], sorted(r['terms'])) for r in records]


def shape(model): return model.config.model_type, model.config.num_hidden_layers, model.config.hidden_size, model.config.num_attention_heads


@pytest.mark.parametrize('name', ['small', 'base'])
def test_smoke_is_the_preset_itself(name):
    "Architectures, losses and optimizer are those of the full preset; only data and lengths differ."
    full, smoke = load_run(name), load_run(f'{name}-smoke')
    assert smoke.students == full.students and smoke.student.text == full.student.text and smoke.teacher.text == full.teacher.text
    for key in ('video_layers', 'contrast', 'margin', 'contrast_weight', 'mlm_weight', 'pooling', 'frozen_video', 'lr', 'weight_decay', 'clip'): assert getattr(smoke.teacher, key) == getattr(full.teacher, key), key
    for key in ('lr', 'weight_decay', 'clip', 'adam_eps'): assert getattr(smoke.student, key) == getattr(full.student, key), key
    assert smoke.corpus.packed == full.corpus.packed and (smoke.teacher.steps, smoke.student.steps) == (3, 3)


def test_small_goes_the_whole_road(tmp_path):
    run = tmp_path/'small'
    said = vidlankd('run', '--config', 'small-smoke', '--out', run)
    assert 'report.html' in said and (run/'report.html').is_file()
    teacher = VideoTeacher.from_pretrained(run/'teachers'/'video')
    assert shape(teacher.text) == ('bert', 6, 512, 8) and teacher.config.video_layers == 6
    assert steps(run/'teachers'/'video') == [(k, ['contrast', 'mlm']) for k in (1, 2, 3)]
    for name, terms in (('text_only', ['mlm']), ('nst+crd', ['distillation', 'mlm'])):
        assert shape(AutoModelForMaskedLM.from_pretrained(run/'students'/name)) == ('bert', 6, 512, 8)
        assert steps(run/'students'/name) == [(k, terms) for k in (1, 2, 3)]
    assert 'nst+crd' in json.loads((run/'report.json').read_text())['students']


def test_base_teaches_and_distils(tmp_path):
    run, words = tmp_path/'base', ['--config', 'base-smoke', '--teacher.batch', 2, '--student.batch', 2, '--students', '{nst+crd: {objective: nst+crd}}']
    for stage in ('world', 'features', 'pairs', 'corpus', 'teacher', 'student'): vidlankd(stage, *words, '--out', run)
    assert steps(run/'teachers'/'video') == [(k, ['contrast', 'mlm']) for k in (1, 2, 3)]
    assert steps(run/'students'/'nst+crd') == [(k, ['distillation', 'mlm']) for k in (1, 2, 3)]
    config = json.loads((run/'teachers'/'video'/'config.json').read_text())
    assert (config['text']['num_hidden_layers'], config['text']['hidden_size'], config['video_layers']) == (12, 768, 12)
    with safe_open(run/'students'/'nst+crd'/'model.safetensors', 'pt') as f:   # layers 0 to 11, width 768
        assert f.get_slice('bert.encoder.layer.11.output.dense.weight').get_shape() == [768, 3072] and 'bert.encoder.layer.12.output.dense.weight' not in f.keys()
