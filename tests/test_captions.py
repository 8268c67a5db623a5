"""Captions in every layout: what is read, written down by hand or by the format's library, and what is said of the rest."""

import gzip
import io
import json

import pytest
import srt
import webvtt
from support.trainings import CLI, call, refused

from vidlankd_nb.captions import write_captions
from vidlankd_nb.entries import JsonPieces, json_items, json_members
from vidlankd_nb.files import UserError
from vidlankd_nb.layouts import Captions, Sieve, read_captions
from vidlankd_nb.subtitles import told_encoding
from vidlankd_nb.tables import Reading, by_video

TWO = {
    'a': {'start': [0.5, 2.0], 'end': [2.0, 3.5], 'text': ['wash the rice', 'boil it']},
    'b': {'start': [1.0], 'end': [4.0], 'text': ['cut an onion']},
}

AUTO = '''WEBVTT
Kind: captions
Language: en

00:00:00.240 --> 00:00:02.389 align:start position:0%
 
first<00:00:00.480><c> wash</c><00:00:00.800><c> the</c><00:00:01.040><c> rice</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
first wash the rice
 

00:00:02.399 --> 00:00:05.000 align:start position:0%
first wash the rice
then<00:00:02.720><c> boil</c><00:00:03.040><c> it</c>

00:00:05.000 --> 00:00:05.010 align:start position:0%
then boil it
 

00:00:05.010 --> 00:00:08.000 align:start position:0%
 
&gt;&gt; salt<00:00:05.500><c> &amp;</c><00:00:06.000><c> pepper</c>

'''
ROLLED = {
    'start': [0.24, 2.399, 5.01],
    'end': [2.389, 5.0, 8.0],
    'text': ['first wash the rice', 'then boil it', '>> salt & pepper'],
}


def put(path, text, encoding='utf-8'):
    data = (
        text
        if isinstance(text, bytes)
        else (text if isinstance(text, str) else json.dumps(text)).encode(encoding)
    )
    with (gzip.open if path.suffix == '.gz' else open)(path, 'wb') as f:
        f.write(data)
    return path


def lines(values):
    return '\n'.join(json.dumps(v) for v in values) + '\n'


# -- subtitles --


@pytest.mark.parametrize(
    'change',
    [
        str,
        lambda t: t.replace('\n', '\r\n'),
        lambda t: t.replace('\n', '\r'),
        lambda t: t.replace('\n \n', '\n\n'),
        lambda t: '\ufeff' + t,
    ],
    ids=['lf', 'crlf', 'cr', 'empty lines', 'mark'],
)
def test_rolling_cues_are_read_once(tmp_path, change):
    put(tmp_path / 'auto.vtt', change(AUTO))
    assert list(read_captions(tmp_path / 'auto.vtt')) == [('auto', ROLLED)]


def test_rolling_cues_that_became_srt(tmp_path):
    "As converters leave them: no tags, the repetition is there."
    cues = [
        (0.24, 2.389, 'first wash the rice'),
        (2.389, 2.399, 'first wash the rice'),
        (2.399, 5.0, 'first wash the rice\nthen boil it'),
        (5.0, 5.01, 'then boil it'),
        (5.01, 8.0, 'then boil it\n>> salt & pepper'),
    ]
    from datetime import timedelta

    put(
        tmp_path / 'auto.srt',
        srt.compose(
            [
                srt.Subtitle(i, timedelta(seconds=a), timedelta(seconds=b), t)
                for i, (a, b, t) in enumerate(cues, 1)
            ]
        ),
    )
    assert list(read_captions(tmp_path / 'auto.srt')) == [('auto', ROLLED)]


def test_words_said_twice_stay_where_nothing_rolls(tmp_path):
    put(tmp_path / 'no.vtt', 'WEBVTT\n\n00:01.000 --> 00:02.000\nNo!\n\n00:02.000 --> 00:03.000\nNo!\n')
    assert list(read_captions(tmp_path / 'no.vtt')) == [
        ('no', {'start': [1.0, 2.0], 'end': [2.0, 3.0], 'text': ['No!', 'No!']})
    ]


