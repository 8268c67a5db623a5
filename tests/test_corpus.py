"""Building a corpus in parts, in several processes, with odd files."""

import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.trainings import CLI, call, here, refused

from vidlankd_nb import cli
from vidlankd_nb.config import Corpus
from vidlankd_nb.corpus import Examples, build_corpus, read_lines, train_tokenizer
from vidlankd_nb.files import UserError
from vidlankd_nb.masking import Masker, TextBatches
from vidlankd_nb.tokenizer import load_tokenizer, special_ids

LINES = [
    f'the {a} {b} rolls to the {c} number {i}'
    for i, (a, b, c) in enumerate(
        (a, b, c)
        for a in ('red', 'big', 'small')
        for b in ('ball', 'box', 'nader')
        for c in ('left', 'right')
    )
    for _ in range(3)
]


@pytest.fixture
def text(tmp_path):
    (tmp_path / 'a.txt').write_text('\n'.join(LINES) + '\n', encoding='utf-8')
    return tmp_path / 'a.txt'


def rows(folder, split='train'):
    e = Examples(folder, split)
    return [a.tolist() for a in e[np.arange(len(e))]] if len(e) else []


@pytest.mark.parametrize('packed', [False, True])
def test_processes_change_nothing(text, tmp_path, packed):
    cfg = Corpus(block=16, packed=packed, valid_share=0.3)
    build_corpus([text], tmp_path / 'one', cfg, part_bytes=300)
    build_corpus([text], tmp_path / 'two', cfg, part_bytes=300, processes=2)
    for split in ('train', 'valid'):
        assert rows(tmp_path / 'one', split) == rows(tmp_path / 'two', split)
    assert len(Examples(tmp_path / 'one').manifest['parts']) > 5


