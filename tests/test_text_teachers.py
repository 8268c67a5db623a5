"""Teachers from elsewhere: their folders, their words beside the student's, a training with one that is killed, and what is refused."""

import json
import shutil
import signal
import sys
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file
from support.text_teachers import models_of, save_teacher
from support.trainings import CLI, SMALL, call, copy_of, here, refused
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vidlankd_nb import alignment
from vidlankd_nb.alignment import align, check_pieces, false_pieces, read_pieces
from vidlankd_nb.bench.alignment import PAIRS, ten_tokenizers
from vidlankd_nb.config import Corpus, Distillation, Encoder, samples
from vidlankd_nb.corpus import Examples, build_corpus, read_lines
from vidlankd_nb.encoders import text_encoder
from vidlankd_nb.files import UserError
from vidlankd_nb.masking import TextBatches
from vidlankd_nb.student import StudentTask
from vidlankd_nb.text_teachers import load_text_teacher, text_limit
from vidlankd_nb.tokenizer import load_tokenizer, text_backend
from vidlankd_nb.views import View, build_view

LINES = list(read_lines(samples() / 'toyworld' / 'text' / 'corpus.txt'))[:200]
HARD = [
    'Ünïcödé café, naïve e\u0301te\u0301 – “quotes”',
    '\u0301 a mark alone',
    'tabs\tand  spaces ',
    '東京タワー 🙂👍🏽 1½ ﬁne co\u00adop \u200bx\u00a0y',
]


@pytest.fixture(scope='module')
def tokenizers():
    return ten_tokenizers(LINES, 300)


def letters(text, spans):
    "Characters that are neither white nor control characters nor marks, of some spans."
    return {
        i
        for a, b in spans
        for i in range(a, b)
        if unicodedata.category(text[i])[0] not in 'ZCM' and not text[i].isspace()
    }


@pytest.mark.parametrize('pair', PAIRS, ids='-'.join)
def test_words_have_the_same_letters_on_both_sides(pair, tokenizers):
    "And they are as small as they can be: no letter inside of one is a cut of both."
    one, other = (tokenizers[name] for name in pair)
    lines = LINES + HARD
    met = align('\n'.join(lines), read_pieces(one, lines), read_pieces(other, lines))
    at = [0, 0]
    words = 0
    for line in lines:
        spans, own = [], []
        for side, (tokenizer, numbers) in enumerate(((one, met.mine), (other, met.theirs))):
            encoded = text_backend(tokenizer).encode(line, add_special_tokens=False)
            spans.append(encoded.offsets)
            own.append(numbers[at[side] : at[side] + len(encoded.offsets)].tolist())
            at[side] += len(encoded.offsets)
        for word in sorted(set(own[0]) - {-1}):
            mine, theirs = (
                [span for span, number in zip(s, o, strict=True) if number == word]
                for s, o in zip(spans, own, strict=True)
            )
            found = sorted(letters(line, mine))
            assert found and found == sorted(letters(line, theirs)), (line, mine, theirs)
            for gap in found[1:]:  # before each letter but the first
                assert any(a < gap < b and line[a:gap].strip() for a, b in mine + theirs), (line, gap)
            words += 1
    assert words == met.words > 200


def test_pieces_say_the_letters_that_their_offsets_cut_out(tokenizers, monkeypatch):
    "All ten kinds do; one whose cuts inside of words lie a letter too far is refused, though its words are whole."
    for name, tokenizer in tokenizers.items():
        wrong, seen = false_pieces(tokenizer, LINES + HARD)
        assert len(wrong) <= 0.01 * seen > 0, (name, wrong[:5])
    honest = text_backend(tokenizers['wordpiece-cased'])

    def shifted(lines, **_):
        found = []
        for line, encoding in zip(lines, honest.encode_batch(lines, add_special_tokens=False), strict=True):
            cuts = {b: b - 1 for a, b in encoding.offsets if b < len(line) and line[b - 1 : b + 1].isalnum()}
            offsets = [(cuts.get(a, a), cuts.get(b, b)) for a, b in encoding.offsets]
            found.append(SimpleNamespace(ids=encoding.ids, offsets=offsets))
        return found

    lying = SimpleNamespace(encode_batch=shifted, decode=honest.decode, model=honest.model)
    monkeypatch.setattr('vidlankd_nb.alignment.text_backend', lambda _: lying)
    with pytest.raises(UserError, match="tokenizer of 'mine' says wrongly which characters"):
        check_pieces(tokenizers['wordpiece-cased'], LINES, 'mine')