def test_plain_webvtt_is_as_its_library_has_it(tmp_path):
    text = 'WEBVTT - a title\n\nSTYLE\n::cue { color: red }\n\nNOTE\na remark --> with an arrow\n\nintro\n00:01.000 --> 00:02.500 line:0\n<v Anna>Crack <i>two</i> eggs\ninto a bowl\n\n01:00:03.000 --> 01:00:04.250\nwhisk\n'
    put(tmp_path / 'v.vtt', text)
    ((video, got),) = read_captions(tmp_path / 'v.vtt')
    want = [c for c in webvtt.from_string(text)]
    assert got['text'] == [' '.join(c.text.split()) for c in want] == ['Crack two eggs into a bowl', 'whisk']
    assert (got['start'], got['end']) == ([1.0, 3603.0], [2.5, 3604.25])


def test_what_cannot_be_read_in_subtitles_is_counted(tmp_path):
    put(
        tmp_path / 'v.vtt',
        'WEBVTT\n\n00:01.000 --> 00:02.000\n\n00:02.000 --> 00:03.000\nhello\n\n00:xx.000 --> 00:09.000\nlost\n\n00:05.000 --> 00:04.000\nback\n',
    )
    sieve = Sieve(tmp_path / 'v.vtt')
    assert list(sieve) == [('v', [(2.0, 3.0, 'hello')])]
    assert dict(sieve.source.faults) == {
        'a cue that cannot be read': 1,
        'empty text': 1,
        'ends before it starts': 1,
    }
    put(
        tmp_path / 's.srt',
        '1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:02,000 --> nothing\ntwo\n\n3\n00:00:03,000 --> 00:00:04,000\nthree\n',
    )
    sieve = Sieve(tmp_path / 's.srt')
    assert [c[2] for _, found in sieve for c in found] == ['one', 'three'] and sieve.source.faults[
        'a cue that cannot be read'
    ] == 1
    put(tmp_path / 'e.vtt', 'WEBVTT\n')
    sieve = Sieve(tmp_path / 'e.vtt')
    assert list(sieve) == [] and dict(sieve.source.faults) == {'no cue in its file': 1}


@pytest.mark.parametrize(
    'page,words',
    [
        ('cp1252', 'café crème brûlée'),
        ('cp1251', 'сегодня мы варим рис и режем лук'),
        ('shift_jis', '今日はご飯を炊きます'),
        ('gb18030', '今天我们做饭，先洗米'),
        ('cp1252', 'Der Bäcker läßt grüßen – jetzt die Äpfel'),
        ('cp1252', 'nu skal vi røre æg og fløde sammen, så'),
        ('cp1252', '¿qué más? añade la piña'),
        ('cp1250', 'zażółć gęślą jaźń, dodaj mąkę'),
        ('cp1250', 'přidáme mouku a vejce, řekl kuchař, pečeme ještě'),
        ('cp1252', 'Nú bætum við þremur eggjum út í skálina'),
        ('cp1254', 'Bugün çok güzel bir gün, değil mi? Şimdi başlıyoruz'),
        ('cp1255', 'שלום לכולם היום נכין אורז ונחתוך בצל דק'),
        ('cp949', '오늘은 밥을 짓겠습니다 먼저 쌀을 씻어요'),
        ('utf-16', 'café'),
    ],
)
def test_a_code_page_is_named(tmp_path, page, words):
    put(tmp_path / 'v.srt', f'1\n00:00:01,000 --> 00:00:02,500\n{words}\n', page)
    sieve = Sieve(tmp_path / 'v.srt')
    assert list(sieve) == [('v', [(1.0, 2.5, words)])]
    if page != 'utf-16':
        assert f'no UTF-8 and were read as {page}, such as v.srt' in sieve.said()
        assert list(Captions(tmp_path / 'v.srt', Reading(encoding=page)))[0][1]['text'] == [words]
    wrong = Sieve(Captions(tmp_path / 'v.srt', Reading(encoding='ascii')))
    assert list(wrong) == [] and wrong.source.faults['a file in another encoding'] == 1
    with pytest.raises(UserError, match="no encoding 'klingon'|unknown encoding"):
        list(Captions(put(tmp_path / 't.csv', 'video_id,text\n'), Reading(encoding='klingon')))


