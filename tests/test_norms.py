"Norms and zero-shot probes: every file format with rows made by hand, broken rows named, scores against scikit-learn, SciPy and plain loops, masked and causal models."

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from sklearn.linear_model import RidgeCV
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from vidlankd_nb.corpus import train_tokenizer
from vidlankd_nb.evaluation import judgements, prompts
from vidlankd_nb.evaluation.judgements import NORM_SOURCES, Comparison, read_norm
from vidlankd_nb.evaluation.norms import COLOUR_WORDS, Norm, norm_rows
from vidlankd_nb.evaluation.probes import kernel_of, ridge_predictions, states_read
from vidlankd_nb.evaluation.prompts import (
    MEMORY_PROMPTS,
    Question,
    Stretch,
    coda_templates,
    colour_questions,
    comparison_questions,
    ending_questions,
    is_causal,
    language_model,
    log_likelihoods,
    mean_readings,
    pair_readings,
    readings,
    share_right,
    stretch_tokens,
)
from vidlankd_nb.evaluation.readouts import (
    ALPHAS,
    Outcome,
    WordStates,
    best_constant,
    folds,
    gap_between,
    held_out,
    js_rows,
    layers_of,
    likeness,
    mean_of_fitted,
    read_off,
    said_most,
    shuffled,
    spearman_rows,
    word_groups,
    word_scores,
)
from vidlankd_nb.evaluation.zeroshot import command_of, probe_files, probe_models, probe_task, probes_named
from vidlankd_nb.files import UserError
from vidlankd_nb.statistics import bootstrap_interval

NOUNS = [
    'ant',
    'apple',
    'banana',
    'bear',
    'bed',
    'bird',
    'bus',
    'car',
    'cat',
    'coat',
    'cow',
    'crow',
    'cup',
    'deer',
    'dog',
    'door',
    'fox',
    'frog',
    'hat',
    'hen',
    'lamp',
    'leaf',
    'snow',
    'zebra',
]
WORDS = [
    *NOUNS,
    *COLOUR_WORDS,
    *[
        'An',
        'a',
        'an',
        'the',
        'this',
        'that',
        'is',
        'are',
        'most',
        'all',
        'things',
        'thing',
        'of',
        'what',
        'color',
        'usual',
        'typical',
        'larger',
        'smaller',
        'than',
        'we',
        'saw',
        'here',
        'again',
        'they',
        'spoke',
        'about',
        'was',
        'there',
        'plane',
        'The',
        'This',
        'What',
        'It',
        'known',
        'Most',
        'cars',
        'bananas',
        'yell',
        '.',
        '?',
        ',',
        'ran',
        'fast',
        'slow',
        'it',
    ],
]


def tokenizer(frame):
    vocab = [
        '[PAD]',
        '[UNK]',
        '[CLS]',
        '[SEP]',
        '[MASK]',
        *dict.fromkeys(w for w in WORDS if w not in ('yellow', 'zebra')),
        '##ow',
        'ze',
        '##bra',
    ]
    raw = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token='[UNK]'))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if not frame:
        return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token='[CLS]', unk_token='[UNK]')
    raw.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token='[PAD]',
        unk_token='[UNK]',
        cls_token='[CLS]',
        sep_token='[SEP]',
        mask_token='[MASK]',
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('models')
    framed, plain = tokenizer(True), tokenizer(False)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(framed),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.4,
    )
    BertForMaskedLM(shape).save_pretrained(out / 'bert')
    BertModel(shape).save_pretrained(out / 'bare')
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(framed),
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            initializer_range=0.4,
            bos_token_id=2,
            eos_token_id=3,
        )
    ).save_pretrained(out / 'gpt2')
    for name in ('bert', 'bare'):
        framed.save_pretrained(out / name)
    plain.save_pretrained(out / 'gpt2')
    return out


@pytest.fixture(scope='module')
def lms(folder):
    return {name: language_model(folder / name) for name in ('bert', 'gpt2', 'bare')}


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines) + '\n',
        encoding='utf-8',
    )
    return path


def coda_object(i, word):
    return {
        'class_id': f'/m/{i}',
        'display_name': word,
        'object_s': word,
        'areis_s': 'is',
        'object_pl': f'{word}s',
        'areis_pl': 'are',
    }


def coda_row(i, included=True, **colours):
    return (
        {'class_id': f'/m/{i}', 'action': 'submitted', 'included': included, 'worker_id': 0}
        | dict.fromkeys(COLOUR_WORDS, 0)
        | colours
    )


@pytest.fixture
def data(tmp_path):
    out = tmp_path / 'norms'
    write(out / 'coda' / 'objects.jsonl', [coda_object(i, noun) for i, noun in enumerate(NOUNS)])
    write(
        out / 'coda' / 'annotations.jsonl',
        [coda_row(i, **{COLOUR_WORDS[i % 3]: 3, COLOUR_WORDS[3]: 1}) for i in range(len(NOUNS))],
    )
    (out / 'coda' / 'templates.yaml').write_text(
        'templates:\n  - name: clip\n    templates: ["a photo of {object_s}."]\n  - name: text-masked\n    templates:\n      - Most {object_areis_pl} [MASK].\n      - This {object_areis_s} [MASK].\n',
        encoding='utf-8',
    )
    write(
        out / 'memory_colors' / 'memory_colors.jsonl',
        [{'descriptor': 'the', 'item': noun, 'label': COLOUR_WORDS[i % 3]} for i, noun in enumerate(NOUNS)],
    )
    write(
        out / 'similarity' / 'EN-MEN-TR-3k.txt',
        [f'{a}\t{b}\t{(i * 7) % 11}.5' for i, (a, b) in enumerate(zip(NOUNS, NOUNS[1:], strict=False))]
        + ['cat\tsunlight\t3.0'],
    )
    write(
        out / 'blimp' / 'passive_1.jsonl',
        [
            {
                'sentence_good': f'we saw the {noun} .',
                'sentence_bad': f'we the {noun} saw .',
                'UID': 'passive_1',
            }
            for noun in NOUNS[:4]
        ],
    )
    write(
        out / 'spatial' / 'size.json',
        [{'question': f'Is an ant larger than a {noun}?', 'label': 0} for noun in NOUNS[3:7]],
    )
    return out


# --- files