def test_a_letter_without_a_partner_is_counted(tokenizers):
    "A letter that one side does not know, and one that it drops: [UNK], and a piece of an accent alone."
    line = 'the 東 red'
    met = align(
        line,
        read_pieces(tokenizers['wordpiece-cased'], [line]),
        read_pieces(tokenizers['byte-level'], [line]),
    )
    assert met.words == 2 and met.unaligned == 1
    assert -1 in met.mine and (met.theirs == -1).sum() >= 3  # the bytes of one letter


@pytest.mark.parametrize('kind', [k for k in models_of(None, 0) if k != 'vit'])
def test_states_are_those_of_the_model_itself(kind, tmp_path):
    tokenizer = save_teacher(tmp_path, kind, LINES)
    teacher = load_text_teacher(tmp_path)
    assert text_limit(tmp_path, tokenizer) == 24
    full = kind.startswith('siglip')
    filled = {'padding': 'max_length', 'max_length': 24} if full else {'padding': True}
    batch = tokenizer(LINES[:3], return_tensors='pt', **filled)
    said = json.loads((tmp_path / 'config.json').read_text(encoding='utf-8'))['architectures'][0]
    stock = getattr(hf, said).from_pretrained(tmp_path).eval()
    asked = dict(input_ids=batch.input_ids, attention_mask=None if full else batch.attention_mask)
    sentence = None
    with torch.no_grad():
        if hasattr(stock, 'get_text_features'):
            out = stock.get_text_features(**asked)
            sentence, states = out.pooler_output, out.last_hidden_state
        elif kind.startswith('t5'):
            states = stock.get_encoder()(**asked).last_hidden_state
        elif 'clip' in kind:
            out = stock(**asked)
            sentence = out.text_embeds if kind == 'clip projected' else out.pooler_output
            states = out.last_hidden_state
        else:
            states = stock.base_model(**asked).last_hidden_state
    if sentence is None:
        mask = batch.attention_mask[..., None]
        sentence = (states * mask).sum(1) / mask.sum(1)
    short = tokenizer(LINES[:3], padding=True, return_tensors='pt')
    got = teacher(short.input_ids, short.attention_mask, True)
    length = short.input_ids.shape[1]
    assert torch.equal(got.hidden_states, states[:, :length])
    assert torch.allclose(got.sentence_states[:, 0], sentence, atol=1e-6)


def test_layers(tmp_path):
    tokenizer = save_teacher(tmp_path, 'bert', LINES)
    batch = tokenizer(LINES[:2], padding=True, return_tensors='pt')
    model = hf.BertModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        layers = model(
            batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
        ).hidden_states
    for layer, want in {1: layers[1], '-2': layers[1], '0,2': (layers[0] + layers[2]) / 2}.items():
        got = load_text_teacher(tmp_path, layer)(batch.input_ids, batch.attention_mask)
        assert torch.allclose(got.hidden_states, want, atol=1e-6), layer