@pytest.mark.parametrize('words', ['café', '今天我们做饭', 'сегодня мы варим рис'])
@pytest.mark.parametrize('page', ['utf-16-le', 'utf-16-be', 'utf-32-le', 'utf-32-be'])
@pytest.mark.parametrize('mark', ['', '\ufeff'])
def test_wide_letters_are_known_with_and_without_a_mark(tmp_path, mark, page, words):
    "A mark of UTF-32 begins like one of UTF-16; without a mark, every second letter was a zero."
    put(tmp_path / 'v.srt', f'{mark}1\n00:00:01,000 --> 00:00:02,500\n{words}\n'.encode(page))
    sieve = Sieve(tmp_path / 'v.srt')
    assert list(sieve) == [('v', [(1.0, 2.5, words)])]
    assert (f'were read as {page}' in sieve.said()) == (not mark)
    put(tmp_path / 't.csv', f'{mark}video_id,start,end,text\nv,1,2.5,{words}\n'.encode(page))
    row = {'video_id': 'v', 'start': 1, 'end': 2.5, 'text': words}
    put(tmp_path / 't.jsonl', f'{mark}{json.dumps(row, ensure_ascii=False)}\n'.encode(page))
    for name in ('t.csv', 't.jsonl'):
        assert dict(Captions(tmp_path / name)) == {'v': {'start': [1.0], 'end': [2.5], 'text': [words]}}


def test_a_zero_among_letters_makes_no_wide_text():
    for raw in (b'a\0b', b'plain text\0with one zero, and many more letters', b'\0', b''):
        assert told_encoding(raw) is None


def test_a_folder_of_subtitles(tmp_path):
    folder = tmp_path / 's'
    (folder / 'deep').mkdir(parents=True)
    cue = '00:01.000 --> 00:02.000\n'
    put(folder / 'a.en.vtt', f'WEBVTT\n\n{cue}english')
    put(folder / 'deep' / 'b.srt.gz', '1\n00:00:01,000 --> 00:00:02,000\nplain\n')
    put(folder / 'a.mp4', b'\0')
    sieve = Sieve(folder)
    assert list(sieve) == [('a', [(1.0, 2.0, 'english')]), ('b', [(1.0, 2.0, 'plain')])]
    assert (
        'languages in names: en (1)' in sieve.said()
        and 'other files: 1 .mp4' in sieve.said()
        and 'subtitles (2 files)' in sieve.said()
    )
    put(folder / 'a.de.vtt', f'WEBVTT\n\n{cue}deutsch')
    with pytest.raises(
        UserError, match='a.de.vtt and a.en.vtt are subtitles of one video: choose a language'
    ):
        list(read_captions(folder))
    german = Sieve(Captions(folder, Reading(language='de')))
    assert dict(german)['a'] == [(1.0, 2.0, 'deutsch')] and dict(german)['b'] == [(1.0, 2.0, 'plain')]
    assert set(dict(Captions(folder, Reading(language='none')))) == {'a.de', 'a.en', 'b'}
    french = Sieve(Captions(folder, Reading(language='fr')))
    assert [v for v, _ in french] == ['b'] and french.source.faults == {'no subtitles in fr': 1}
    (tmp_path / 'empty').mkdir()
    put(tmp_path / 'empty' / 'x.mp4', b'\0')
    with pytest.raises(UserError, match='holds no captions: .vtt, .* and .mp4 was found'):
        list(read_captions(tmp_path / 'empty'))


# -- data sets: name, file, how it looks, what it says --