def test_coda_averages_people_and_names_what_it_leaves_out(tmp_path):
    write(
        tmp_path / 'coda' / 'objects.jsonl',
        [
            coda_object(1, 'Zebra'),
            coda_object(2, 'banana'),
            {'class_id': '/m/3', 'object_s': None, 'object_pl': None},
            coda_object(4, 'ant'),
        ],
    )
    write(
        tmp_path / 'coda' / 'annotations.jsonl',
        [
            coda_row(1, black=2, white=2),
            coda_row(1, black=4, white=4, gray=8),
            coda_row(1, included=False, red=9),
            coda_row(2, yellow=9, green=1),
            coda_row(2, yellow='much'),
            coda_row(2),
            coda_row(9, red=1),
            '{broken',
            {'class_id': '/m/1', 'action': 'skipped', 'included': False},
        ],
    )
    norm, rows = read_norm('coda', tmp_path)
    assert (
        norm.words == ['zebra', 'banana']
        and norm.kind == 'shares'
        and norm.table.sum(1).tolist() == pytest.approx([1, 1])
    )
    assert dict(zip(COLOUR_WORDS, norm.table[0], strict=True))['gray'] == pytest.approx(
        (0 + 0.5) / 2
    ) and dict(zip(COLOUR_WORDS, norm.table[1], strict=True))['yellow'] == pytest.approx(0.9)
    assert [(Path(s['file']).name, s['line'], s['reason']) for s in rows.skipped] == [
        ('objects.jsonl', 3, 'class_id, or object_s and object_pl are missing'),
        ('annotations.jsonl', 5, "'much' is no amount of 'yellow'"),
        ('annotations.jsonl', 6, 'every amount is 0'),
        ('annotations.jsonl', 7, "objects.jsonl has no object '/m/9'"),
        ('annotations.jsonl', 8, 'not JSON: Expecting property name enclosed in double quotes at column 2'),
        ('annotations.jsonl', 4, "nobody said anything of 'ant'"),
    ]
    write(tmp_path / 'coda' / 'objects.jsonl', [coda_object(1, 'zebra'), coda_object(2, 'banana')])
    with pytest.raises(UserError, match="annotations.jsonl, line 5: 'much' is no amount"):
        read_norm('coda', tmp_path, strict=True)
    (tmp_path / 'coda' / 'objects.jsonl').unlink()
    with pytest.raises(UserError, match='objects.jsonl beside it'):
        read_norm('coda', tmp_path)


def test_coda_in_other_spellings_and_packed(tmp_path):
    "Grey, capitals, figures as text, a flag as text, underscores, both files packed: the same norm."
    odd = {'GREY ' if name == 'gray' else name.title(): '0' for name in COLOUR_WORDS}
    rows = [
        coda_row(1, black=1, white=1),
        {'class_id': '/m/2', 'action': 'submitted', 'included': 'true'} | odd | {'Red': '3', 'GREY ': '1'},
        {'class_id': '/m/2', 'action': 'submitted', 'included': 'false'} | odd | {'Blue': '1'},
        {'class_id': '/m/1', 'action': 'submitted', 'included': True, 'black': 1},
    ]
    objects = write(
        tmp_path / 'coda' / 'objects.jsonl', [coda_object(1, 'zebra'), coda_object(2, 'Fire_engine')]
    )
    said = write(tmp_path / 'coda' / 'annotations.jsonl', rows)
    for file in (objects, said):
        file.with_name(file.name + '.gz').write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    norm, rows = read_norm('coda', tmp_path)
    assert norm.words == ['zebra', 'fire engine']
    red, gray = COLOUR_WORDS.index('red'), COLOUR_WORDS.index('gray')
    assert norm.table[1, [red, gray]].tolist() == [0.75, 0.25]
    assert [s['reason'] for s in rows.skipped] == ["there is no amount of 'blue'"]


def test_pairs_with_semicolons_and_decimal_commas(tmp_path):
    rows = ['Word 1;Word 2;Mean', 'love;sex;6,77', 'tiger;cat;7,4', 'book;paper;7']
    (tmp_path / 'wordsim353').mkdir()
    (tmp_path / 'wordsim353' / 'combined.csv').write_text('\n'.join(rows), encoding='utf-8')
    pairs, _ = read_norm('wordsim', tmp_path)
    assert pairs.ratings.tolist() == [6.77, 7.4, 7.0] and pairs.pairs[0] == ('love', 'sex')


def test_a_table_of_ones_own(tmp_path):
    "Numbers, answers, answers with counts; what is none is refused or named."
    file = tmp_path / 'own.csv'
    file.write_text('Word;weight\nice_cream;0,5\nCar;900\ncar;901\nluck;\n', encoding='utf-8')
    norm, rows = read_norm('own', tmp_path)
    assert (norm.kind, norm.words, norm.table.tolist()) == ('number', ['ice cream'], [[0.5]])
    assert [s['line'] for s in rows.skipped] == [5, 3, 4]
    file.write_text('word,weight\nant,1\ncar,900\ncat,n/a\n', encoding='utf-8')
    norm, rows = read_norm('own', tmp_path)  # one odd figure makes no table of answers
    assert norm.kind == 'number' and norm.words == ['ant', 'car']
    assert [s['reason'] for s in rows.skipped] == ["'n/a' is no number"]
    file.write_text('word,colour\nbanana,yellow\ncrow,black\nash,grey\n', encoding='utf-8')
    norm, rows = read_norm('own', tmp_path)
    assert norm.kind == 'class' and norm.values == ('black', 'gray', 'yellow')
    assert norm.table.argmax(1).tolist() == [2, 0, 1] and not rows.skipped
    file.write_text(
        'word,taste,n\nlemon,sour,9\nlemon,bitter,1\nhoney,sweet,4\nair,sour,0\nsalt,x,-1\n', encoding='utf-8'
    )
    norm, rows = read_norm('own', tmp_path)
    assert norm.kind == 'shares' and norm.words == ['lemon', 'honey']
    assert dict(zip(norm.values, norm.table[0], strict=True)) == {
        'bitter': 0.1,
        'sour': 0.9,
        'sweet': 0,
    }
    assert [s['reason'] for s in rows.skipped] == ['-1 is no count', "'air': every count is 0"]
    for bad in ('banana,yellow\ncrow,black\n', 'word\nbanana\n', ''):
        file.write_text(bad, encoding='utf-8')
        with pytest.raises(UserError, match="'word' and a number"):
            read_norm('own', tmp_path)


def test_a_line_that_stands_twice_counts_once_and_is_named(tmp_path):
    "Two things of one name are another matter: nobody knows which is meant."
    (tmp_path / 'own.csv').write_text('word,x\nant,1\nbat,2\nant,1\nbat,3\ncar,4\n', encoding='utf-8')
    norm, rows = read_norm('own', tmp_path)
    assert (norm.words, norm.table[:, 0].tolist()) == (['ant', 'car'], [1, 4])
    assert [(s['line'], s['reason']) for s in rows.skipped] == [
        (3, "'bat' stands 2 times, for different things"),
        (4, "'ant' stands there before, in a line that says the same"),
        (5, "'bat' stands 2 times, for different things"),
    ]


def test_a_header_with_blanks_between_its_words_is_no_pair(tmp_path):
    "Word 1, Word 2: the first number of such a line is no rating."
    (tmp_path / 'EN-WS-353-ALL.txt').write_text(
        'Word 1 Word 2 Human (mean)\nlove sex 6.77\ntiger big cat 7.35\n', encoding='utf-8'
    )
    pairs, rows = read_norm('wordsim', tmp_path)
    assert pairs.pairs == [('love', 'sex')] and pairs.ratings.tolist() == [6.77]
    assert [s['line'] for s in rows.skipped] == [3]


OWN_NUMBERS = {
    'word;x\na;3,456\nb;2,125\nc;1,5\n': ([3.456, 2.125, 1.5], []),
    'word,x\na,3.4\nb,NA\nc,NA\nd,2\ne,NA\n': ([3.4, 2.0], ["'NA' is no number"] * 3),
    'word,x\na,3.4\nb,\nc,\nd,2\ne,\n': ([3.4, 2.0], ["'' is no number"] * 3),
    'word,x\na,1_0\nb,2\n': ([2.0], ["'1_0' is no number"]),
    'word;x\na;1,200\nb;900\n': ([900.0], ["'1,200' may be a decimal or a thousand"]),
    'sep=;\nword;x\na;1,5\n': ([1.5], []),
}


