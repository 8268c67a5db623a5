"Hashes that lie in folders of users come out as they were written, and what a folder was made from is compared in one way."

import hashlib
import json

import numpy as np
import pytest

from vidlankd_nb.config import Corpus
from vidlankd_nb.corpus import Examples, build_corpus
from vidlankd_nb.evaluation import encoders, grid
from vidlankd_nb.files import UserError
from vidlankd_nb.recipes import hashed
from vidlankd_nb.store import same_settings
from vidlankd_nb.tokenizer import load_tokenizer, tokenizer_fingerprint
from vidlankd_nb.vokenization import corpus_digest


def sixteen(*parts):
    "The hash as `hashlib` alone gives it."
    return hashlib.sha256(b''.join(parts)).hexdigest()[:16]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('corpus')
    text = folder / 'text.txt'
    text.write_text(
        ''.join(f'the box of number {i % 37} glows and drops\n' for i in range(400)), encoding='utf-8'
    )
    build_corpus([text], folder / 'made', Corpus(vocab_size=80, block=12, valid_share=0.2))
    return folder


def test_files_are_hashed_in_pieces_as_in_one(tmp_path):
    file = tmp_path / 'weights.bin'
    for size in (0, 1, 2**22 - 1, 2**22, 2**22 + 1, 3 * 2**22):
        content = np.random.default_rng(size).bytes(size)
        file.write_bytes(content)
        assert hashed(file) == hashed(content) == sixteen(content)
        assert hashed(b'name', file, b'', file) == sixteen(b'name', content, content)


def test_a_model_keeps_its_fingerprint(tmp_path):
    files = {
        'config.json': b'{"model_type": "bert"}',
        'model.safetensors': np.random.default_rng(0).bytes(5 * 2**20),
        'tokenizer.json': b'{}',
        'vocab.txt': b'[PAD]\n',
        'head.safetensors': b'no',
        'README.md': b'no',
        'log.jsonl': b'no',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    parts = []
    for name in ('config.json', 'model.safetensors', 'tokenizer.json', 'vocab.txt'):
        parts += [name.encode(), files[name]]
    assert encoders.fingerprint(tmp_path, None) == sixteen(*parts)


def test_a_model_of_the_hub_keeps_its_fingerprint():
    class Shape:
        _commit_hash = None

        def to_dict(self):
            return {'b': 1, 'a': [2]}

    assert encoders.fingerprint(None, Shape()) == sixteen(b'{"a": [2], "b": 1}')
    Shape._commit_hash = '0123456789abcdef0123'
    assert encoders.fingerprint(None, Shape()) == '0123456789abcdef'


def test_rows_keep_their_fingerprint():
    first, second = [{'b': 1, 'a': 'ü'}], [{'label': None}]
    assert grid.rows_fingerprint(first, second) == sixteen(
        b'[{"a": "\\u00fc", "b": 1}]', b'[{"label": null}]'
    )


def test_a_corpus_keeps_what_it_is_known_by(corpus):
    text = (corpus / 'text.txt').read_bytes()
    made = json.loads((corpus / 'made' / 'source.json').read_text(encoding='utf-8'))
    assert made['text'] == [
        ['text.txt', len(text), sixteen(text[: 2**16], text[-(2**16) :])]
    ]  # of a short text, both are all of it
    tokenizer = load_tokenizer(corpus / 'made' / 'tokenizer')
    definition = json.loads(tokenizer.backend_tokenizer.to_str()) | {'truncation': None, 'padding': None}
    assert tokenizer_fingerprint(tokenizer) == sixteen(json.dumps(definition, sort_keys=True).encode())
    examples = Examples(corpus / 'made', 'train')
    spread = np.unique(np.linspace(0, len(examples) - 1, 1024).astype(int))
    ids, _ = examples[spread]
    assert corpus_digest(examples) == sixteen(
        json.dumps(examples.manifest, sort_keys=True).encode(), ids.tobytes()
    )


def test_another_corpus_is_refused_and_says_where_it_differs(corpus, tmp_path):
    before = {p: p.read_bytes() for p in (corpus / 'made').rglob('*') if p.is_file()}
    build_corpus(
        [corpus / 'text.txt'],
        corpus / 'made',
        Corpus(vocab_size=80, block=12, valid_share=0.2, mask_share=0.3),
    )  # masks are drawn later
    with pytest.raises(UserError) as e:
        build_corpus([corpus / 'text.txt'], corpus / 'made', Corpus(vocab_size=90, block=16, valid_share=0.2))
    assert str(e.value) == (
        f"{corpus / 'made'} holds a corpus made with another vocab_size (80, not 90): "
        "choose another folder. Nothing was written."
    )
    (tmp_path / 'more.txt').write_text('the ball glows\n', encoding='utf-8')
    with pytest.raises(
        UserError,
        match=r"made with another text \(it is not that of text.txt, more.txt\): choose another folder",
    ):
        build_corpus(
            [corpus / 'text.txt', tmp_path / 'more.txt'],
            corpus / 'made',
            Corpus(vocab_size=80, block=12, valid_share=0.2),
        )
    assert {
        p: p.read_bytes()
        for p in (corpus / 'made').rglob('*')
        if p.is_file() and p in before and p.name != 'source.json'
    } == {p: text for p, text in before.items() if p.name != 'source.json'}


def test_settings_of_features_are_compared(tmp_path):
    same_settings(tmp_path / 'store.json', {'width': 8, 'fps': None})
    same_settings(tmp_path / 'store.json', {'width': 8, 'fps': None})
    with pytest.raises(UserError) as e:
        same_settings(tmp_path / 'store.json', {'width': 8, 'fps': 2, 'window': 16})
    assert str(e.value) == (
        f"{tmp_path} holds features made with other settings (fps is None there, 2 now; "
        "window is None there, 16 now): choose another folder or delete it."
    )