YOUCOOK2 = {
    'database': {
        'v1': {
            'duration': 300.5,
            'subset': 'training',
            'recipe_type': '113',
            'annotations': [
                {'segment': [90, 102], 'id': 0, 'sentence': 'spread margarine'},
                {'segment': [114, 127], 'id': 1, 'sentence': 'place cheese'},
            ],
            'video_url': 'u',
        },
        'v2': {'duration': 10, 'subset': 'testing', 'recipe_type': '1', 'video_url': 'u'},
    }
}
ACTIVITYNET = {
    'v_QOl': {
        'duration': 82.73,
        'timestamps': [[0.83, 19.86], [17.37, 60.81]],
        'sentences': ['A woman is seen', ' She moves'],
    },
    'v_x': {'duration': 5, 'timestamps': [[0, 1]], 'sentences': ['one', 'two']},
}
MSRVTT = {
    'info': {'year': '2016'},
    'videos': [
        {
            'video_id': 'video0',
            'start time': 137.72,
            'end time': 149.44,
            'split': 'train',
            'category': 9,
            'url': 'u',
            'id': 0,
        },
        {'video_id': 'video1', 'start time': 5, 'end time': 15, 'split': 'train', 'url': 'u', 'id': 1},
    ],
    'sentences': [
        {'caption': 'a car is shown', 'video_id': 'video0', 'sen_id': 0},
        {'caption': 'a man sings', 'video_id': 'video1', 'sen_id': 1},
        {'caption': 'in a drag race', 'video_id': 'video0', 'sen_id': 2},
    ],
}
VATEX = [
    {
        'videoID': 'G9zN5TTuGO4_000179_000189',
        'enCap': ['he is lifting', 'a man lifts'],
        'chCap': ['一', '二'],
    },
    {'videoID': 'x', 'enCap': ['y']},
]
TABLES = [
    ('HowTo100M JSON', 'c.json', TWO, TWO),
    ('HowTo100M JSON', 'c.jsonl', lines({k: v} for k, v in TWO.items()), TWO),
    ('HowTo100M JSON', 'lines.json', lines({k: v} for k, v in TWO.items()), TWO),
    (
        'records with named columns',
        'r.json',
        lines(
            dict(video_id=v, start=s, end=e, text=t)
            for v, c in TWO.items()
            for s, e, t in zip(c['start'], c['end'], c['text'], strict=True)
        ),
        TWO,
    ),
    (
        'records with named columns',
        'r.ndjson',
        lines(dict(id=v, starts=c['start'], ends=c['end'], captions=c['text']) for v, c in TWO.items()),
        TWO,
    ),
    (
        'records with named columns',
        'l.json',
        [
            dict(vid=v, segment=[s, e], sentence=t)
            for v, c in TWO.items()
            for s, e, t in zip(c['start'], c['end'], c['text'], strict=True)
        ],
        TWO,
    ),
    (
        'ActivityNet JSON',
        'val_1.json',
        ACTIVITYNET,
        {
            'v_QOl': {
                'start': [0.83, 17.37],
                'end': [19.86, 60.81],
                'text': ['A woman is seen', ' She moves'],
            },
            'v_x': None,
        },
    ),
    (
        'YouCook2 JSON',
        'y.json',
        YOUCOOK2,
        {'v1': {'start': [90, 114], 'end': [102, 127], 'text': ['spread margarine', 'place cheese']}},
    ),
    (
        'MSR-VTT JSON',
        'm.json',
        MSRVTT,
        {
            'video0': {
                'start': [0.0, 0.0],
                'end': [pytest.approx(11.72)] * 2,
                'text': ['a car is shown', 'in a drag race'],
            },
            'video1': {'start': [0.0], 'end': [10], 'text': ['a man sings']},
        },
    ),
    (
        'VATEX JSON',
        'v.json',
        VATEX,
        {
            'G9zN5TTuGO4_000179_000189': {
                'start': [0.0, 0.0],
                'end': [10.0, 10.0],
                'text': ['he is lifting', 'a man lifts'],
            },
            'x': {'start': [0.0], 'end': ['end'], 'text': ['y']},
        },
    ),
    (
        'MSR-VTT table',
        'm.csv',
        'key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person is connecting something\nret1,msr9771,video9771,"a, b"\n',
        {
            'video9770': {'start': [0.0], 'end': ['end'], 'text': ['a person is connecting something']},
            'video9771': {'start': [0.0], 'end': ['end'], 'text': ['a, b']},
        },
    ),
    (
        'YouCook2 table',
        'y.csv',
        'end,start,task,text,video_id\n41.0,38.0,226,pick the ends off,xHr8X2Wpmno\n72.0,63.0,226,mix,xHr8X2Wpmno\n',
        {'xHr8X2Wpmno': {'start': [38.0, 63.0], 'end': [41.0, 72.0], 'text': ['pick the ends off', 'mix']}},
    ),
    (
        'HMDB table',
        'h.csv',
        'video_id,label,split1,split2,split3\nApril_09_brush_hair_u_nm_np1_ba_goo_0.avi,brush_hair,1,1,2\n',
        {'April_09_brush_hair_u_nm_np1_ba_goo_0': {'start': [0.0], 'end': ['end'], 'text': ['brush hair']}},
    ),
    (
        'WebVid table',
        'w.csv',
        'videoid,contentUrl,duration,page_dir,name\n21179416,https://x/21179416.mp4,PT00H01M11S,006001,Aerial shot\n',
        {'21179416': {'start': [0.0], 'end': [71.0], 'text': ['Aerial shot']}},
    ),
    (
        'ActivityNet records',
        'a.jsonl',
        lines(
            [
                {
                    'video_id': 'v_a',
                    'video_path': 'v_a.mp4',
                    'duration': 9,
                    'captions_starts': [0, 1],
                    'captions_ends': [1, 2],
                    'en_captions': ['x', 'y'],
                }
            ]
        ),
        {'v_a': {'start': [0, 1], 'end': [1, 2], 'text': ['x', 'y']}},
    ),
    (
        'records with named columns',
        't.tsv',
        'Video ID\tStart Time\tEnd-Time\tCaption\na\t0.5\t2\twash the rice\nb\t00:00:01,0\t0:04\tcut an onion\na\t2\t3.5\tboil it\n',
        TWO,
    ),
    (
        'records with named columns',
        'semicolons.csv',
        '\ufeffvideo_id;start;end;text\r\na;0.5;2;wash the rice\r\na;2;3,5;boil it\r\nb;1;4;"cut an\r\nonion"\r\n',
        {'a': TWO['a'], 'b': {'start': [1.0], 'end': [4.0], 'text': ['cut an\r\nonion']}},
    ),
    (
        'transcript JSON',
        'talk.json',
        {
            'text': 'all',
            'segments': [{'id': 0, 'start': 0.0, 'end': 2.5, 'text': ' hello'}],
            'language': 'en',
        },
        {'talk': {'start': [0.0], 'end': [2.5], 'text': [' hello']}},
    ),
    (
        'records with named columns',
        'tube.json',
        [{'text': 'hi', 'start': 1.5, 'duration': 2.0}],
        {'tube': {'start': [1.5], 'end': [3.5], 'text': ['hi']}},
    ),
]