@pytest.mark.parametrize('table', OWN_NUMBERS)
def test_a_table_of_numbers_never_becomes_one_of_answers(table, tmp_path):
    (tmp_path / 'own.csv').write_text(table, encoding='utf-8')
    norm, rows = read_norm('own', tmp_path)
    figures, reasons = OWN_NUMBERS[table]
    assert norm.kind == 'number' and norm.table[:, 0].tolist() == figures
    assert [s['reason'] for s in rows.skipped] == reasons


def test_a_table_of_means_and_deviations_is_no_table_of_answers(tmp_path):
    file = tmp_path / 'own.csv'
    for table in ('word,mean,sd\na,3.4,1.1\nb,2.1,.9\n', 'word,red,green\na,0.7,0.3\nb,0.1,0.9\n'):
        file.write_text(table, encoding='utf-8')
        with pytest.raises(UserError, match='holds numbers.*one column of numbers'):
            read_norm('own', tmp_path)
    file.write_text('word,x\na,30%\nb,40%\n', encoding='utf-8')
    with pytest.raises(UserError, match="'30%' is no number"):
        read_norm('own', tmp_path)


def test_a_spreadsheets_quotation_marks_are_no_part_of_a_word(tmp_path):
    rows = [
        'word\ttaste',
        '"ice cream, vanilla"\t3',
        'the ""best""\t2',
        'hot\u00a0dog\t1',
        '"an ""apple"""\t4',
    ]
    (tmp_path / 'own.csv').write_text('\n'.join(rows), encoding='utf-8')
    norm, _ = read_norm('own', tmp_path)
    assert norm.words == ['ice cream, vanilla', 'the ""best""', 'hot dog', 'an "apple"']


def test_a_word_that_stands_twice_in_counts_is_named(tmp_path):
    counts = ', '.join(f'"{word}": {[k + 1] * 12}' for k, word in enumerate(('cup', 'plate', 'cup')))
    (tmp_path / 'vicomte').mkdir()
    (tmp_path / 'vicomte' / 'shape-dist.jsonl').write_text('{' + counts + '}', encoding='utf-8')
    norm, rows = read_norm('vicomte_shape', tmp_path)
    assert norm.words == ['plate'] and [s['reason'] for s in rows.skipped] == ["'cup' stands there twice"]


def test_memory_colours_read_grey_and_refuse_teal(tmp_path):
    write(
        tmp_path / 'memory_colors' / 'memory_colors.jsonl',
        [
            {'descriptor': '', 'item': 'Ash', 'label': 'grey'},
            {'item': 'sea', 'label': 'teal'},
            {'item': 'sky'},
            {'descriptor': 'a', 'item': 'rose', 'label': 'red'},
        ],
    )
    norm, rows = read_norm('memory_colors', tmp_path)
    assert (
        norm.words == ['ash', 'rose']
        and [norm.values[i] for i in norm.table.argmax(1)] == ['gray', 'red']
        and norm.table.sum() == 2
    )
    assert [s['line'] for s in rows.skipped] == [2, 3] and rows.skipped[0][
        'reason'
    ] == "'teal' is none of the colours"


def test_vicomte_reads_one_object(tmp_path):
    path = write(
        tmp_path / 'vicomte' / 'shape-dist.jsonl',
        [
            {
                'plate': [0, 2, 2, 61, 0, 20, 5, 1396, 0, 238, 0, 2],
                'bad': [1, 2],
                'nothing': [0] * 12,
                'odd': [None] * 12,
            }
        ],
    )
    norm, rows = read_norm('vicomte_shape', tmp_path)
    assert (
        norm.words == ['plate']
        and norm.values[norm.table[0].argmax()] == 'round'
        and norm.table[0, 7] == pytest.approx(1396 / 1726)
    )
    assert [s['reason'] for s in rows.skipped] == [
        "'bad' has no 12 counts",
        "'nothing': every amount is 0",
        "'odd': None is no amount of 'cross'",
    ]
    path.write_text('[1]', encoding='utf-8')
    with pytest.raises(UserError, match='no JSON object'):
        read_norm('vicomte_shape', tmp_path)
    path.write_text('{"a": ', encoding='utf-8')
    with pytest.raises(UserError, match='VL-commonsense'):
        read_norm('vicomte_shape', tmp_path)


def test_things_leave_out_words_that_stand_for_two(tmp_path):
    write(
        tmp_path / 'things' / 'size_fixed.csv',
        [
            'word;uniqueID;object;meanSize',
            'bat;bat1;bat (animal);150.5',
            'bat;bat2;bat (stick);210',
            'alarm clock;alarm clock;alarm clock;139',
            'pin;pin;pin;small',
            'axe;axe;3',
        ],
    )
    norm, rows = read_norm('things_size', tmp_path)
    assert (norm.words, norm.table.tolist()) == (['alarm clock'], [[139.0]])
    assert sorted((s['line'], s['reason']) for s in rows.skipped) == [
        (2, "'bat' stands 2 times, for different things"),
        (3, "'bat' stands 2 times, for different things"),
        (5, "'small' is no number"),
        (6, '3 fields, and the header has 4'),
    ]
    write(
        tmp_path / 'things' / 'animacy.csv',
        ['"uniqueID","lives_mean"', '"air_conditioner","1.3"', '"bat1","6.9"', '"b52","2"', '"crow","NA"'],
    )
    norm, rows = read_norm('things_animacy', tmp_path)
    assert norm.words == ['air conditioner', 'bat', 'b52'] and [s['reason'] for s in rows.skipped] == [
        "'NA' is no number"
    ]
    write(tmp_path / 'things' / 'animacy.csv', ['uniqueID,lives', 'crow,3'])
    with pytest.raises(UserError, match="no column 'lives_mean'"):
        read_norm('things_animacy', tmp_path)


def test_concreteness_keeps_quotation_marks(tmp_path):
    write(
        tmp_path / 'concreteness.txt',
        ['Word\tBigram\tConc.M\tConc.SD', 'sled\t0\t5\t0', 'bull"s eye\t1\t4.5\t.1', 'essence\t0\t\t.2'],
    )
    norm, rows = read_norm('concreteness', tmp_path)
    assert (
        norm.words == ['sled', 'bull"s eye']
        and norm.table[:, 0].tolist() == [5, 4.5]
        and rows.skipped[0]['line'] == 4
    )


@pytest.mark.parametrize(
    'name,file,lines',
    [
        ('men', 'similarity/EN-MEN-TR-3k.txt', ['Cup\tmug\t50.0', 'sun\tsea\t3']),
        ('men', 'similarity/MEN_dataset_natural_form_full', ['cup mug 50.000', 'sun sea 3']),
        (
            'simlex',
            'similarity/SimLex-999.txt',
            ['word1\tword2\tPOS\tSimLex999\tconc(w1)', 'cup\tmug\tA\t50\t2.7', 'sun\tsea\tN\t3\t1'],
        ),
        ('simverb', 'similarity/SimVerb-3500.txt', ['cup\tmug\tV\t50\tSYNONYMS', 'sun\tsea\tV\t3\tNONE']),
        ('wordsim', 'similarity/combined.csv', ['Word 1,Word 2,Human (mean)', 'cup,mug,50', 'sun,sea,3']),
    ],
)
def test_pairs_in_every_format(tmp_path, name, file, lines):
    write(tmp_path / file, [*lines, 'one', 'two\tthree\tmany'])
    pairs, rows = read_norm(name, tmp_path)
    assert pairs.pairs == [('cup', 'mug'), ('sun', 'sea')] and pairs.ratings.tolist() == [50, 3]
    assert [s['line'] for s in rows.skipped] == [len(lines) + 1, len(lines) + 2]