def test_a_sentence_encoder_with_dense_layers_has_them_behind_its_pooling(tmp_path):
    "Reckoned in NumPy: two dense layers, as `modules.json` lists them; another kind of layer is named."
    tokenizer = save_teacher(tmp_path, 'bert', LINES)
    plain = load_text_teacher(tmp_path)
    batch = tokenizer(LINES[:3], padding=True, return_tensors='pt')
    want = plain(batch.input_ids, batch.attention_mask, True).sentence_states[:, 0].numpy()
    modules = [{'type': 'sentence_transformers.models.Transformer', 'path': ''}]
    rng = np.random.default_rng(0)
    for k, (shape, activation) in enumerate((((16, 8), 'activation.Tanh'), ((8, 5), 'linear.Identity'))):
        folder = tmp_path / f'{k + 2}_Dense'
        folder.mkdir()
        said = {'in_features': shape[0], 'out_features': shape[1], 'bias': True}
        said['activation_function'] = f'torch.nn.modules.{activation}'
        (folder / 'config.json').write_text(json.dumps(said), encoding='utf-8')
        weight = rng.normal(size=shape[::-1]).astype(np.float32)
        bias = rng.normal(size=shape[1]).astype(np.float32)
        save_file(
            {'linear.weight': torch.from_numpy(weight), 'linear.bias': torch.from_numpy(bias)},
            folder / 'model.safetensors',
        )
        want = want @ weight.T + bias
        want = np.tanh(want) if activation.endswith('Tanh') else want
        modules.append({'type': 'sentence_transformers.models.Dense', 'path': folder.name})
    (tmp_path / 'modules.json').write_text(json.dumps(modules), encoding='utf-8')
    teacher = load_text_teacher(tmp_path)
    got = teacher(batch.input_ids, batch.attention_mask, True).sentence_states[:, 0]
    assert teacher.sentence_width == 5 and np.allclose(got.numpy(), want, atol=1e-5)
    modules.append({'type': 'sentence_transformers.models.LSTM', 'path': '4_LSTM'})
    (tmp_path / 'modules.json').write_text(json.dumps(modules), encoding='utf-8')
    with pytest.raises(UserError, match="with a layer 'LSTM'"):
        load_text_teacher(tmp_path)


OLD = {f'pooling_mode_{k}': False for k in ('cls_token', 'mean_tokens', 'max_tokens', 'lasttoken')}


@pytest.mark.parametrize(
    'said, way',
    [
        ({'pooling_mode': 'mean'}, 'mean'),
        ({'pooling_mode': 'cls'}, 'first'),
        ({'pooling_mode': ['cls']}, 'first'),
        (OLD | {'pooling_mode_mean_tokens': True, 'include_prompt': True}, 'mean'),
        (OLD | {'pooling_mode_cls_token': True}, 'first'),
        ({'pooling_mode': 'lasttoken'}, 'by lasttoken, which'),
        ({'pooling_mode': ['mean', 'max']}, 'by mean and max, which'),
        (
            OLD | {'pooling_mode_mean_tokens': True, 'pooling_mode_max_tokens': True},
            'mean_tokens and max_tokens',
        ),
        (OLD | {'include_prompt': True}, 'no known way'),
    ],
)
def test_poolings_of_sentence_transformers(tmp_path, said, way):
    "Of two at once the library makes one long vector; the second was passed over."
    save_teacher(tmp_path, 'bert', LINES)
    (tmp_path / '1_Pooling').mkdir()
    whole = {'embedding_dimension': 16, 'include_prompt': True} | said
    (tmp_path / '1_Pooling' / 'config.json').write_text(json.dumps(whole), encoding='utf-8')
    if way in ('mean', 'first'):
        assert load_text_teacher(tmp_path).pooling == way
        return
    with pytest.raises(UserError, match=way):
        load_text_teacher(tmp_path)


def test_syllables_that_are_cut_into_letters_are_whole_words():
    "An uncased BERT takes Korean apart: its pieces begin and end inside of a character."
    korean = ['오늘은 밥을 짓겠습니다', '먼저 쌀을 씻어요', '값을 깎다'] * 3
    inner = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        korean, trainers.WordPieceTrainer(vocab_size=60, special_tokens=['[UNK]'], show_progress=False)
    )
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token='[UNK]')
    pieces = inner.encode(korean[0])
    assert len(pieces.tokens) > len(korean[0])  # more than a piece for a character
    wrong, seen = false_pieces(tokenizer, korean)
    assert not wrong and seen >= len(pieces.tokens)


@pytest.mark.parametrize(
    'letters, text, is_so',
    [
        ('ab', 'AB', True),
        ('ab', 'abc', False),
        ('bc', 'abc', False),
        ('b', 'abc', False),
        ('abc', 'a-b c', True),
        ('\u1161', '\uac00', True),  # the second letter of ga
        ('\u1100', '\uac00\uac00', False),  # the first of the first, and nothing of the second
        ('\u1161\u1100', '\uac00\uac00', True),
        ('a', '', False),
    ],
)
def test_which_letters_are_cut_from_a_text(letters, text, is_so):
    assert alignment._are_cut_from(letters, text) == is_so