@pytest.mark.parametrize('packed', ['', '.gz'])
@pytest.mark.parametrize('name,file,content,want', TABLES, ids=[t[1] for t in TABLES])
def test_layouts(tmp_path, name, file, content, want, packed):
    put(tmp_path / f'{file}{packed}', content)
    captions = Captions(tmp_path / f'{file}{packed}')
    assert dict(captions) == want and list(captions.layouts) == [name]


def test_parquet_and_saved_data_sets(tmp_path):
    import datasets
    import pandas as pd

    rows = [
        dict(video_id=v, start=s, end=e, text=t)
        for v, c in TWO.items()
        for s, e, t in zip(c['start'], c['end'], c['text'], strict=True)
    ]
    (tmp_path / 'p').mkdir()
    pd.DataFrame(rows[:1]).to_parquet(tmp_path / 'p' / 'train-0.parquet')  # one video over two files
    pd.DataFrame(rows[1:]).to_parquet(tmp_path / 'p' / 'train-1.parquet')
    assert dict(read_captions(tmp_path / 'p')) == TWO
    whole = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(train=whole, test=whole.select([2])).save_to_disk(str(tmp_path / 'd'))
    assert dict(Captions(tmp_path / 'd', Reading(split='train'))) == TWO
    assert dict(Captions(tmp_path / 'd', Reading(split='test'))) == {'b': TWO['b']}
    with pytest.raises(UserError, match="no split 'dev': train, test"):
        list(Captions(tmp_path / 'd', Reading(split='dev')))
    datasets.Dataset.from_list([dict(clip='b', words='cut an onion', t0=1.0, t1=4.0)]).save_to_disk(
        str(tmp_path / 'odd')
    )
    with pytest.raises(UserError, match='no column for the text among clip, words, t0, t1: name it'):
        list(read_captions(tmp_path / 'odd'))
    assert dict(Captions(tmp_path / 'odd', Reading('clip', 't0', 't1', 'words'))) == {'b': TWO['b']}


def test_a_data_set_of_the_hub(monkeypatch):
    import datasets

    asked = []

    def load(name, configuration, split, streaming):
        asked.append((name, configuration, split, streaming))
        return datasets.Dataset.from_list(
            [dict(video_id='b', start=1.0, end=4.0, caption='cut an onion')]
        ).to_iterable_dataset()

    monkeypatch.setattr(datasets, 'load_dataset', load)
    assert dict(Captions('who/what', Reading(configuration='en', split='train'))) == {'b': TWO['b']}
    assert asked == [('who/what', 'en', 'train', True)]

    def fail(*_, **__):
        raise ConnectionError('no net')

    monkeypatch.setattr(datasets, 'load_dataset', fail)
    with pytest.raises(UserError, match="No file or folder 'who/what', and no such data set .*no net"):
        list(read_captions('who/what'))