def test_comparisons(tmp_path):
    write(
        tmp_path / 'verbphysics' / 'test.csv',
        [
            ',obj1,obj2,size-agree,size-maj,weight-agree,weight-maj,strength-agree,strength-maj,rigidness-agree,rigidness-maj,speed-agree,speed-maj',
            '0,sun,coal,3,1,3,0,2,-42,1,-1,2,x',
        ],
    )
    found, rows = read_norm('verbphysics', tmp_path)
    assert found == [
        Comparison('the sun', 'the coal', 'size', True),
        Comparison('the sun', 'the coal', 'rigidness', False),
    ]
    assert [s['reason'] for s in rows.skipped] == [
        'weight: alike, or no agreement',
        'strength: alike, or no agreement',
        "speed: 'x' is none of 1, 0, -1, -42",
    ]
    write(
        tmp_path / 'spatial' / 'height.json',
        [
            {'question': 'Is an ant taller than a bird?', 'label': 0},
            {'question': 'Is a door shorter than a street lamp?', 'label': 1},
            {'question': 'Who?', 'label': 1},
            {'question': 'Is a cup taller than a bed?', 'label': 2},
        ],
    )
    found, rows = read_norm('spatial_height', tmp_path)
    assert found == [
        Comparison('an ant', 'a bird', 'height', False),
        Comparison('a door', 'a street lamp', 'height', False),
    ] and [s['line'] for s in rows.skipped] == [3, 4]
    [q, _] = comparison_questions(found)
    assert (q.before, q.after, q.answers, q.gold) == ('An ant is ', ' than a bird.', ('taller', 'shorter'), 1)


def test_blimp_reads_every_paradigm(tmp_path):
    write(
        tmp_path / 'blimp' / 'passive_1.jsonl',
        [{'sentence_good': 'a', 'sentence_bad': 'b'}, {'sentence_good': 'a'}],
    )
    write(tmp_path / 'blimp' / 'another.jsonl', [{'sentence_good': 'c', 'sentence_bad': 'd'}])
    found, rows = read_norm('blimp', tmp_path)
    assert found == [('another', 'c', 'd'), ('passive_1', 'a', 'b')] and [
        Path(s['file']).name for s in rows.skipped
    ] == ['passive_1.jsonl']


# a clone of each maker's repository, or their archive, in small: norm, path, lines, what is read
PUBLISHED = {
    'coda as ViComTe has it': (
        'coda',
        'VL-commonsense/mine-data/distributions/coda-dist.jsonl',
        ['{"Zebra": [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0]}'],
        ['zebra'],
    ),
    'coda': (
        'coda',
        'coda/projects/coda/data/coda/annotations.jsonl',
        [json.dumps(coda_row(1, black=1))],
        ['zebra'],
    ),
    'memory colors': (
        'memory_colors',
        'measure-visual-commonsense-knowledge/memory_colors/data/memory_colors.jsonl',
        ['{"descriptor": "the", "item": "ocean", "label": "Blue "}'],
        ['ocean'],
    ),
    'vicomte': (
        'vicomte_shape',
        'VL-commonsense/mine-data/distributions/shape-dist.jsonl',
        ['\ufeff{"plate": [0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]}'],
        ['plate'],
    ),
    'things, first release': (
        'things_size',
        'THINGSplus/Metadata/Concept-specific/size_meanRatings.tsv',
        ['Word\tuniqueID\tSize_mean\tSize_SD', 'axe\taxe\t207.5\t8', 'bat\tbat1\t1\t1'],
        ['axe', 'bat'],
    ),
    'things, second release': (
        'things_animacy',
        'THINGS-database/02_object-level/_property-ratings.tsv',
        ['"uniqueID"\t"Word"\t"property_lives_mean"', '"axe"\t"axe"\t1.5'],
        ['axe'],
    ),
    'things, properties': (
        'things_animacy',
        'Metadata/objectProperties_meanRatings.tsv',
        ['Word\tuniqueID\tlives_mean', 'air conditioner\tair_conditioner\t1.5'],
        ['air conditioner'],
    ),
    'concreteness': (
        'concreteness',
        'Concreteness_ratings_Brysbaert_et_al_BRM.csv',
        ['"Word","Bigram","Conc.M"', '"sled, small",0,5\r'],
        ['sled, small'],
    ),
    'men with lemmas': (
        'men',
        'MEN/MEN_dataset_lemma_form_full',
        ['Sun-n sunlight-n 50.000000', 'run-v bright-j 3.0'],
        [('sun', 'sunlight'), ('run', 'bright')],
    ),
    'men, words with dashes': ('men', 'EN-MEN-TR-3k.txt', ['t-n\tsun\t5.0'], [('t-n', 'sun')]),
    'wordsim': (
        'wordsim',
        'wordsim353/combined.csv',
        ['"Word 1","Word 2","Human (mean)"', '"tiger","cat","7.35"'],
        [('tiger', 'cat')],
    ),
    'simverb with remarks': (
        'simverb',
        'word-sim/EN-SimVerb-3500.txt',
        ['# made in 2016', 'take\tremove\t6.81'],
        [('take', 'remove')],
    ),
    'verbphysics': (
        'verbphysics',
        'verbphysics/data/verbphysics/objects/train-5/test.csv',
        [',obj1,obj2,size-agree,size-maj', '0,sun,coal,3,-1'],
        [Comparison('the sun', 'the coal', 'size', False)],
    ),
    'spatial': (
        'spatial_height',
        'spatial-commonsense/data/height/data.json',
        ['[{"question": "Is an ant taller than a bird?", "label": "0"}]'],
        [Comparison('an ant', 'a bird', 'height', False)],
    ),
    'blimp': (
        'blimp',
        'BLiMP-master/data/anaphor_gender_agreement.jsonl',
        ['{"sentence_good": "a", "sentence_bad": "b"}'],
        [('anaphor_gender_agreement', 'a', 'b')],
    ),
}


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('case', PUBLISHED)
def test_files_as_their_makers_lay_them_out(tmp_path, case, packed):
    name, path, rows, wanted = PUBLISHED[case]
    file = write(tmp_path / path, rows)
    if case == 'coda':
        write(file.with_name('objects.jsonl'), [coda_object(1, 'zebra')])
    if packed:
        file.with_name(f'{file.name}.gz').write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    found, left = read_norm(name, tmp_path)
    got = found.words if isinstance(found, Norm) else found.pairs if name in PAIRS else found
    assert got == wanted and not [s for s in left.skipped if 'missing' in s['reason']]


PAIRS = ('men', 'simlex', 'simverb', 'wordsim')


