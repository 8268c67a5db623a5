"""Tokenizers of every kind of file, and whether they know where their tokens stand."""

import importlib.util
import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CanineTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from vidlankd_nb import hub
from vidlankd_nb.encoders import load_text
from vidlankd_nb.evaluation import squad
from vidlankd_nb.evaluation.prompts import language_model
from vidlankd_nb.files import UserError
from vidlankd_nb.tokenizer import check_offsets, false_cuts, load_tokenizer, read_tokenizer

WORDS = ['Anna', 'lives', 'in', 'Paris', 'and', 'Bob', 'lives', 'in', 'Amsterdam', 'with', 'the', 'dog']
CONTEXT = 'Anna lives in Paris and Bob lives in Amsterdam with the dog.'


def byte_level(cut_first=False, prefix=False, trim=True):
    "A byte-level tokenizer; `cut_first` cuts at spaces before the bytes are looked at, which shifts its offsets."
    tok = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=prefix or cut_first)
    tok.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), bytes_]) if cut_first else bytes_
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=['<s>', '<pad>', '</s>', '<unk>', '<mask>'],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = random.Random(0)
    tok.train_from_iterator((' '.join(draw.choices(WORDS, k=12)) for _ in range(200)), trainer)
    tok.post_processor = processors.RobertaProcessing(
        ('</s>', 2), ('<s>', 0), trim_offsets=trim, add_prefix_space=prefix or cut_first
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token='<s>',
        cls_token='<s>',
        eos_token='</s>',
        sep_token='</s>',
        pad_token='<pad>',
        unk_token='<unk>',
        mask_token='<mask>',
    )


def question(answer='Amsterdam', name='1'):
    start = CONTEXT.index(answer)
    return {
        'id': name,
        'context': CONTEXT,
        'question': 'where lives Bob',
        'answers': [{'text': answer, 'start': start}],
        'impossible': False,
    }


def perfect(rows, found):
    "The texts of a model whose logits are right everywhere, through the whole way of a prediction."
    starts = [np.full(len(w['offsets']), -9.0) for w in found]
    ends = [s.copy() for s in starts]
    for window, s, e in zip(found, starts, ends, strict=True):
        s[window['start']] = e[window['end']] = 9
    return squad.answers(rows, found, starts, ends)


@pytest.mark.parametrize('kind', [{}, {'prefix': True}, {'trim': False}, {'trim': False, 'prefix': True}])
def test_true_offsets_give_a_perfect_model_every_answer(kind):
    rows = [question(), question('Paris and Bob', '2'), question('Anna', '3')]
    texts, _, listed = perfect(rows, squad.windows(byte_level(**kind), rows, 64, 16))
    assert texts == {'1': 'Amsterdam', '2': 'Paris and Bob', '3': 'Anna'}
    for row in rows:
        first = listed[row['id']][0]
        assert first['start'] == row['answers'][0]['start']
        assert CONTEXT[first['start'] : first['end']] == first['text']


def test_offsets_that_lose_letters_are_refused_before_a_training():
    rows = [question(), question('Paris', '2'), question('Bob', '3'), question('the dog', '4')]
    with pytest.raises(UserError) as e:
        squad.windows(byte_level(cut_first=True), rows, 64, 16)
    said = str(e.value)
    assert 'an EM of 0.0%' in said
    for wanted, cut in (('Amsterdam', 'msterdam'), ('Paris', 'aris'), ('Bob', 'ob')):
        assert f"'{wanted}' comes out as '{cut}'" in said


def test_an_answer_inside_a_word_is_nobodys_fault():
    rows = [question('msterdam'), question('Paris', '2')]
    found = squad.windows(byte_level(), rows, 64, 16)
    assert len(found) == 2