def test_unknown_layouts_are_refused_with_their_keys(tmp_path):
    for file, content, seen in (
        ('a.csv', 'clip,from,to,said\nx,1,2,y\n', "'clip', 'from', 'to', 'said'"),
        ('a.json', {'x': {'von': [1], 'bis': [2], 'wort': ['y']}}, "'von', 'bis', 'wort'"),
        ('a.jsonl', lines([{'clip': 'x', 'said': 'y'}]), "'clip', 'said'"),
        ('b.json', {'foo': 1, 'bar': [1]}, "'foo', 'bar'"),
        ('c.json', {'events': [{'tStartMs': 0, 'segs': [{'utf8': 'hi'}]}]}, "'events'"),
        ('a.docx', 'x', "ends in '.docx'"),
    ):
        put(tmp_path / file, content)
        with pytest.raises(UserError, match=f'{file}: no layout of captions that is known') as e:
            list(read_captions(tmp_path / file))
        assert seen in str(e.value) and 'vidlankd captions FILE --video COLUMN' in str(e.value)
    put(tmp_path / 'b.csv', 'clip,from,to,said\nx.mp4,1,2,y\n')
    assert dict(Captions(tmp_path / 'b.csv', Reading('clip', 'from', 'to', 'said'))) == {
        'x': {'start': [1.0], 'end': [2.0], 'text': ['y']}
    }
    with pytest.raises(UserError, match="no column 'word'.*clip, from, to, said"):
        list(Captions(tmp_path / 'b.csv', Reading('clip', text='word')))


def test_damaged_files_are_named(tmp_path):
    whole = gzip.compress(json.dumps({str(i): TWO['a'] for i in range(3000)}).encode())
    (tmp_path / 'half.json.gz').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match='half.json.gz'):
        list(read_captions(tmp_path / 'half.json.gz'))
    put(tmp_path / 'latin.csv', 'video_id,text\na,café\n', 'latin-1')
    with pytest.raises(UserError, match='latin.csv is no utf-8 text near byte .* --encoding'):
        list(read_captions(tmp_path / 'latin.csv'))
    assert dict(Captions(tmp_path / 'latin.csv', Reading(encoding='cp1252')))['a']['text'] == ['café']
    put(tmp_path / 'two.json', '{"a": {"start": [1], "end": [2], "text": ["x"]}} and more')
    with pytest.raises(UserError, match='two.json is not a JSON object'):
        list(read_captions(tmp_path / 'two.json'))


def test_broken_rows_are_counted_and_named(tmp_path):
    put(
        tmp_path / 'r.jsonl',
        lines(
            [
                {'video_id': 'a', 'start': 0, 'end': 1, 'text': 'x'},
                {'video_id': None, 'start': 0, 'end': 1, 'text': 'x'},
                {'video_id': 'a', 'start': 0, 'end': 1, 'text': None},
            ]
        )
        + 'torn {\n'
        + lines(
            [
                [1],
                {'video_id': 'a', 'start': None, 'end': 1, 'text': 'x'},
                {'video_id': 'a', 'start': 3, 'end': 1, 'text': 'x'},
                {'video_id': 'a', 'start': float('nan'), 'end': 1, 'text': 'x'},
                {'video_id': 'a', 'start': 1, 'end': 2, 'text': 'half \ud83d'},
                {'video_id': '\ud83d', 'start': 1, 'end': 2, 'text': 'y'},
            ]
        ),
    )
    sieve = Sieve(tmp_path / 'r.jsonl')
    assert list(sieve) == [('a', [(0.0, 1.0, 'x')])]
    assert dict(sieve.source.faults) == {
        'no video id': 1,
        'a line that is no JSON object': 2,
        'empty text': 1,
        'times that are no numbers': 2,
        'ends before it starts': 1,
        'half a character': 1,
        'half a character in the id': 1,
    }
    assert {'video': 'r.jsonl, row 4', 'reason': 'a line that is no JSON object'} in sieve.source.cases
    put(tmp_path / 't.csv', 'video_id,text\na,x\nb\nc,y,z\n\nd,\n')
    sieve = Sieve(tmp_path / 't.csv')
    assert [v for v, c in sieve if c] == ['a'] and dict(sieve.source.faults) == {
        'a row that does not fit its header': 2,
        'empty text': 1,
    }