@pytest.mark.parametrize(
    'name,path,rows,said',
    [
        ('memory_colors', 'memory_colors.jsonl', ['{"object": "sea", "colour": "blue"}'], 'object, colour'),
        ('coda', 'coda/annotations.jsonl', ['{"ngram": "sea", "label": [1, 2]}'], 'ngram, label'),
        ('things_size', 'size_fixed.csv', ['noun;size', 'sea;5'], 'noun, size'),
        ('concreteness', 'concreteness.txt', ['Word\tRating', 'sea\t5'], 'Word, Rating'),
        ('verbphysics', 'verbphysics/test.csv', ['a,b,size', 'sea,sky,1'], 'a, b, size'),
        ('spatial_size', 'spatial/size.json', ['{"obj_a": "ant", "obj_b": "bird"}'], 'obj_a, obj_b'),
        ('blimp', 'blimp/x.jsonl', ['{"good": "a", "bad": "b"}'], 'good, bad'),
    ],
)
def test_an_unknown_layout_is_named_with_its_columns(tmp_path, name, path, rows, said):
    file = write(tmp_path / path, rows)
    if name == 'coda':
        write(file.with_name('objects.jsonl'), [coda_object(1, 'zebra')])
    with pytest.raises(UserError, match=f'has no column .* it has {re.escape(said)}') as e:
        read_norm(name, tmp_path)
    assert NORM_SOURCES[name].source.origin in str(e.value)


def test_a_spreadsheet_is_seen_and_what_to_do_is_said(tmp_path):
    (tmp_path / 'Concreteness_ratings_Brysbaert_et_al_BRM.xlsx').write_bytes(b'PK')
    with pytest.raises(UserError, match='BRM.xlsx is not read: save its table as text with tabs'):
        read_norm('concreteness', tmp_path)


def test_a_file_of_a_general_name_is_read_from_its_own_folder_alone(tmp_path):
    write(tmp_path / 'swag' / 'test.csv', [',obj1,obj2,size-agree,size-maj', '0,sun,coal,3,-1'])
    with pytest.raises(UserError, match='no file of verbphysics'):
        read_norm('verbphysics', tmp_path)


def test_blimp_of_the_hub(monkeypatch):
    monkeypatch.setattr(judgements.datasets, 'get_dataset_config_names', lambda name: ['passive_1'])
    monkeypatch.setattr(
        judgements.datasets,
        'load_dataset',
        lambda name, config, split: [{'sentence_good': 'a', 'sentence_bad': 'b'}],
    )
    assert read_norm('blimp', 'hub')[0] == [('passive_1', 'a', 'b')]

    def offline(name):
        raise OSError('offline')

    monkeypatch.setattr(judgements.datasets, 'get_dataset_config_names', offline)
    with pytest.raises(UserError, match='offline'):
        read_norm('blimp', 'hub')
    with pytest.raises(UserError, match="no folder 'hub'"):
        read_norm('coda', 'hub')


@pytest.mark.parametrize('name', NORM_SOURCES)
def test_a_missing_file_says_which_whence_and_under_which_licence(tmp_path, name):
    source = NORM_SOURCES[name].source
    with pytest.raises(UserError) as e:
        read_norm(name, tmp_path)
    assert (
        source.files[0] in str(e.value)
        and source.origin in str(e.value)
        and source.licence in str(e.value)
        and str(tmp_path) in str(e.value)
    )


def test_files_are_found_a_level_deeper(data):
    assert (
        NORM_SOURCES['coda'].source.find(data.parent)
        == NORM_SOURCES['coda'].source.find(data)
        == NORM_SOURCES['coda'].source.find(data / 'coda')
    )


# --- states


def test_states_of_layers_and_pieces(lms):
    for name in ('bert', 'gpt2'):
        lm = lms[name]
        got, known = states_read(
            lm.model, lm.tokenizer, ['zebra', 'cat', 'sunlight'], ['we saw the {x} .'], layers=[0, 2]
        )
        assert known.tolist() == [True, True, False]
        ids = lm.tokenizer('we saw the zebra .', return_tensors='pt')
        at = [i for i, t in enumerate(ids.tokens()) if t in ('ze', '##bra')]
        with torch.no_grad():
            hidden = (
                lm.model.eval()
                .base_model(**{k: ids[k] for k in ('input_ids', 'attention_mask')}, output_hidden_states=True)
                .hidden_states
            )
        assert len(at) == 2 and np.allclose(
            got[0], ((hidden[0] + hidden[2]) / 2)[0, at].mean(0).numpy(), atol=1e-5
        )
        last, _ = states_read(lm.model, lm.tokenizer, ['zebra'], ['we saw the {x} .'])
        assert np.allclose(
            last, states_read(lm.model, lm.tokenizer, ['zebra'], ['we saw the {x} .'], [-1])[0]
        )


def test_words_are_read_once_and_unknown_ones_are_said(lms):
    states = WordStates(lms['bert'].model, lms['bert'].tokenizer, sentences=('the {x}',))
    first, can = states.of(['cat', 'sunlight', 'zebra'])
    assert (
        can.tolist() == [True, False, True]
        and first.shape == (2, 16)
        and states.in_pieces(['cat', 'zebra']) == 1
    )
    states.model = None  # nothing is read again
    assert np.array_equal(states.of(['zebra'])[0][0], first[1])
    with pytest.raises(UserError, match='none of the words'):
        states.of(['sunlight'])


@pytest.mark.parametrize('text', ['--1', '', ' , ', '²', '1.0', '9'])
def test_what_is_no_layer_is_refused(text):
    with pytest.raises(UserError, match='layer'):
        layers_of(text, 6)


def test_words_of_a_file_as_folders_of_pictures_write_them(tmp_path):
    (tmp_path / 'words.txt').write_bytes('\ufeffAlarm_clock\r\nsun\r\n'.encode())
    found = word_groups(
        tmp_path / 'words.txt', ['alarm clock', 'sea', ('sun', 'alarm clock'), ('sun', 'sea')]
    )
    assert found == {
        'words of the file': {'alarm clock', ('sun', 'alarm clock')},
        'other words': {'sea'},
    }


def test_words_of_a_file_meet_in_one_composition_and_with_single_spaces(tmp_path):
    (tmp_path / 'words.txt').write_text('cafe\u0301\nice  cream\n', encoding='utf-8')
    found = word_groups(tmp_path / 'words.txt', ['caf\u00e9', 'ice cream', 'sea'])
    assert found == {'words of the file': {'caf\u00e9', 'ice cream'}, 'other words': {'sea'}}


def test_words_split_prompts_as_well(folder, data, tmp_path):
    words = write(tmp_path / 'pictured.txt', NOUNS[:5])
    table = probe_files({'bert': str(folder / 'bert')}, 'memory_colors_prompts', data, words=str(words))
    parts = table.models['bert']['memory_colors_prompts']['groups']
    assert (parts['words of the file']['n'], parts['other words']['n']) == (5, 19)


def test_layers_by_name():
    assert layers_of('4, 5,-1', 6) == [4, 5, -1] and layers_of(None, 6) is None
    for wrong in ('7', '-8', 'last'):
        with pytest.raises(UserError, match='no layer'):
            layers_of(wrong, 6)