def test_an_interrupted_build_goes_on(text, tmp_path, monkeypatch):
    import vidlankd_nb.corpus as c

    cfg, done = Corpus(block=16), []
    original = c.encode_part

    def stop_at_third(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return original(*args)

    monkeypatch.setattr(c, 'encode_part', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([text], tmp_path / 'c', cfg, part_bytes=300)
    with pytest.raises(UserError, match='corpus.json is missing'):
        Examples(tmp_path / 'c')
    monkeypatch.setattr(c, 'encode_part', original)
    build_corpus([text], tmp_path / 'c', cfg, part_bytes=300)
    build_corpus([text], tmp_path / 'd', cfg, part_bytes=300)
    assert rows(tmp_path / 'c') == rows(tmp_path / 'd')


def test_every_line_is_an_example_or_counted(text, tmp_path):
    text.write_bytes(
        b'\xef\xbb\xbffirst line here\r\n\r\n = Heading = \r\n<doc id="1">\r\nlast line without an end'
    )
    m = build_corpus([text], tmp_path / 'c', Corpus(block=16, valid_share=0.0))
    assert (
        m['counts']['text'],
        m['counts']['blank'],
        m['counts']['markup'],
        m['counts']['train_examples'],
    ) == (2, 1, 2, 2)
    tok = load_tokenizer(tmp_path / 'c' / 'tokenizer')
    assert tok.decode(rows(tmp_path / 'c')[0][0], skip_special_tokens=True) == 'first line here'


def test_packed_blocks_hold_the_stream(text, tmp_path):
    cfg = Corpus(block=16, packed=True, valid_share=0.0)
    m = build_corpus([text], tmp_path / 'c', cfg)
    tok = load_tokenizer(tmp_path / 'c' / 'tokenizer')
    stream = [i for line in LINES for i in tok(line, add_special_tokens=False).input_ids]
    ids, lengths = rows(tmp_path / 'c')
    assert [i for r in ids for i in r[1:-1]] == stream[: len(ids) * 14] and set(lengths) == {16}
    assert m['counts']['dropped_tokens'] == len(stream) - len(ids) * 14 < 14


def test_the_same_sentence_is_never_on_both_sides(text, tmp_path):
    text.write_text('\n'.join(LINES * 3), encoding='utf-8')
    build_corpus([text], tmp_path / 'c', Corpus(block=16, valid_share=0.4))
    train, valid = ({tuple(r) for r in rows(tmp_path / 'c', s)[0]} for s in ('train', 'valid'))
    assert train and valid and not train & valid


def test_errors_name_file_and_cure(text, tmp_path):
    with pytest.raises(UserError, match='No text file'):
        build_corpus([tmp_path / 'absent.txt'], tmp_path / 'c', Corpus())
    (tmp_path / 'blank.txt').write_text('\n \n', encoding='utf-8')
    with pytest.raises(UserError, match='blank.txt'):
        build_corpus([tmp_path / 'blank.txt'], tmp_path / 'c', Corpus())
    (tmp_path / 'latin.txt').write_bytes('caf\xe9 au lait\n'.encode('latin-1'))
    with pytest.raises(UserError, match='latin.txt is not UTF-8'):
        build_corpus([tmp_path / 'latin.txt'], tmp_path / 'c', Corpus())
    for out in (text, text / 'c'):
        with pytest.raises(UserError, match='cannot be made'):
            build_corpus([text], out, Corpus())
    with pytest.raises(UserError, match='at least two tokens'):
        build_corpus([text], tmp_path / 'c', Corpus(block=3))


def test_a_vocabulary_without_room_for_its_letters_is_refused(tmp_path):
    "Five special tokens, and two letters that begin a word or go on with one: nine."
    (tmp_path / 'ab.txt').write_text('ab ba\n' * 40, encoding='utf-8')
    cfg = Corpus(block=6, vocab_size=8)
    with pytest.raises(UserError, match='vocab_size is 8, and .* are 9'):
        build_corpus([tmp_path / 'ab.txt'], tmp_path / 'c', cfg)
    build_corpus([tmp_path / 'ab.txt'], tmp_path / 'd', replace(cfg, vocab_size=9))
    assert len(load_tokenizer(tmp_path / 'd' / 'tokenizer')) == 9


def test_a_folder_belongs_to_one_text_and_its_settings(text, tmp_path):
    cfg = Corpus(block=16)
    build_corpus([text], tmp_path / 'c', cfg)
    before = rows(tmp_path / 'c')
    build_corpus([text], tmp_path / 'c', replace(cfg, mask_share=0.3))  # masks are drawn later
    for changed in (dict(block=20), dict(packed=True), dict(vocab_size=60), dict(valid_share=0.3)):
        with pytest.raises(UserError, match=f'another {next(iter(changed))}'):
            build_corpus([text], tmp_path / 'c', replace(cfg, **changed))
    text.write_text(text.read_text(encoding='utf-8') + 'one more line\n', encoding='utf-8')
    with pytest.raises(UserError, match='another text'):
        build_corpus([text], tmp_path / 'c', cfg)
    assert rows(tmp_path / 'c') == before


def test_killed_and_built_again_through_the_command_line(text, tmp_path):
    "Text of three files, SIGKILL in the second: the same command goes on, in two processes this time, with the same bytes."
    for k in range(3):
        (tmp_path / 'text').mkdir(exist_ok=True)
        (tmp_path / 'text' / f'{k}.txt').write_text(
            '\n'.join(f'{line} of file {k}' for line in LINES), encoding='utf-8'
        )
    words = ['corpus', tmp_path / 'text', '--tokenizer', 'train', '--vocab_size', 100, '--block', 16, '--out']
    call(
        sys.executable,
        here / 'support' / 'dies_at.py',
        'vidlankd_nb.corpus:write_rows',
        4,
        *words,
        tmp_path / 'c',
        '--processes',
        1,
        code=-signal.SIGKILL,
    )
    assert not (tmp_path / 'c' / 'corpus.json').exists()
    for out in ('c', 'd'):
        said = call(*CLI, *words, tmp_path / out, '--processes', 2).stdout
    assert '162 lines' in said and {p.name: p.read_bytes() for p in (tmp_path / 'c').glob('*.arrow')} == {
        p.name: p.read_bytes() for p in (tmp_path / 'd').glob('*.arrow')
    }
    assert 'another block (16, not 32)' in refused(
        *CLI, *[32 if w == 16 else w for w in words], tmp_path / 'c'
    )


def test_a_folder_of_wiki_extractor(tmp_path):
    for k, part in enumerate(('AA/wiki_00', 'AA/wiki_01', 'AB/wiki_00')):
        file = tmp_path / 'wiki' / part
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f'<doc id="{k}" url="x" title="T{k}">\nT{k}\n\nthe ball of page {k} rolls\n\n</doc>\n',
            encoding='utf-8',
        )
    m = build_corpus([tmp_path / 'wiki'], tmp_path / 'c', Corpus(block=16, valid_share=0.0))
    assert (m['counts']['text'], m['counts']['markup'], len(m['parts'])) == (
        3,
        9,
        3,
    )  # tags and the titles they repeat are markup
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='holds no files of text'):
        build_corpus([tmp_path / 'empty'], tmp_path / 'd', Corpus())