def test_rows_of_a_video_may_stand_anywhere():
    rows = [(str(i % 7), {'start': [i], 'end': [i + 1], 'text': [f'w{i}']}) for i in range(100)]
    found = list(by_video(rows))
    assert [v for v, _ in found] == [str(i) for i in range(7)]
    assert all(e['start'] == list(range(int(v), 100, 7)) for v, e in found)


# -- the command, and every stage alike --


def test_the_command(tmp_path):
    put(
        tmp_path / 'm.csv',
        'video_id,start,end,text\nb,1,4,cut an onion\na,0.5,2,wash the rice\nb,9,8,back\na,2,3.5,boil it\n',
    )
    put(tmp_path / 'a.vtt', AUTO)
    said = call(
        *CLI, 'captions', tmp_path / 'm.csv', tmp_path / 'a.vtt', '--out', tmp_path / 'out' / 'caption.json'
    ).stdout
    assert (
        "records with named columns: 2 videos, 3 captions; the first: b 1.00–4.00 s 'cut an onion'; left out: 1 ends before it starts (b, caption 1)"
        in said
    )
    assert '1 in another source already (a)' in said
    assert json.loads((tmp_path / 'out' / 'caption.json').read_text(encoding='utf-8')) == TWO
    named = [
        json.loads(line)
        for line in (tmp_path / 'out' / 'caption.json.skipped.jsonl').read_text(encoding='utf-8').splitlines()
    ]
    assert named == [
        {'video': 'b', 'reason': 'ends before it starts', 'caption': 1},
        {'video': 'a', 'reason': 'in another source already'},
    ]
    assert 'no column' in refused(
        *CLI, 'captions', tmp_path / 'm.csv', '--text', 'word', '--out', tmp_path / 'c.json'
    )
    assert not (tmp_path / 'c.json').exists()


def test_rolling_captions_are_noticed(tmp_path):
    words = [f'w{i}' for i in range(40)]
    texts = [' '.join(words[3 * i : 3 * i + 6]) for i in range(10)]
    caps = {'a': {'start': list(range(10)), 'end': list(range(1, 11)), 'text': texts}}
    put(tmp_path / 'c.json', caps)
    notes = write_captions([tmp_path / 'c.json'], tmp_path / 'o.json')
    assert (
        notes[1].startswith('9 of 10 captions begin with the end of the one before')
        and '--remove_overlap true' in notes[1]
    )
    assert len(write_captions([put(tmp_path / 'd.json', TWO)], tmp_path / 'o.json')) == 1


def test_every_stage_counts_and_names_alike(tmp_path):
    "One broken caption of each kind: features, pairs and corpus give the same counts; no word of them is in the vocabulary."
    import shutil

    from vidlankd_nb.config import samples
    from vidlankd_nb.experiments import Experiment
    from vidlankd_nb.presets import load_run

    toy = samples() / 'toyworld'
    caps = json.loads((toy / 'caption.json').read_text(encoding='utf-8'))
    caps = {v: caps[v] for v in sorted(caps)[:4]}
    (tmp_path / 'v').mkdir()
    for v in caps:
        shutil.copy(toy / 'videos' / f'{v}.mp4', tmp_path / 'v')
    last = caps[max(caps)]
    broken = [
        (0, 1, None),
        (0, 1, ''),
        (0, 1, ['x']),
        (0, 1, 'zebra \ud83d'),
        (3, 1, 'zebra'),
        (float('nan'), 1, 'zebra'),
        (None, 1, 'zebra'),
        (-1, 1, 'zebra'),
    ]
    for s, e, t in broken:
        last['start'].append(s), last['end'].append(e), last['text'].append(t)
    caps |= {'n': None, 'l': [[0], [1]], 'x': {'start': [0], 'end': [1]}}
    put(tmp_path / 'c.json', caps)
    put(tmp_path / 't.txt', 'the red ball rolls\n' * 20)
    run = load_run(
        'quick',
        data__videos=str(tmp_path / 'v'),
        data__captions=str(tmp_path / 'c.json'),
        data__text=[str(tmp_path / 't.txt')],
        corpus__block=16,
    )
    x = Experiment(run, tmp_path / 'run', show=False)
    x.do('features', 'pairs', 'corpus')
    want = {
        'empty text': 3,
        'half a character': 1,
        'ends before it starts': 1,
        'times that are no numbers': 2,
        'starts before the video': 1,
    }
    three = {'start, end and text are not three lists of one length': 3}
    features = json.loads((tmp_path / 'run' / 'features' / 'report.json').read_text(encoding='utf-8'))[
        'captions'
    ]
    corpus = json.loads((tmp_path / 'run' / 'corpus' / 'captions_skipped.json').read_text(encoding='utf-8'))
    pairs = json.loads((tmp_path / 'run' / 'pairs' / 'report.json').read_text(encoding='utf-8'))
    assert features['skipped_counts'] == corpus['counts'] == want | three
    assert pairs['skipped_counts'] == want | {'no features': 3}
    assert features['skipped'] == corpus['skipped'] and len(corpus['skipped']) == 11
    vocabulary = (tmp_path / 'run' / 'corpus' / 'tokenizer' / 'tokenizer.json').read_text(encoding='utf-8')
    lines_ = (tmp_path / 'run' / 'corpus' / 'captions.txt').read_text(encoding='utf-8').lower()
    assert 'zebra' not in lines_ and 'none' not in lines_.split() and '"none"' not in vocabulary