def test_nested_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    for n, width in ((40, 60), (70, 12)):
        z = rng.standard_normal((n, width))
        targets = np.stack([z[:, :2] + rng.standard_normal((n, 2)), rng.standard_normal((n, 2))])
        cut = folds(np.zeros(n), 5, rng)
        got, strengths = held_out(z, targets, cut)
        s = (z - z.mean(0)) / z.std(0)
        for p in range(2):
            for f in range(5):
                fit = RidgeCV(np.array(ALPHAS) * width).fit(s[cut != f], targets[p][cut != f])
                assert fit.alpha_ == pytest.approx(strengths[f, p] * width)
                assert np.allclose(got[p][cut == f], fit.predict(s[cut == f]), atol=1e-8)
                toy = ridge_predictions(
                    kernel_of(z),
                    targets[p],
                    np.flatnonzero(cut != f)[None],
                    np.flatnonzero(cut == f)[None],
                    strengths[f, p],
                )
                assert np.allclose(got[p][cut == f], toy[0], atol=1e-8)


def test_folds_are_equal_and_stratified():
    y = np.array([0] * 31 + [1] * 20 + [2] * 3)
    cut = folds(y, 5, np.random.default_rng(0))
    assert (
        sorted(np.bincount(cut)) == [10, 11, 11, 11, 11]
        and np.bincount(cut[y == 0]).min() >= 6
        and np.bincount(cut[y == 1]).tolist() == [4] * 5
    )
    tables = shuffled(np.eye(3)[y], cut, 3, np.random.default_rng(0))
    assert np.array_equal(tables[0], np.eye(3)[y]) and not np.array_equal(tables[1], tables[0])
    for f in range(5):
        assert tables[1][cut == f].sum(0).tolist() == tables[0][cut == f].sum(0).tolist()
    assert np.allclose(mean_of_fitted(np.eye(3)[y], cut)[0], np.eye(3)[y][cut != cut[0]].mean(0))


def test_scores_are_scipys():
    rng = np.random.default_rng(0)
    predicted, shares = rng.standard_normal((6, 5)), rng.dirichlet(np.ones(5), 6)
    got = word_scores('shares', predicted, shares)
    for i in range(6):
        p = predicted[i].clip(1e-12) / predicted[i].clip(1e-12).sum()
        assert got['rank'][i] == pytest.approx(stats.spearmanr(predicted[i], shares[i]).statistic)
        assert got['js'][i] == pytest.approx(jensenshannon(p, shares[i], base=2) ** 2)
        assert got['top1'][i] == (predicted[i].argmax() == shares[i].argmax())
    assert word_scores('class', np.array([[1.0, 0, 2]]), np.array([[1.0, 0, 1]]))['top1'] == [
        1
    ]  # what people say as often
    assert spearman_rows(np.ones(3), np.arange(3)) == 0 and js_rows(
        np.array([1.0, 0]), np.array([0.0, 1])
    ) == pytest.approx(1)


def made(n=120, kind='shares', seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3)
    table = {
        'shares': np.eye(3)[y] * 0.7 + 0.1,
        'class': np.eye(3)[y],
        'number': rng.standard_normal((n, 1)),
    }[kind]
    source = NORM_SOURCES['coda'].source
    return (
        Norm(
            source,
            kind,
            ('a', 'b', 'c')[: table.shape[1]],
            [f'w{i}' for i in range(n)],
            table,
            norm_rows(source, Path('made')),
        ),
        y,
        rng,
    )


def test_a_norm_is_found_where_it_is_and_nowhere_else():
    norm, y, rng = made()
    noise = rng.standard_normal((120, 40))
    found = read_off(norm, noise + 2 * rng.standard_normal((3, 40))[y], shuffles=20)
    assert (
        [o.measure for o in found] == ['top1', 'rank', 'js']
        and found[0].value() > 0.9
        and found[0].constant == pytest.approx(1 / 3)
    )
    top, js = found[0].summary(), found[2].summary()
    assert (
        top['low'] <= top['value'] <= top['high']
        and js['low'] < js['value'] < js['high']
        and top['shuffled']['p'] == js['shuffled']['p'] == 1 / 21
        and 0.2 < top['shuffled']['mean'] < 0.45
    )
    nothing = read_off(norm, noise, shuffles=40)[0].summary()
    assert nothing['shuffled']['low'] <= nothing['value'] <= nothing['shuffled']['high']
    assert read_off(norm, noise, 5, seed=3)[0].value() == read_off(norm, noise, 5, seed=3)[0].value()
    with pytest.raises(UserError, match='too few'):
        read_off(made(19)[0], noise[:19])


def test_the_best_constant_is_scored_as_the_answers_are():
    table = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0.6, 0.4], [1, 0, 0]])
    assert (
        best_constant(table) == 0.75
    )  # by hand: the second is right of three words, the first of three, too


def test_a_group_of_words_has_a_constant_of_its_own():
    table = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0.5, 0.5, 0]])
    hits = Outcome('top1', ['a', 'b', 'c', 'd'], np.ones(4), 0.75, right=said_most(table))
    assert hits.part({'a', 'b', 'c'}).constant == pytest.approx(2 / 3)
    assert hits.part({'a', 'd'}).constant == 1 and hits.part({'b', 'c'}).summary()['constant'] == 1
    ranks = Outcome('spearman', ['a', 'b', 'c'], np.array([[1.0, 2], [2, 3], [3, 1]]), 0.0)
    assert ranks.part({'a', 'b', 'c'}).constant == 0


def test_a_number_is_read_off():
    norm, _, rng = made(kind='number')
    [found] = read_off(
        norm,
        np.column_stack(
            [norm.table, norm.table + 0.1 * rng.standard_normal((120, 1)), rng.standard_normal((120, 20))]
        ),
        shuffles=10,
    )
    assert (
        found.value() == pytest.approx(stats.spearmanr(*found.items.T).statistic)
        and found.value() > 0.8
        and abs(np.mean(found.chance)) < 0.2
    )


def test_likeness_is_spearman_of_cosines(lms, data):
    pairs, _ = read_norm('men', data)
    lm = lms['bert']
    outcome, lost = likeness(pairs, WordStates(lm.model, lm.tokenizer, sentences=('the {x}',)))
    states, _ = states_read(lm.model, lm.tokenizer, sorted(NOUNS), ['the {x}'])
    z = dict(zip(sorted(NOUNS), states - states.mean(0), strict=True))
    by_hand = [z[a] @ z[b] / np.linalg.norm(z[a]) / np.linalg.norm(z[b]) for a, b in pairs.pairs[:-1]]
    assert lost == 1 and outcome.value() == pytest.approx(
        stats.spearmanr(by_hand, pairs.ratings[:-1]).statistic
    )


def test_the_bootstrap_is_scipys():
    x = np.random.default_rng(0).random(50)
    got = bootstrap_interval(x, np.mean, draws=500)
    want = stats.bootstrap(
        (x,), np.mean, n_resamples=500, method='percentile', vectorized=False, rng=0
    ).confidence_interval
    assert (
        (got['low'], got['high']) == pytest.approx(want)
        and got['mean'] == pytest.approx(x.mean())
        and got['n'] == 50
    )


# --- language models


@torch.no_grad()
def plain_loop(lm, text, first=None, behind=None):
    "The log-likelihood of a text's tokens number first to behind, by the definition."
    ids = lm.tokenizer(text, return_tensors='pt')['input_ids'][0]
    model, total = lm.model.eval(), 0.0
    if lm.causal:
        ids = torch.cat([torch.tensor([2]), ids])
        said = model(ids[None]).logits[0].log_softmax(-1)
        return sum(said[t - 1, ids[t]].item() for t in range(1 if first is None else first, len(ids)))
    for t in range(1 if first is None else first, len(ids) - 1 if behind is None else behind):
        hidden = ids.clone()
        hidden[t] = lm.tokenizer.mask_token_id
        total += model(hidden[None]).logits[0, t].log_softmax(-1)[ids[t]].item()
    return total