def test_words_are_cut_out_whole_and_alone():
    texts = [CONTEXT, 'Bob  lives,\nand Anna']
    assert false_cuts(byte_level(), texts) == ([], 16)
    wrong, seen = false_cuts(byte_level(cut_first=True), [CONTEXT])
    assert seen == 12
    assert ('Amsterdam', 'msterdam') in wrong
    check_offsets(byte_level(), texts, 'good')
    with pytest.raises(
        UserError, match=r"tokenizer of 'bad' says wrongly .*of 12 words 1[0-2] are .*Use another"
    ):
        check_offsets(byte_level(cut_first=True), [CONTEXT], 'bad')
    with pytest.raises(UserError, match=r"'canine' cannot say which characters .* save a fast one"):
        check_offsets(CanineTokenizer(), texts, 'canine')


def test_a_tokenizer_without_any_file_of_words_is_read(tmp_path):
    CanineTokenizer().save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path)('ab').input_ids[1:3] == [97, 98]


@pytest.mark.skipif(
    importlib.util.find_spec('sentencepiece') is None, reason='sentencepiece is not installed'
)
def test_a_sentencepiece_file_is_read(tmp_path):
    import sentencepiece

    (tmp_path / 'text.txt').write_text(
        '\n'.join(' '.join(WORDS[i % 6 :]) for i in range(60)), encoding='utf-8'
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / 'text.txt'),
        model_prefix=str(tmp_path / 'spm'),
        vocab_size=50,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        bos_piece='[CLS]',
        eos_piece='[SEP]',
        unk_piece='[UNK]',
        pad_piece='[PAD]',
        user_defined_symbols='[MASK]',
    )
    about = {'do_lower_case': False, 'vocab_type': 'spm', 'tokenizer_class': 'DebertaV2Tokenizer'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(about), encoding='utf-8')
    (tmp_path / 'spm.vocab').unlink()
    tok = load_tokenizer(tmp_path)
    assert tok.decode(tok('Bob lives in Paris').input_ids, skip_special_tokens=True) == 'Bob lives in Paris'
    check_offsets(tok, [CONTEXT], 'pieces')


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / 'spm.model').write_bytes(b'pieces')
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'sentencepiece' else find(name)
    )
    with pytest.raises(
        UserError, match='its vocabulary is spm.model, which the package sentencepiece reads: pip'
    ):
        load_tokenizer(tmp_path)


def test_code_of_others_is_not_run(tmp_path):
    says = {'AutoConfig': 'mine.MyConfig', 'AutoModelForMaskedLM': 'mine.MyModel'}
    (tmp_path / 'config.json').write_text(
        json.dumps({'model_type': 'mine', 'auto_map': says}), encoding='utf-8'
    )
    (tmp_path / 'mine.py').write_text("raise SystemExit('was run')", encoding='utf-8')
    with pytest.raises(
        UserError, match='Python code of its own, which is not run here .trust_remote_code stays off'
    ):
        load_text(tmp_path)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, capfd):
    asked = []

    class Session:
        def head(self, *args, **more):
            asked.append(args)
            raise OSError('no network')

    monkeypatch.setattr(hub, 'get_session', Session)
    hub.hub_answers.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(
                UserError, match='the Hugging Face hub does not answer, and nothing of that name'
            ):
                read_tokenizer('no-such-owner/no-such-model')
        with pytest.raises(
            UserError, match='names on the hub are owner/name: try google-bert/bert-base-uncased'
        ):
            read_tokenizer('bert-base-uncased')
    finally:
        hub.hub_answers.cache_clear()
    assert len(asked) == 1
    assert 'Retrying' not in ''.join(capfd.readouterr())


def test_probes_refuse_a_tokenizer_whose_offsets_lose_a_letter(tmp_path):
    shape = RobertaConfig(
        vocab_size=400,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=40,
    )
    for name, cut_first in (('true', False), ('lying', True)):
        RobertaForMaskedLM(shape).save_pretrained(tmp_path / name)
        byte_level(cut_first=cut_first).save_pretrained(tmp_path / name)
    assert language_model(tmp_path / 'true').causal is False
    with pytest.raises(UserError, match="says wrongly .* comes out as"):
        language_model(tmp_path / 'lying')