@pytest.mark.parametrize(
    'title,said',
    [('Tom & "Jerry"', 'Tom & "Jerry"'), ('Tom &amp; Jerry', 'Tom & Jerry'), ('Zürich', 'Zürich')],
)
def test_a_title_is_left_out_wherever_a_part_begins(tmp_path, title, said):
    "Only the line after the tag, and only when it says the title; a part that begins there looks one line back."
    (tmp_path / 'w.txt').write_text(
        f'before\n<doc id="1" url="x" title="{title}">\n{said}\n\n{said}\nit rolls\n</doc>\n<doc id="2" title="A">\nB\n</doc>\n',
        encoding='utf-8',
        newline='\n',
    )
    whole, size = list(read_lines(tmp_path / 'w.txt')), (tmp_path / 'w.txt').stat().st_size
    assert whole == ['before', said, 'it rolls', 'B']
    for cut in range(1, size):
        assert [
            *read_lines(tmp_path / 'w.txt', stop=cut),
            *read_lines(tmp_path / 'w.txt', start=cut),
        ] == whole
    (tmp_path / 'w.txt').write_bytes((tmp_path / 'w.txt').read_bytes().replace(b'\n', b'\r\n'))
    assert list(read_lines(tmp_path / 'w.txt')) == whole


def test_a_damaged_or_missing_part_is_named(text, tmp_path):
    build_corpus([text], tmp_path / 'c', Corpus(block=16))
    part = next((tmp_path / 'c').glob('train-*.arrow'))
    for spoil in (
        lambda: part.write_bytes(part.read_bytes()[:100]),
        lambda: part.write_bytes(b''),
        part.unlink,
    ):
        spoil()
        with pytest.raises(UserError, match=f'{part.name} cannot be read'):
            Examples(tmp_path / 'c')


def test_the_vocabulary_does_not_depend_on_the_process(text, tmp_path):
    import subprocess

    code = f"from vidlankd_nb.corpus import train_tokenizer; from vidlankd_nb.tokenizer import tokenizer_fingerprint; print(tokenizer_fingerprint(train_tokenizer([{str(text)!r}], 120)))"
    found = {
        subprocess.run([sys.executable, '-c', code], capture_output=True, check=True, encoding='utf-8').stdout
        for _ in range(3)
    }
    assert len(found) == 1


def test_masks_do_not_depend_on_batches(text):
    tok = train_tokenizer([text], 200)
    ids = np.random.default_rng(0).integers(5, len(tok), (12, 20))
    special = np.zeros_like(ids, bool)
    special[:, 0] = special[:, -1] = True
    m = Masker(tok, seed=3)
    whole = m(ids, special, np.arange(12), 2)
    order = np.random.default_rng(1).permutation(12)
    for part in np.array_split(order, 5):
        some = m(ids[part], special[part], part, 2)
        for a, b in zip(some, whole, strict=True):
            assert (a == b[part]).all()
    assert (m(ids, special, np.arange(12), 1)[1] != whole[1]).any() and (
        Masker(tok, seed=4)(ids, special, np.arange(12), 2)[1] != whole[1]
    ).any()