@pytest.mark.parametrize('name', ['bert', 'gpt2'])
def test_whole_texts_equal_a_plain_loop(lms, name):
    lm = lms[name]
    texts = [
        'we saw the cat .',
        'the zebra is larger than a car .',
        'this',
        'most bananas are yellow .',
        'we saw the cat .',
    ]
    sums, counts = log_likelihoods(lm, [Stretch(t) for t in texts], batch=3)
    assert sums == pytest.approx([plain_loop(lm, t) for t in texts], abs=1e-3) and counts.tolist() == [
        5,
        8 + 1,
        1,
        6,
        5,
    ]


@pytest.mark.parametrize('name', ['bert', 'gpt2'])
def test_ten_questions_equal_a_computation_by_hand(lms, name):
    lm = lms[name]
    questions = [
        Question(f'the {noun} is ', ' .', ('red', 'yellow', 'black'), ('the thing is ', ' .'), i % 3)
        for i, noun in enumerate(
            ['ant', 'apple', 'bear', 'bed', 'bird', 'bus', 'car', 'cat', 'zebra', 'coat']
        )
    ]
    got = readings(lm, questions)
    for q, said in zip(questions, got, strict=True):
        for i, answer in enumerate(q.answers):
            pieces, noun = 2 if answer == 'yellow' else 1, 2 if 'zebra' in q.before else 1
            counted = (
                pieces + 1 if lm.causal else pieces
            )  # what comes after an answer belongs to a causal score

            def score(before, nouns):
                return plain_loop(lm, f'{before}{answer} .', 3 + nouns, 3 + nouns + pieces)

            raw, prior = score(q.before, noun), score(q.prior[0], 1)
            assert (said['raw'][i], said['per_token'][i], said['calibrated'][i]) == pytest.approx(
                (raw, raw / counted, (raw - prior) / counted), abs=1e-3
            )


def test_which_tokens_are_scored(lms):
    text = 'the zebra is yellow .'
    for name, want in (('bert', ['yell', '##ow']), ('gpt2', ['yell', '##ow', '.'])):
        ids, at = stretch_tokens(lms[name], Stretch(text, 13, 19))
        assert [lms[name].tokenizer.convert_ids_to_tokens(ids[i]) for i in at] == want
    ids, at = stretch_tokens(lms['gpt2'], Stretch('the cat'))
    assert (ids[0], at) == (2, [1, 2])


def test_what_cannot_be_scored_is_none(lms):
    long = ' '.join(['cat'] * 40)
    sums, _ = log_likelihoods(
        lms['bert'], [Stretch('the cat'), Stretch('the sunlight'), Stretch(long), Stretch('')]
    )
    assert np.isnan(sums).tolist() == [False, True, True, True]
    assert readings(lms['bert'], [Question('the ', ' .', ('cat', 'sunlight'), ('', ''), 0)]) == [None]
    assert share_right(np.array([1.0, 1.0, 0]), 0) == 0.5 and share_right(np.array([1.0, 2.0]), 0) == 0


def test_a_model_is_built_no_second_time_to_learn_its_longest_text(lms, monkeypatch):
    lm = lms['bert']
    lm.__dict__.pop('most', None)
    calls = []
    longest = prompts.most_tokens
    monkeypatch.setattr(prompts, 'most_tokens', lambda config: calls.append(config) or longest(config))
    log_likelihoods(lm, [Stretch('we saw the cat'), Stretch('a cat'), Stretch('the dog ran')])
    assert len(calls) == 1 and lm.most == 32


def test_kinds_of_models(lms, tmp_path):
    assert {n: (lm.causal, lm.headless, lm.layers, lm.most) for n, lm in lms.items()} == {
        'bert': (False, False, 2, 32),
        'gpt2': (True, False, 2, 32),
        'bare': (False, True, 2, 32),
    }
    with pytest.raises(UserError, match='t5'):
        is_causal(T5Config())
    with pytest.raises(UserError, match='no model folder'):
        language_model(tmp_path / 'nothing')
    lm = lms['bare']
    ids = torch.tensor([[2, lm.tokenizer.mask_token_id, 3]])
    with torch.no_grad():
        said = (
            lm.model.base_model(ids).last_hidden_state[0, 1] @ lm.model.get_input_embeddings().weight.T
        ).log_softmax(-1)
    assert log_likelihoods(lm, [Stretch('cat')])[0][0] == pytest.approx(
        said[lm.tokenizer.convert_tokens_to_ids('cat')].item(), abs=1e-4
    )


def test_colours_by_prompts(lms, data):
    norm, _ = read_norm('coda', data)
    templates = coda_templates(data / 'coda' / 'templates.yaml')
    assert templates == ['Most {object_areis_pl} [MASK].', 'This {object_areis_s} [MASK].']
    asked = colour_questions(norm, templates)
    assert [q.before for q in asked[7]] == ['Most cars are ', 'This car is '] and [
        q.prior[0] for q in asked[7]
    ] == ['Most things are ', 'This thing is ']
    norm.forms[7]['object_s'] = None
    assert len(colour_questions(norm, templates)[7]) == 1
    one = mean_readings(lms['bert'], [asked[7]])[0]
    assert np.allclose(one['raw'], np.mean([r['raw'] for r in readings(lms['bert'], asked[7])], axis=0))
    memory, _ = read_norm('memory_colors', data)
    assert colour_questions(memory, MEMORY_PROMPTS)[0][0].before == 'The color of the ant is '
    (data / 'coda' / 'templates.yaml').write_text('a: [', encoding='utf-8')
    with pytest.raises(UserError, match="text-masked"):
        coda_templates(data / 'coda' / 'templates.yaml')
    with pytest.raises(UserError, match='nala-cub'):
        coda_templates(data / 'nothing.yaml')


def test_endings_and_pairs(lms):
    [q] = ending_questions(
        [{'context': 'the dog ran. ', 'choices': ['it was fast', 'it was slow'], 'label': 1}]
    )
    assert (q.before, q.after, q.prior, q.gold) == ('the dog ran. ', '', ('', ''), 1)
    [one] = pair_readings(lms['gpt2'], [('we saw the cat', 'we the cat saw')])
    assert one['raw'] == pytest.approx(
        [plain_loop(lms['gpt2'], t) for t in ('we saw the cat', 'we the cat saw')], abs=1e-3
    ) and one['per_token'] == pytest.approx(one['raw'] / 4)


# --- the table and the command


def test_probes_by_name(data):
    assert probes_named(['coda', 'men'], data)[0] == ['coda', 'men']
    found, absent = probes_named(['similarity', 'blimp'], data)
    assert (
        found == ['blimp', 'men']
        and list(absent) == ['simlex', 'simverb', 'wordsim']
        and 'licence' in absent['simlex']
    )
    with pytest.raises(UserError, match="did you mean 'coda'"):
        probes_named(['codda'], data)
    with pytest.raises(UserError, match='SimLex-999.txt is expected'):
        probes_named(['simlex'], data)
    with pytest.raises(UserError, match='no folder'):
        probes_named(['similarity'], data / 'nothing')
    assert probes_named(['blimp', 'piqa'], 'hub')[0] == ['piqa', 'blimp']