@pytest.fixture(scope='module')
def aligned(tmp_path_factory):
    "A corpus of full blocks, a BERT with its words, and the same BERT with a tokenizer that has one more, which no text holds."
    folder = tmp_path_factory.mktemp('aligned')
    (folder / 'text.txt').write_text('\n'.join(LINES), encoding='utf-8')
    build_corpus([folder / 'text.txt'], folder / 'corpus', Corpus(block=16, packed=True, vocab_size=200))
    tok = load_tokenizer(folder / 'corpus' / 'tokenizer')
    tok.save_pretrained(folder / 'bert')
    tok.add_tokens(['one-token-more'])
    tok.save_pretrained(folder / 'other')
    torch.manual_seed(1)
    model = text_encoder(Encoder(layers=1, width=32, heads=2), tok)
    for name in ('bert', 'other'):
        model.save_pretrained(folder / name)
    views = folder / 'views'
    assert build_view(folder / 'corpus', [folder / 'text.txt'], folder / 'bert', views) is None
    assert build_view(folder / 'corpus', [folder / 'text.txt'], folder / 'other', views)
    return folder


@pytest.mark.parametrize('objective', ['l2', 'nst', 'infonce', 'crd', 'l2+ntxent', 'sentence'])
def test_equal_tokenizers_give_equal_losses_to_the_bit(objective, aligned):
    "Whole sentences, once as the student's own tokens and once through an alignment."
    tok, examples = load_tokenizer(aligned / 'corpus' / 'tokenizer'), Examples(aligned / 'corpus')
    view = View(aligned / 'views', aligned / 'other', examples)
    losses, gradients = [], []
    for name, options in (('bert', dict(whole=True)), ('other', dict(view=view))):
        batch = TextBatches(examples, tok, **options).batch(np.arange(12), 0)
        torch.manual_seed(0)
        student = text_encoder(Encoder(layers=1, width=16, heads=2), tok)
        task = StudentTask(student, Distillation(objective), load_text_teacher(aligned / name))
        scale = {k: 1 / n for k, n in task.counts(batch).items()}
        loss = task(batch, scale)
        sum(loss.values()).backward()
        losses.append(loss)
        gradients.append({k: p.grad for k, p in task.named_parameters()})
    assert losses[0].keys() == losses[1].keys() and 'teacher_words' in batch
    for k, loss in losses[0].items():
        assert torch.equal(loss, losses[1][k]), k
    for k, g in gradients[0].items():
        other = gradients[1][k]
        assert (g is None) == (other is None)
        assert g is None or torch.allclose(g, other, atol=1e-7), k


def test_a_text_longer_than_the_teacher_reads_is_cut_at_a_word_and_counted(tmp_path):
    (tmp_path / 'text.txt').write_text('\n'.join(LINES), encoding='utf-8')
    build_corpus([tmp_path / 'text.txt'], tmp_path / 'corpus', Corpus(block=30, packed=True, vocab_size=300))
    tokenizer = save_teacher(tmp_path / 'clip', 'clip', LINES, limit=12)
    view = build_view(tmp_path / 'corpus', [tmp_path / 'text.txt'], tmp_path / 'clip', tmp_path / 'views')
    assert view['length'] <= 12 == view['limit'] and view['counts']['cut_words'] > 0
    examples = Examples(tmp_path / 'corpus')
    seen = View(tmp_path / 'views', tmp_path / 'clip', examples)[np.arange(len(examples))]
    ends = seen['teacher_ids'][np.arange(len(examples)), seen['teacher_attention'].sum(1) - 1]
    assert (seen['teacher_ids'][:, 0] == 0).all() and (ends == tokenizer.eos_token_id).all()
    for mine, theirs in zip(seen['student_words'], seen['teacher_words'], strict=True):
        assert set(mine.tolist()) - {30} == set(theirs.tolist()) - {30}