@pytest.mark.parametrize('packed', [False, True])
def test_an_unknown_word_is_special(text, tmp_path, packed):
    "It is marked so in every batch, never hidden, never what is asked, and never put in place of a word."
    tok = train_tokenizer([text], 200)
    (tmp_path / 'u.txt').write_text(
        '\n'.join(f'the red ☃ {c} rolls to the left' for c in ('ball', 'box', 'nader') * 9), encoding='utf-8'
    )
    build_corpus(
        [tmp_path / 'u.txt'], tmp_path / 'c', Corpus(block=10, packed=packed, valid_share=0), tokenizer=tok
    )
    batches = TextBatches(Examples(tmp_path / 'c'), tok)
    rows = np.arange(len(batches))
    ids, lengths = batches.examples[rows]
    unknown = ids == tok.unk_token_id
    assert unknown.sum() >= len(rows) // 2
    assert (
        special_ids(tok).tolist()
        == [0, 1, 2, 3, 4]
        == sorted(tok.convert_tokens_to_ids(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']))
    )
    for epoch in range(40):
        b = batches.batch(rows, epoch)
        given, asked = b['input_ids'].numpy(), b['labels'].numpy()
        assert (b['special'].numpy() == (unknown | (ids == 0) | (ids == 2) | (ids == 3))).all()
        assert ((given == tok.unk_token_id) == unknown).all() and (asked != tok.unk_token_id).all()
        hidden = np.take_along_axis(unknown, b['masked_at'].numpy(), 1)
        assert not hidden[asked != -100].any()


def test_a_broken_tokenizer_is_named(tmp_path):
    "A torn file, another file of that name, and one that is gone while its settings are there."
    for content in ('{', '{"a": 1}', '[]', None):
        folder = tmp_path / f'tokenizer-{len(content or "")}'
        folder.mkdir(exist_ok=True)
        (tmp_path / 'lines.txt').write_text('\n'.join(LINES), encoding='utf-8')
        train_tokenizer([tmp_path / 'lines.txt'], 60).save_pretrained(folder)
        file = folder / 'tokenizer.json'
        file.unlink() if content is None else file.write_text(content, encoding='utf-8')
        with pytest.raises(UserError, match='tokenizer.json'):
            load_tokenizer(folder)


@pytest.fixture(scope='module')
def long_lines(tmp_path_factory):
    "Ten lines of ten words, one of thirty, a heading, and one with a byte that is no text."
    file = tmp_path_factory.mktemp('long') / 'text.txt'
    short = [
        f'{digit} are some words of a line that is read'
        for digit in ['one', 'two', 'three', 'four', 'five', 'six']
    ]
    file.write_bytes(
        '\n'.join([*short, '= Heading =', ' '.join(['word'] * 30)]).encode() + b'\ncaf\xe9 au lait\n'
    )
    return file


def test_what_a_corpus_cuts_and_leaves_out_is_said(long_lines, tmp_path, capsys):
    words = [
        '--errors',
        'replace',
        '--tokenizer',
        'train',
        '--block',
        '16',
        '--valid_share',
        '0',
        '--packed',
        'false',
    ]
    cli.main(['corpus', str(long_lines), *words, '--out', str(tmp_path / 'c'), '--processes', '1'])
    said = capsys.readouterr().out
    assert '1 lines of more than 14 tokens lose their end: corpus.block is 16' in said
    assert '1 lines or texts with bytes that are no text' in said and '1 markup lines' in said


def test_what_the_corpus_of_a_run_cuts_and_leaves_out_is_said(long_lines, tmp_path, capsys):
    text = ['--data.text', f"['{long_lines}']", '--corpus.errors', 'replace']
    text += ['--students', '{text_only: {objective: none}}', '--controls', '{}']
    shape = ['--corpus.block', '16', '--corpus.packed', 'false', '--corpus.vocab_size', '300']
    cli.main(['corpus', '--config', 'quick', *text, *shape, '--out', str(tmp_path / 'run')])
    said = capsys.readouterr().out
    assert '1 lines of more than 14 tokens lose their end: corpus.block is 16' in said
    assert '1 lines or texts with bytes that are no text' in said and '1 lines of markup left out' in said