def test_every_kind_of_task_of_every_kind_of_model(lms, data):
    for lm in lms.values():
        states = WordStates(lm.model, lm.tokenizer)
        for task in (
            'coda',
            'memory_colors',
            'coda_prompts',
            'memory_colors_prompts',
            'men',
            'blimp',
            'spatial_size',
        ):
            found = probe_task(task, data, lm, states, None, shuffles=3).json()
            assert (
                json.loads(json.dumps(found)) == found
                and found['measures'][0]['n'] + sum(found['left_out'].values()) == found['rows']
            ), (lm.name, task)
            assert all(
                o['low'] <= o['value'] + 1e-9 and o['value'] <= o['high'] + 1e-9 for o in found['measures']
            )
        assert probe_task('blimp', data, lm, states, 2).left_out == {'not drawn': 2}


def test_what_is_left_out_is_counted_by_reason(lms, data):
    lm = lms['bert']
    with open(data / 'memory_colors' / 'memory_colors.jsonl', 'a', encoding='utf-8') as f:
        f.write(json.dumps({'item': 'sunlight', 'label': 'red'}) + '\n{"item": "sky"}\n')
    found = probe_task('memory_colors', data, lm, WordStates(lm.model, lm.tokenizer), None, shuffles=2)
    assert found.left_out == {"'label' is missing": 1, 'not in the vocabulary': 1} and found.rows == 26
    assert found.notes == {'words in pieces': 1}  # ze ##bra; sunlight is one token, [UNK]
    with pytest.raises(UserError, match='line 26'):
        probe_task('memory_colors', data, lm, WordStates(lm.model, lm.tokenizer), None, strict=True)


def test_models_are_compared_on_the_items_of_both():
    a = Outcome('top1', ['x', 'y', 'z'], np.array([1.0, 1, 0]))
    b = Outcome('top1', ['z', 'x', 'w'], np.array([0.0, 0, 1]))
    assert gap_between(a, b)['mean'] == 0.5 and gap_between(a, b)['n'] == 2
    with pytest.raises(UserError, match='no item in common'):
        gap_between(a, Outcome('top1', ['v'], np.array([1.0])))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 2))
    same = Outcome('spearman', list(range(30)), x)
    assert gap_between(same, same) == {'mean': 0, 'low': 0, 'high': 0, 'n': 30}


def test_the_command_writes_a_table(folder, data, tmp_path, capsys):
    words = write(tmp_path / 'pictured.txt', NOUNS[:12])
    sources = {'bert': str(folder / 'bert'), 'bare': str(folder / 'bare')}
    table = probe_files(
        sources, 'coda,men,blimp,similarity', data, str(tmp_path / 'out'), layer='1,2', words=str(words)
    )
    result = json.loads((tmp_path / 'out' / 'probe.json').read_text(encoding='utf-8'))
    assert (
        result['command']
        == 'vidlankd probe bert=FOLDER bare=FOLDER --tasks coda,men,blimp,similarity --data NORMS --layer 1,2 --words FILE'
    )
    assert str(tmp_path) not in json.dumps(result['models']) and {g['task'] for g in result['gaps']} == {
        'coda',
        'men',
        'blimp',
    }
    assert (
        set(result['models']['bert']['coda']['groups']) == {'words of the file', 'other words'}
        and result['models']['bert']['coda']['groups']['words of the file']['n'] == 12
    )
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {
        'probe.json',
        'table.md',
        'table.html',
        'table.tex',
    }
    assert (
        '‡' in table.markdown()
        and 'Not there: There is no file of simlex' in table.markdown()
        and 'bare − ' not in table.latex().split('%')[0]
    )
    head, every = table.grid()
    rows = [row for row in every if ', ' not in row[0]]
    parts = {row[0]: row[8] for row in every if row[1] == 'bert' and row not in rows}
    assert parts == {
        'coda, words of the file': '12',
        'coda, other words': '12',
        'men, words of the file': '11',
        'men, other words': '11',
    } and all(len(row) == len(head) for row in every)
    assert 'in neither' in table.markdown() and 'Pairs that bert reads: men 95.8%' in table.markdown()
    assert [row[:2] for row in rows] == [
        ['coda', 'bert'],
        ['coda', 'bare'],
        ['blimp', 'bert'],
        ['blimp', 'bare'],
        ['men', 'bert'],
        ['men', 'bare'],
    ] and all(len(row) == len(head) for row in rows)
    assert rows[3][3].endswith('‡') and not rows[1][3].endswith('‡')
    with pytest.raises(UserError, match='--limit is -1'):
        probe_files(sources, 'men', data, limit=-1)
    with pytest.raises(UserError, match='cannot be read'):
        word_groups(tmp_path / 'nothing.txt', [])


def test_a_json_file_instead_of_a_folder(folder, data, tmp_path):
    from vidlankd_nb.cli import main

    main(
        [
            'probe',
            f"gpt={folder / 'gpt2'}",
            '--tasks',
            'men',
            '--data',
            str(data),
            '--out',
            str(tmp_path / 'benchmarks' / 'norms.json'),
            '--threads',
            '1',
        ]
    )
    assert [p.name for p in (tmp_path / 'benchmarks').iterdir()] == ['norms.json']
    found = json.loads((tmp_path / 'benchmarks' / 'norms.json').read_text(encoding='utf-8'))
    assert found['command'] == 'vidlankd probe gpt=FOLDER --tasks men --data NORMS' and found['models'][
        'gpt'
    ]['men']['notes'] == {'coverage': 23 / 24}
    with pytest.raises(SystemExit):
        main(['probe', '--help'])
    assert command_of(
        {'google-bert/bert-base-uncased': 'google-bert/bert-base-uncased'}, 'men', None, 0
    ).endswith('--limit 0')
    assert not re.search('/tmp|/work', json.dumps(found['command']))


def test_seeds_draw_the_same_rows_for_every_model(folder, data):
    tables = [
        probe_models(
            {'a': str(folder / 'bert'), 'b': str(folder / 'bert')},
            ['men'],
            data,
            limit=10,
            seed=s,
            tell=lambda text: None,
        )
        for s in (0, 0, 1)
    ]
    values = [t.models['a']['men']['measures'][0]['value'] for t in tables]
    assert (
        values[0] == values[1] != values[2]
        and tables[0].gaps[0]['mean'] == 0
        and tables[0].models['a']['men']['left_out']['not drawn'] == 14
    )


def test_a_word_that_is_longer_than_a_model_reads_is_one_it_cannot_read(tmp_path):
    (tmp_path / 't.txt').write_text('a banana is there\nthe apple\n' * 30, encoding='utf-8')
    tokenizer = train_tokenizer([tmp_path / 't.txt'], 120)
    size = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 16}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **size)).eval()
    states, can = WordStates(model, tokenizer).of(['banana', 'banana ' * 30, 'apple'])
    assert can.tolist() == [True, False, True] and states.shape == (2, 16)
    alone, _ = WordStates(model, tokenizer).of(['banana', 'apple'])
    assert abs(states - alone).max() < 1e-6
