"""Text of any kind becomes the same examples; what is none is counted, named, and can be mended."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zstandard
from support.trainings import CLI, call, refused
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from vidlankd_nb import tokenizer
from vidlankd_nb.config import Corpus
from vidlankd_nb.corpus import Examples, build_corpus, read_lines, train_tokenizer
from vidlankd_nb.files import UserError
from vidlankd_nb.texts import LeftOut, text_files
from vidlankd_nb.tokenizer import (
    WordIds,
    cuts_at_spaces,
    encoder,
    load_tokenizer,
    text_backend,
    tokenizer_fingerprint,
)

LINES = [
    f'the {a} {b} rolls to the {c}'
    for a in ('red', 'big', 'small')
    for b in ('ball', 'box', 'nader')
    for c in ('left', 'right')
]
TEXT = '\n'.join(LINES) + '\n'


def rows(folder, split='train'):
    e = Examples(folder, split)
    return [a.tolist() for a in e[np.arange(len(e))]] if len(e) else []


@pytest.fixture
def tok(tmp_path):
    (tmp_path / 'words.txt').write_text(TEXT, encoding='utf-8')
    return train_tokenizer([tmp_path / 'words.txt'], 200)


def zst(data):
    return zstandard.ZstdCompressor().compress(data[:100]) + zstandard.ZstdCompressor().compress(
        data[100:]
    )  # two frames


RECORDS = ''.join(json.dumps({'id': i, 'text': line}) + '\n' for i, line in enumerate(LINES))
PACKED = [
    ('a.txt', TEXT.encode()),
    ('a.txt.gz', gzip.compress(TEXT[:90].encode()) + gzip.compress(TEXT[90:].encode())),
    ('a.txt.bz2', bz2.compress(TEXT.encode())),
    ('a.xz', lzma.compress(TEXT.encode())),
    ('a.txt.zst', zst(TEXT.encode())),
    ('a.jsonl', RECORDS.encode()),
    ('a.jsonl.zst', zst(RECORDS.encode())),
    ('a.json.gz', gzip.compress(RECORDS.encode())),
    ('list.json', json.dumps([{'text': line} for line in LINES], indent=1).encode('utf-8-sig')),
    ('texts.json.xz', lzma.compress(json.dumps(LINES).encode())),
    ('a.crlf', TEXT.replace('\n', '\r\n').encode('utf-8-sig')),
]


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name,data', PACKED, ids=[p[0] for p in PACKED])
def test_kinds_of_files_give_the_same_examples(tmp_path, tok, name, data, packed):
    (tmp_path / name).write_bytes(data)
    assert list(read_lines(tmp_path / name)) == LINES
    m = build_corpus(
        [tmp_path / name],
        tmp_path / 'c',
        Corpus(block=12, packed=packed, valid_share=0),
        tokenizer=tok,
        part_bytes=1 << 20,
    )
    ids = [tok(line, add_special_tokens=False).input_ids for line in LINES]
    stream = [i for line in ids for i in line]
    want = [stream[i : i + 10] for i in range(0, len(stream) - 9, 10)] if packed else ids
    got, lengths = rows(tmp_path / 'c')
    assert [r[1 : n - 1] for r, n in zip(got, lengths, strict=True)] == want and m['counts']['text'] == len(
        LINES
    )


def test_parquet_and_data_sets(tmp_path, tok, monkeypatch):
    import datasets
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({'page': LINES, 'n': list(range(len(LINES)))}), tmp_path / 'a.parquet', row_group_size=4
    )
    data = datasets.Dataset.from_dict({'page': LINES})
    datasets.DatasetDict(train=data, test=data.select([0])).save_to_disk(str(tmp_path / 'd'))
    cfg = Corpus(block=12, valid_share=0, field='page', split='train')
    monkeypatch.setattr(
        datasets,
        'load_dataset',
        lambda name, configuration, split, streaming: (
            data if (name, configuration, split, streaming) == ('who/what', 'en', 'train', False) else 1 / 0
        ),
    )
    monkeypatch.setattr('vidlankd_nb.texts.ROWS', 5)
    found = []
    for k, (source, parts) in enumerate(((tmp_path / 'a.parquet', 5), (tmp_path / 'd', 4), ('who/what', 4))):
        c = Corpus(**{**vars(cfg), 'configuration': 'en'}) if source == 'who/what' else cfg
        m = build_corpus([source], tmp_path / f'c{k}', c, tokenizer=tok, part_bytes=60)
        assert len(m['parts']) == parts
        found.append(rows(tmp_path / f'c{k}'))
    assert found[0] == found[1] == found[2] and len(found[0][0]) == len(LINES)
    with pytest.raises(
        UserError, match="a.parquet has no column 'text': set field .corpus.field. to one of page, n"
    ):
        build_corpus([tmp_path / 'a.parquet'], tmp_path / 'x', Corpus(block=12), tokenizer=tok)
    with pytest.raises(UserError, match='has the splits train, test: set split'):
        build_corpus([tmp_path / 'd'], tmp_path / 'x', Corpus(block=12, field='page'), tokenizer=tok)
    assert pd.read_parquet(tmp_path / 'a.parquet').page.tolist() == LINES


def test_records_without_text_are_counted_and_are_no_word(tmp_path, tok):
    records = [
        {'text': LINES[0]},
        {'text': None},
        {'text': ['a']},
        {'text': 'two\nlines of text'},
        [1],
        {'text': 7},
    ]
    (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, records)) + '\n', encoding='utf-8')
    m = build_corpus([tmp_path / 'a.jsonl'], tmp_path / 'c', Corpus(block=12, valid_share=0), tokenizer=tok)
    assert m['counts']['no_text'] == 4 and m['counts']['text'] == 3 and 'records' not in m['counts']
    named = [
        json.loads(line)
        for line in (tmp_path / 'c' / 'left_out.jsonl').read_text(encoding='utf-8').splitlines()
    ]
    at = len(json.dumps(records[0])) + 1
    assert (
        named[0] == {'where': f"{tmp_path / 'a.jsonl'} at byte {at:,}", 'reason': 'no_text'}
        and len(named) == 4
    )
    build_corpus([tmp_path / 'a.jsonl'], tmp_path / 'own', Corpus(block=12, valid_share=0))
    assert 'none' not in load_tokenizer(tmp_path / 'own' / 'tokenizer').get_vocab()


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz', 'a.jsonl'])
def test_bytes_that_are_no_text(tmp_path, tok, name):
    raw = [line.encode() for line in LINES]
    raw[5] = raw[5].replace(b'ball', b'b\xffll').replace(b'box', b'b\xffx').replace(b'nader', b'n\xffder')
    lines = [b'{"text": "' + line + b'"}' for line in raw] if name == 'a.jsonl' else raw
    data = b'\n'.join(lines) + b'\n'
    place = data.index(b'\xff')
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith('gz') else data)

    def build(errors, out):
        return build_corpus(
            [tmp_path / name], tmp_path / out, Corpus(block=12, valid_share=0, errors=errors), tokenizer=tok
        )

    with pytest.raises(UserError, match=f'{name} is not UTF-8 text at byte {place:,}: convert it'):
        build('strict', 'c')
    assert (
        build('skip', 'c')['counts'] | {'skipped': 1, 'text': 17} == build('skip', 'd')['counts']
    )  # the build goes on under another rule
    assert [
        json.loads(x) for x in (tmp_path / 'c' / 'left_out.jsonl').read_text(encoding='utf-8').splitlines()
    ] == [{'where': f'{tmp_path / name} at byte {place:,}', 'reason': 'skipped'}]
    assert build('replace', 'e')['counts']['replaced'] == 1
    assert list(read_lines(tmp_path / name, cfg=Corpus(errors='replace'))) == [
        line.decode('utf-8', 'replace') for line in raw
    ]


def test_half_a_character_in_a_record(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": "half \\ud83d of it"}\n{"text": "whole"}\n', encoding='utf-8')
    with pytest.raises(UserError, match='a.jsonl at byte 0 holds half a character'):
        list(read_lines(tmp_path / 'a.jsonl'))
    assert list(read_lines(tmp_path / 'a.jsonl', cfg=Corpus(errors='skip'))) == ['whole']
    assert list(read_lines(tmp_path / 'a.jsonl', cfg=Corpus(errors='replace'))) == ['half ? of it', 'whole']


def test_a_mended_file_goes_on_and_keeps_finished_parts(tmp_path, tok):
    tok.save_pretrained(tmp_path / 'tok')
    raw = TEXT.encode()
    bad = raw[:400] + b'\xff' + raw[401:]
    (tmp_path / 'a.txt').write_bytes(raw)
    (tmp_path / 'b.txt').write_bytes(bad)
    cfg = Corpus(block=12, valid_share=0.2, tokenizer=str(tmp_path / 'tok'))

    def build(out):
        return build_corpus([tmp_path / 'a.txt', tmp_path / 'b.txt'], tmp_path / out, cfg, part_bytes=150)

    with pytest.raises(UserError, match='b.txt is not UTF-8 text at byte 400'):
        build('c')
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / 'c').glob('*.arrow')}
    assert len(kept) > 6
    (tmp_path / 'b.txt').write_bytes(raw[:390] + b'zebra\n' + raw[390:])  # mended, and longer
    build('c')
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / 'c').glob('*.arrow')}
    assert {k: now[k] for k in kept} == kept, 'finished parts were made again'
    build('d')
    assert {p.name: p.read_bytes() for p in (tmp_path / 'c').glob('*.arrow')} == {
        p.name: p.read_bytes() for p in (tmp_path / 'd').glob('*.arrow')
    }
    (tmp_path / 'a.txt').write_bytes(raw.upper())
    with pytest.raises(UserError, match='another text'):
        build('c')  # finished: it belongs to its text


def test_a_part_whose_bytes_changed_is_made_again(tmp_path, tok):
    tok.save_pretrained(tmp_path / 'tok')
    (tmp_path / 'a.txt').write_bytes(TEXT.encode())
    (tmp_path / 'b.txt').write_bytes(b'\xff\n')
    cfg = Corpus(block=12, valid_share=0, tokenizer=str(tmp_path / 'tok'))

    def build(out):
        return build_corpus([tmp_path / 'a.txt', tmp_path / 'b.txt'], tmp_path / out, cfg, part_bytes=150)

    with pytest.raises(UserError, match='b.txt'):
        build('c')
    (tmp_path / 'a.txt').write_bytes(TEXT.replace('red', 'big').encode())
    (tmp_path / 'b.txt').write_bytes(b'the red box\n')
    build('c'), build('d')
    assert rows(tmp_path / 'c') == rows(tmp_path / 'd')


def test_a_vocabulary_belongs_to_the_text_it_was_trained_on(tmp_path, monkeypatch):
    import vidlankd_nb.corpus as c

    (tmp_path / 'a.txt').write_text(TEXT, encoding='utf-8')

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(c, 'encode_part', stop)
        with pytest.raises(KeyboardInterrupt):
            build_corpus([tmp_path / 'a.txt'], tmp_path / 'c', Corpus(block=12))
    (tmp_path / 'a.txt').write_text(TEXT + 'zebra\n', encoding='utf-8')
    with pytest.raises(UserError, match='another text'):
        build_corpus([tmp_path / 'a.txt'], tmp_path / 'c', Corpus(block=12))


def test_a_long_line_takes_bounded_memory(tmp_path, tok):
    "Twelve megabytes without a line end; cut at spaces, no token is lost, and what Python holds is a small multiple of a piece."
    n = 2 << 20
    with open(tmp_path / 'long.txt', 'w', encoding='utf-8') as f:
        for _ in range(0, n, 1 << 16):
            f.write('the ba' * (1 << 16))
    size = (tmp_path / 'long.txt').stat().st_size
    assert size > 12e6
    tracemalloc.start()
    spaces = pieces = 0
    for piece in read_lines(tmp_path / 'long.txt'):
        spaces += piece.count(' ')
        pieces += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spaces + pieces - 1 == n  # the space at which a piece is cut is stripped
    assert pieces == 13 and peak < 8 << 20
    (tmp_path / 'short.txt').write_text('the red ball ' * 200_000, encoding='utf-8')
    m = build_corpus(
        [tmp_path / 'short.txt'],
        tmp_path / 'c',
        Corpus(block=128, packed=True, valid_share=0),
        tokenizer=tok,
        part_bytes=1 << 20,
    )
    assert m['counts']['cut_lines'] == 2 and m['counts']['text'] == 3
    assert m['counts']['train_examples'] * 126 + m['counts']['dropped_tokens'] == 600_000


ONE_LINE = """
import resource, sys
from vidlankd_nb.config import Corpus
from vidlankd_nb.corpus import build_corpus
from vidlankd_nb.tokenizer import load_tokenizer
load_tokenizer(sys.argv[2])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)
before = peak()
cfg = Corpus(block=128, packed=True, tokenizer=sys.argv[2], valid_share=0)
made = build_corpus([sys.argv[1]], sys.argv[3], cfg)
print(peak() - before, made['counts']['cut_lines'])
"""


@pytest.mark.skipif(os.name == 'nt', reason='Windows does not say how much a process took')
def test_a_line_of_six_megabytes_takes_less_than_eighty_times_its_size(tmp_path, tok):
    "Encoded as a whole it took 150 times its size, 7.3 GB for a line of 50 MB; in pieces a constant."
    tok.save_pretrained(tmp_path / 'tok')
    (tmp_path / 'line.txt').write_text('the red ball rolls over ' * 250_000, encoding='utf-8')
    words = [sys.executable, '-c', ONE_LINE, *(str(tmp_path / name) for name in ('line.txt', 'tok', 'c'))]
    said = subprocess.run(words, check=True, capture_output=True, encoding='utf-8', timeout=240).stdout
    grown, cuts = map(int, said.split())
    assert cuts == 5 and grown < 480e6, grown


def test_a_word_without_an_end_does_not_stop_the_training(tmp_path):
    "Merging the letters of one word of 600,000 took hours; WordPiece makes [UNK] of it anyway."
    words = 'the red ball rolls left and the blue ball rolls right\n' * 20
    (tmp_path / 'plain.txt').write_text(words, encoding='utf-8')
    plain = train_tokenizer([tmp_path / 'plain.txt'], 120)
    endless = 'redballleft' * 60_000
    (tmp_path / 'both.txt').write_text(f'{words}{endless}\n', encoding='utf-8')
    both = train_tokenizer([tmp_path / 'both.txt'], 120)
    assert both.get_vocab() == plain.get_vocab()
    assert both.tokenize(f'the {endless} ball') == ['the', '[UNK]', 'ball']
    chinese = '红球滚向左边。' * 30  # 210 characters without a space, each of them a word
    (tmp_path / 'chinese.txt').write_text(f'{words}{chinese}\n' * 3, encoding='utf-8')
    assert set('红球滚向左边。') <= set(train_tokenizer([tmp_path / 'chinese.txt'], 200).get_vocab())


@pytest.mark.parametrize('packed', [False, True])
def test_special_tokens_spelled_in_a_text_are_text(tmp_path, packed):
    lines = ['the red ball rolls', 'the [MASK] ball [SEP] rolls [PAD] left', 'a [CLS] b [UNK]'] * 10
    (tmp_path / 't.txt').write_text('\n'.join(lines), encoding='utf-8')
    build_corpus(
        [tmp_path / 't.txt'], tmp_path / 'c', Corpus(block=24, packed=packed, valid_share=0, vocab_size=200)
    )
    tok = load_tokenizer(tmp_path / 'c' / 'tokenizer')
    ids, lengths = rows(tmp_path / 'c')
    inner = [r[1 : n - 1] for r, n in zip(ids, lengths, strict=True)]
    assert not {i for r in inner for i in r} & set(tok.all_special_ids)
    text = ' '.join(tok.convert_ids_to_tokens(inner[1])).replace(' ##', '') if not packed else ''
    assert packed or text == 'the [ mask ] ball [ sep ] rolls [ pad ] left'
    assert tok('[MASK]', add_special_tokens=False).input_ids == [
        tok.mask_token_id
    ]  # for people who ask a model, it is the mask


def test_special_tokens_spelled_in_a_caption_are_text(tmp_path, tok):
    from test_pairs import caption, make_store

    from vidlankd_nb.config import Pairs
    from vidlankd_nb.pairs import assemble, make_pairs

    make_store(tmp_path / 'f', 1)
    train, *_ = make_pairs(
        tmp_path / 'f', {'v000': caption((0, 3, 'the [MASK] ball'))}, Pairs(valid_share=0), tmp_path / 'p'
    )
    got = assemble(train, tok, Pairs(), [0])
    assert tok.mask_token_id not in got['ids'] and tok.sep_token_id == got['ids'][0, got['tokens'][0] - 1]


ODD = [
    'a',
    'Z',
    'é',
    'e\u0301',
    'Σ',
    'ß',
    'İ',
    '中',
    '☃',
    '😀',
    '\u0300',
    '\u200d',
    '\u3000',
    '\xa0',
    '\t',
    '\x1c',
    '\x00',
]
ODD += [' ', '  ', '.', '#', '##', "'", '[MASK]', '[SEP]', '[', '1', 'ball', 'x' * 101, '\ufffd', '\u2028']


def odd_lines(count):
    "Lines of letters, signs and spaces in any order."
    pick = np.random.default_rng(0)
    return [''.join(pick.choice(ODD, pick.integers(0, 12))) for _ in range(count)]


def level_of_words(cut, clean=None, added=()):
    "A tokenizer of whole words."
    inner = Tokenizer(
        models.WordLevel({'[UNK]': 0, 'ball': 1, 'a': 2, '.': 3, 'red': 4, '[MASK]': 5}, '[UNK]')
    )
    inner.pre_tokenizer, inner.normalizer = cut, clean
    inner.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token='[UNK]', mask_token='[MASK]')


def asked_once(tok):
    return cuts_at_spaces(text_backend(tok))


def test_the_short_way_gives_the_library_s_ids(tok):
    lines = [*LINES, '', 'Ünknown ☃ words', 'a  b\tc', 'x' * 300, *odd_lines(3000)]
    cased = BertTokenizerFast(vocab=tok.get_vocab(), do_lower_case=False)
    words = level_of_words(pre_tokenizers.WhitespaceSplit(), normalizers.NFD(), ['red-ball'])
    for one in (tok, cased, words):
        assert asked_once(one)
        assert (
            encoder(one)(lines) and not one.backend_tokenizer.encode_special_tokens
        )  # theirs stays as it was
        wanted = one(lines, add_special_tokens=False, split_special_tokens=True).input_ids
        assert encoder(one)(lines) == wanted and encoder(one)(lines[::-1]) == wanted[::-1]


@pytest.mark.parametrize(
    'odd',
    [
        level_of_words(pre_tokenizers.WhitespaceSplit(), added=['red ball']),  # one piece with a space in it
        level_of_words(pre_tokenizers.Split(' ', 'merged_with_next')),
        level_of_words(pre_tokenizers.Metaspace()),
        level_of_words(pre_tokenizers.Whitespace(), normalizers.Replace(' ', '')),
        level_of_words(None),
    ],
)
def test_where_a_space_is_more_than_a_cut_whole_lines_are_asked(odd):
    lines = ['a red ball .', 'a  red ball', *odd_lines(300)]
    assert not asked_once(odd)
    assert encoder(odd)(lines) == odd(lines, add_special_tokens=False, split_special_tokens=True).input_ids


def test_words_that_are_kept_are_bounded(tok, monkeypatch):
    "Neither endless words nor endlessly many stay in memory."
    monkeypatch.setattr(tokenizer, 'WORDS_KEPT', 5)
    words = WordIds(text_backend(tok))
    lines = [*LINES, 'x' * 200]
    assert [words.of_line(line) for line in lines] == tok(lines, add_special_tokens=False).input_ids
    assert 0 < len(words) <= 5 and 'x' * 200 not in words


def test_a_slow_tokenizer_works(tmp_path, tok):
    "One in Python: the same build, and a fingerprint that another vocabulary changes."
    transformers = pytest.importorskip('transformers')
    base = getattr(transformers, 'CanineTokenizer', None)
    if base is None:
        pytest.skip('no tokenizer in Python in this version')
    slow = base()
    assert getattr(slow, 'backend_tokenizer', None) is None
    slow.save_pretrained(tmp_path / 'slow')
    again = load_tokenizer(tmp_path / 'slow')
    assert (
        tokenizer_fingerprint(again)
        == tokenizer_fingerprint(load_tokenizer(tmp_path / 'slow'))
        != tokenizer_fingerprint(tok)
    )
    (tmp_path / 't.txt').write_text('red ball\n' * 5, encoding='utf-8')
    m = build_corpus(
        [tmp_path / 't.txt'],
        tmp_path / 'c',
        Corpus(block=12, valid_share=0, tokenizer=str(tmp_path / 'slow')),
    )
    assert m['counts']['train_examples'] == 5
    assert [r[1 : n - 1] for r, n in zip(*rows(tmp_path / 'c'), strict=True)][0] == [
        ord(c) for c in 'red ball'
    ]


def test_linked_folders_are_followed_and_loops_are_cut(tmp_path):
    (tmp_path / 'real').mkdir(), (tmp_path / 'text').mkdir()
    (tmp_path / 'real' / 'a.txt').write_text('linked\n', encoding='utf-8')
    (tmp_path / 'text' / 'b.txt').write_text('here\n', encoding='utf-8')
    (tmp_path / 'text' / 'more').symlink_to(tmp_path / 'real')
    (tmp_path / 'real' / 'loop').symlink_to(tmp_path / 'text')

    assert [f.name for f in text_files([tmp_path / 'text'])] == ['b.txt', 'a.txt']


@contextmanager
def nobody():
    "A user whose permissions count; the tests may run as root, for whom none do."
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_what_may_not_be_read_is_counted_and_named():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        text = Path(folder) / 'text'
        for name in ('open/a.txt', 'closed/b.txt', 'c.txt'):
            (text / name).parent.mkdir(parents=True, exist_ok=True)
            (text / name).write_text(TEXT, encoding='utf-8')
        (text / 'closed').chmod(0)
        (text / 'c.txt').chmod(0)
        left = LeftOut()
        with nobody():
            with pytest.raises(UserError, match=r'The file .*c.txt cannot be read \(permission denied\)'):
                text_files([text])
            with pytest.raises(UserError, match=r'The folder .*closed cannot be read \(permission denied\)'):
                text_files([text / 'closed'])
            assert [f.name for f in text_files([text], 'skip', left)] == ['a.txt']
            with pytest.raises(UserError, match=r'holds no files of text; 1 may not be read'):
                text_files([text / 'closed'], 'skip')
        (text / 'closed').chmod(0o755)
        assert left.counts == {'unreadable': 2}
        assert [p['where'] for p in left.places] == [str(text / 'c.txt'), str(text / 'closed')]


def test_a_build_says_what_it_could_not_read(tmp_path, tok, monkeypatch):
    for name in ('a.txt', 'b.txt'):
        (tmp_path / 'text').mkdir(exist_ok=True)
        (tmp_path / 'text' / name).write_text(TEXT, encoding='utf-8')
    opened = open

    def denied(file, *args, **kwargs):
        if str(file).endswith('b.txt'):
            raise PermissionError(13, 'Permission denied')
        return opened(file, *args, **kwargs)

    monkeypatch.setattr('builtins.open', denied)
    cfg = Corpus(block=16, errors='skip', valid_share=0.0)
    counts = build_corpus([tmp_path / 'text'], tmp_path / 'c', cfg, tokenizer=tok)['counts']
    assert counts['unreadable'] == 1 and counts['text'] == len(LINES)
    where = json.loads((tmp_path / 'c' / 'left_out.jsonl').read_text(encoding='utf-8'))
    assert where == {'where': str(tmp_path / 'text' / 'b.txt'), 'reason': 'unreadable'}


@pytest.mark.parametrize('mark', ['', '\ufeff'])
@pytest.mark.parametrize('page', ['utf-16-le', 'utf-16-be', 'utf-32-le', 'utf-32-be'])
def test_text_in_utf16_is_refused_or_skipped_as_a_whole(tmp_path, page, mark):
    file = tmp_path / 'a.txt'
    file.write_bytes(f'{mark}one\ntwo\n'.encode(page))
    told = page[:6].upper() if mark else page.upper()
    for errors in ('strict', 'replace'):
        with pytest.raises(UserError, match=f'a.txt is text in {told}: convert it .iconv -f {told} '):
            list(read_lines(file, cfg=Corpus(errors=errors)))
    left = LeftOut()
    assert list(read_lines(file, cfg=Corpus(errors='skip'), left=left)) == []
    assert left.counts == {'skipped': 1} and left.places[0]['where'] == str(file)


def test_a_list_of_json_is_read_item_by_item(tmp_path):
    file = tmp_path / 'a.json'
    file.write_text(json.dumps([{'text': 'one\ntwo'}, {'text': None}, 'three', 4]), encoding='utf-8')
    left = LeftOut()
    assert list(read_lines(file, left=left)) == ['one', 'two', 'three'] and left.counts == {'no_text': 2}
    for content, said in (
        (json.dumps([{'said': 'x'}]).encode(), "no column 'text'.*one of said"),
        (b'[{"text": "x"}, {"te', 'no list of JSON .*ends too early'),
        (b'["caf\xe9"]', 'not utf-8 text .*iconv'),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            list(read_lines(file))


def test_damaged_files_are_named(tmp_path):
    whole = gzip.compress(
        ''.join(f'{i} line\n' for i in np.random.default_rng(0).integers(0, 1 << 60, 5000)).encode()
    )
    (tmp_path / 'half.gz').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'no.zst').write_bytes(b'not packed')
    (tmp_path / 'no.parquet').write_bytes(b'not parquet')
    for name in ('half.gz', 'no.zst', 'no.parquet'):
        with pytest.raises(UserError, match=f'{name} cannot be read'):
            list(read_lines(tmp_path / name))
    (tmp_path / 'torn.jsonl').write_text('{"text": "a"}\n{"text": \n', encoding='utf-8')
    with pytest.raises(UserError, match='torn.jsonl at byte 14 is no line of JSON'):
        list(read_lines(tmp_path / 'torn.jsonl'))
    assert list(read_lines(tmp_path / 'torn.jsonl', cfg=Corpus(errors='skip'))) == ['a']


def test_the_command_line(tmp_path):
    with gzip.open(tmp_path / 'a.jsonl.gz', 'wt', encoding='utf-8') as f:
        f.writelines(json.dumps({'page': line}) + '\n' for line in [*LINES, None])
    said = call(
        *CLI,
        'corpus',
        tmp_path / 'a.jsonl.gz',
        '--field',
        'page',
        '--tokenizer',
        'train',
        '--block',
        '12',
        '--out',
        tmp_path / 'c',
        '--processes',
        '1',
    ).stdout
    assert 'from 18 lines' in said and '1 records without text' in said and 'left_out.jsonl' in said
    assert "has no column 'text'" in refused(
        *CLI, 'corpus', tmp_path / 'a.jsonl.gz', '--block', '12', '--out', tmp_path / 'd'
    )
    (tmp_path / 'l.txt').write_bytes(b'caf\xe9 au lait\n' + TEXT.encode())
    assert 'l.txt is not UTF-8 text at byte 3' in refused(
        *CLI, 'corpus', tmp_path / 'l.txt', '--block', '12', '--out', tmp_path / 'e'
    )
    assert (
        '1 lines or texts with bytes that are no text, replaced'
        in call(
            *CLI,
            'corpus',
            tmp_path / 'l.txt',
            '--errors',
            'replace',
            '--block',
            '12',
            '--out',
            tmp_path / 'e',
        ).stdout
    )


def test_what_moved_is_found_where_it_was():
    from vidlankd_nb import corpus, masking

    assert corpus.TextBatches is masking.TextBatches
    with pytest.raises(ImportError):
        exec('from vidlankd_nb.corpus import TextBatch')