def test_a_caption_of_a_whole_video(tmp_path):
    from test_pairs import make_store

    from vidlankd_nb.config import Pairs
    from vidlankd_nb.pairs import make_pairs

    make_store(tmp_path / 'f', 2, seconds=30)
    put(tmp_path / 'm.csv', 'video_id,sentence\nv000,a car\nv001,a man\n')
    train, _, report = make_pairs(tmp_path / 'f', tmp_path / 'm.csv', Pairs(valid_share=0), tmp_path / 'p')
    assert [train.meta(i) for i in range(2)] == [('v000', 0.0, 30.0, 'a car'), ('v001', 0.0, 30.0, 'a man')]
    assert report['notes'][0].startswith(
        "MSR-VTT table: 2 videos, 2 captions; the first: v000 0.00–30.00 s 'a car'"
    )


def test_a_large_file_is_read_piece_by_piece(tmp_path):
    "What is held at once is far less than the file."
    import tracemalloc

    with open(tmp_path / 'big.json', 'w', encoding='utf-8') as f:
        f.write('{')
        for i in range(4000):
            f.write(
                ('' if i == 0 else ',')
                + f'"v{i}": '
                + json.dumps(
                    {
                        'start': [0] * 20,
                        'end': [1] * 20,
                        'text': ['a lot of words are said here again and again'] * 20,
                    }
                )
            )
        f.write('}')
    assert (tmp_path / 'big.json').stat().st_size > 4e6
    tracemalloc.start()
    n = sum(1 for _ in read_captions(tmp_path / 'big.json', 1 << 14))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 4000 and peak < 1e6, peak


@pytest.mark.parametrize('piece', range(1, 9))
def test_a_number_is_whole_wherever_a_piece_of_its_file_ends(piece):
    "Expected: what `json.loads` says of the whole text."
    object_, list_ = (
        '{"version": 1.25, "a": -2.5e-3, "b": [1, 2.25], "c": 7E+2, "d": 0.5}',
        '[2.5, 1e3, 4E-1, -0.25, 12]',
    )
    assert dict(json_members(JsonPieces(io.StringIO(object_), piece))) == json.loads(object_)
    assert list(json_items(JsonPieces(io.StringIO(list_), piece))) == json.loads(list_)


@pytest.mark.parametrize(
    'out, said',
    [
        ('t.csv', 'is one of the files to read'),
        ('link.csv', 'is one of the files to read'),
        ('notes.txt', 'holds something else'),
        ('folder', 'is a folder'),
    ],
)
def test_captions_are_never_written_over_other_files(tmp_path, out, said):
    table = 'video,start,end,text\na,0,1,the red ball jumps\n'
    (tmp_path / 't.csv').write_text(table, encoding='utf-8')
    (tmp_path / 'link.csv').symlink_to(tmp_path / 't.csv')
    (tmp_path / 'notes.txt').write_text('what I wrote', encoding='utf-8')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(UserError, match=said):
        write_captions([tmp_path / 't.csv'], tmp_path / out)
    assert (tmp_path / 't.csv').read_text(encoding='utf-8') == table
    assert (tmp_path / 'notes.txt').read_text(encoding='utf-8') == 'what I wrote'
    for _ in (1, 2):  # the same command again writes the same file
        write_captions([tmp_path / 't.csv'], tmp_path / 'caption.json')
    assert json.loads((tmp_path / 'caption.json').read_text(encoding='utf-8'))['a']['text'] == [
        'the red ball jumps'
    ]