def test_what_is_no_teacher_is_one_sentence(tmp_path, monkeypatch):
    def said(folder, work=load_text_teacher):
        with pytest.raises(UserError) as error:
            work(folder)
        return str(error.value)

    save_teacher(tmp_path / 'vit', 'vit', LINES)
    assert 'reads pixel_values and no text' in said(tmp_path / 'vit')
    save_teacher(tmp_path / 'bert', 'bert', LINES)
    shutil.copytree(tmp_path / 'bert', tmp_path / 'bare')
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        (tmp_path / 'bare' / name).unlink()
    assert 'okenizer' in said(tmp_path / 'bare')
    shutil.copytree(tmp_path / 'bert', tmp_path / 'zero')
    config = json.loads((tmp_path / 'zero' / 'config.json').read_text(encoding='utf-8'))
    (tmp_path / 'zero' / 'config.json').write_text(
        json.dumps(config | {'max_position_embeddings': 0}), encoding='utf-8'
    )
    assert 'reads at most 0 tokens' in said(tmp_path / 'zero')
    shutil.copytree(tmp_path / 'bert', tmp_path / 'slow')
    (tmp_path / 'slow' / 'tokenizer.json').unlink()
    (tmp_path / 'slow' / 'tokenizer_config.json').write_text(
        '{"tokenizer_class": "CanineTokenizer"}', encoding='utf-8'
    )
    assert 'a slow one, written in Python' in said(tmp_path / 'slow')
    assert 'No teacher at' in said(tmp_path / 'nowhere', text_limit_of)
    with pytest.raises(UserError, match='layer 7 is asked'):
        load_text_teacher(tmp_path / 'bert', 7)
    monkeypatch.setattr('psutil.virtual_memory', lambda: type('Memory', (), {'available': 1000}))
    assert 'GB of memory for its weights' in said(tmp_path / 'bert')


def text_limit_of(folder):
    return text_limit(folder, None)


def test_a_corpus_on_files_keeps_the_view_of_a_teacher(tmp_path):
    (tmp_path / 'text.txt').write_text('\n'.join(LINES), encoding='utf-8')
    save_teacher(tmp_path / 'clip', 'clip', LINES)
    words = [*CLI, 'corpus', tmp_path / 'text.txt', '--out', tmp_path / 'corpus', '--vocab_size', 300]
    said = call(*words, '--block', 16, '--processes', 1, '--teacher', tmp_path / 'clip').stdout
    assert f'view of {tmp_path / "clip"}: ' in said
    examples = Examples(tmp_path / 'corpus')
    assert len(View(tmp_path / 'corpus' / 'views', tmp_path / 'clip', examples)) == len(examples)


def words_of(folder, objective='l2+sentence'):
    "A run of ten steps with a teacher from elsewhere."
    student = f'{{one: {{objective: {objective}, teacher: {folder}, layer: "1,2"}}}}'
    return [
        *SMALL,
        *('--students', student, '--student.steps', 10, '--student.save_every', 4, '--student.keep', 9),
    ]


def test_a_training_with_a_teacher_from_elsewhere_goes_on_bit_for_bit(prepared, tmp_path):
    lines = (prepared / 'corpus' / 'captions.txt').read_text(encoding='utf-8').splitlines()
    save_teacher(tmp_path / 'clip', 'clip', lines, limit=20)
    words = words_of(tmp_path / 'clip')
    found = []
    for name in ('whole', 'cut'):
        folder = tmp_path / name
        copy_of(prepared, folder, words)
        said = call(*CLI, 'views', *words, '--out', folder).stdout
        assert 'belong to no word and are masked' in said
        if name == 'cut':
            dies = [sys.executable, here / 'support' / 'dies_at.py', 'vidlankd_nb.training:optimizer_step', 7]
            call(*dies, 'student', *words, '--out', folder, code=-signal.SIGKILL)
        said = call(*CLI, 'student', *words, '--out', folder).stdout
        assert 'layers 1, 2 of 2 layers, 16 wide' in said
        found.append((folder / 'students' / 'one' / 'model.safetensors').read_bytes())
    assert found[0] == found[1]
    soft = words_of(tmp_path / 'clip', 'soft_label')
    copy_of(prepared, folder := tmp_path / 'soft', soft)
    assert "'soft_label' needs one vocabulary" in refused(*CLI, 'student', *soft, '--out', folder)
