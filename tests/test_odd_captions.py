"""Captions as people really have them: times, endings, quotation marks and packed files that were once read wrongly, in silence."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pandas as pd
import pytest
import zstandard
from PIL import Image
from test_captions import MSRVTT, lines, put

from vidlankd_nb.config import Corpus
from vidlankd_nb.files import UserError
from vidlankd_nb.layouts import Captions, Sieve
from vidlankd_nb.named_pictures import PictureFolder
from vidlankd_nb.tables import Reading, time_in_seconds
from vidlankd_nb.texts import LeftOut, text_pieces
from vidlankd_nb.video import VIDEO_ENDINGS

# -- whose clock? --

ROWS = [
    {'video_id': 'a', 'start time': 12.5, 'end time': 15.0, 'text': 'cut'},
    {'video_id': 'a', 'start time': 40.0, 'end time': 44.0, 'text': 'stir'},
]
IN_THE_VIDEO = {'a': {'start': [12.5, 40.0], 'end': [15.0, 44.0], 'text': ['cut', 'stir']}}
CLIP = {
    'video_id': 'video7',
    'video': 'video7.mp4',
    'caption': ['a car', 'a race'],
    'source': 'MSR-VTT',
    'category': 9,
    'url': 'https://www.youtube.com/watch?v=9lZi22qLlEo',
    'start time': 137.5,
    'end time': 149.0,
    'id': 7,
}


@pytest.mark.parametrize('kind', ['csv', 'jsonl', 'data set'])
def test_start_time_and_end_time_are_times_of_the_video(tmp_path, kind):
    "MSR-VTT alone calls the place of a clip in its film so; a table of anybody else means the video."
    import datasets

    if kind == 'csv':
        table = '\n'.join(','.join(map(str, r.values())) for r in ROWS)
        put(tmp_path / 'c.csv', f'video_id,start time,end time,text\n{table}\n')
        source = tmp_path / 'c.csv'
    elif kind == 'jsonl':
        source = put(tmp_path / 'c.jsonl', lines(ROWS))
    else:
        source = tmp_path / 'd'
        datasets.Dataset.from_list(ROWS).save_to_disk(str(source))
    assert dict(Captions(source)) == IN_THE_VIDEO
    named = Reading(start='start time', end='end time')
    assert dict(Captions(source, named)) == IN_THE_VIDEO


def test_times_of_a_film_are_those_of_msrvtt_alone(tmp_path):
    import datasets

    whole = {'video7': {'start': [0.0] * 2, 'end': [11.5] * 2, 'text': ['a car', 'a race']}}
    of_the_film = {'video7': {'start': [137.5] * 2, 'end': [149.0] * 2, 'text': ['a car', 'a race']}}
    put(tmp_path / 'c.json', [CLIP])
    datasets.Dataset.from_list([CLIP]).save_to_disk(str(tmp_path / 'd'))
    for source in (tmp_path / 'c.json', tmp_path / 'd'):
        assert dict(Captions(source)) == whole
        assert dict(Captions(source, Reading(start='start time', end='end time'))) == of_the_film
    put(tmp_path / 'own.json', [CLIP | {'video_id': 'dashcam'}])
    assert dict(Captions(tmp_path / 'own.json')) == {'dashcam': of_the_film['video7']}
    put(tmp_path / 'm.json', MSRVTT)
    as_named = dict(Captions(tmp_path / 'm.json', Reading(start='start time', end='end time')))
    assert as_named['video1'] == {'start': [5], 'end': [15], 'text': ['a man sings']}
    odd = MSRVTT | {'videos': [{'video_id': 'video0', 'start time': 9, 'end time': 'x'}]}
    sieve = Sieve(put(tmp_path / 'o.json', odd))
    assert dict(sieve)['video0'] == [] and sieve.source.faults['times that are no numbers'] == 2


# -- packed files --


def packed_as(ending, data):
    pack = {'.gz': gzip.compress, '.bz2': bz2.compress, '.xz': lzma.compress, '.zst': zstandard.compress}
    return pack[ending](data)


@pytest.mark.parametrize('ending', ['.gz', '.bz2', '.xz', '.zst'])
def test_a_packed_file_is_read_to_its_end_or_refused(tmp_path, ending):
    "Cut anywhere, or empty: never taken for whole, be it captions, text, JSON or names of pictures."
    words = [f'{i} line\n' for i in np.random.default_rng(0).integers(0, 1 << 60, 5000)]
    text = ''.join(words)
    file = tmp_path / f'a.txt{ending}'
    whole = packed_as(ending, text[:90].encode()) + packed_as(ending, text[90:].encode())
    file.write_bytes(whole)
    assert [*text_pieces(file, Corpus(), LeftOut())] == words
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=f'a.txt{ending} cannot be read'):
            list(text_pieces(file, Corpus(errors='skip'), LeftOut()))

    table = ''.join(f'a,{k},{k + 1},word {k}\n' for k in range(3000))
    packed = packed_as(ending, f'video_id,start,end,text\n{table}'.encode())
    json_ = packed_as(ending, json.dumps([{'text': w} for w in words]).encode())
    cues = ''.join(f'00:{k // 60:02}:{k % 60:02}.000 --> 00:59:59.000\nword {k}\n\n' for k in range(2000))
    vtt = packed_as(ending, f'WEBVTT\n\n{cues}'.encode())
    for share in (0, 0.5, 0.99):
        for name, data in (('c.csv', packed), ('c.vtt', vtt)):
            cut = put_bytes(tmp_path / f'{name}{ending}', data[: int(share * len(data))])
            with pytest.raises(UserError, match=f'{name}{ending} cannot be read'):
                list(Captions(cut))
        cut = put_bytes(tmp_path / f'l.json{ending}', json_[: int(share * len(json_))])
        with pytest.raises(UserError, match=f'l.json{ending} cannot be read'):
            list(text_pieces(cut, Corpus(), LeftOut()))
    (tmp_path / 'pictures').mkdir()
    names = packed_as(ending, b'file_name,text\na.png,ball\n')
    for size in (0, len(names) - 1):
        put_bytes(tmp_path / 'pictures' / f'metadata.csv{ending}', names[:size])
        with pytest.raises(UserError, match=f'metadata.csv{ending} cannot be read'):
            PictureFolder(tmp_path / 'pictures')


def put_bytes(path, data):
    path.write_bytes(data)
    return path


def test_zstd_of_any_make(tmp_path):
    "Several frames, frames to be skipped (of pzstd), frames without a length, an empty one."
    skipped = b'\x50\x2a\x4d\x18' + (5).to_bytes(4, 'little') + b'any 5'
    streamed = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compressobj()
    parts = [
        streamed.compress(b'one\n' * 200000) + streamed.flush(),
        skipped,
        zstandard.compress(b''),
        skipped,
    ]
    put_bytes(tmp_path / 'a.txt.zst', b''.join(parts) + zstandard.compress(b'two\n'))
    found = list(text_pieces(tmp_path / 'a.txt.zst', Corpus(), LeftOut()))
    assert found == ['one\n'] * 200000 + ['two\n']
    put_bytes(tmp_path / 'a.txt.zst', zstandard.compress(b''))
    assert list(text_pieces(tmp_path / 'a.txt.zst', Corpus(), LeftOut())) == []


# -- records that differ --


@pytest.mark.parametrize('kind', ['jsonl', 'json'])
def test_each_record_is_read_by_its_own_columns(tmp_path, kind):
    def file(records):
        return put(tmp_path / f'r.{kind}', records if kind == 'json' else lines(records))

    records = [
        {'video_id': 'a', 'start': 1.0, 'end': 2.0, 'text': 'cut'},
        {'video_id': 'a', 'start': 2.0, 'duration': 1.5, 'caption': 'stir', 'speaker': 'x'},
        {'video_id': 'a', 'timestamp': [4.0, 5.0], 'text': 'mix'},
        {'video': 'b.mp4', 'start': 6.0, 'end': 7.0, 'text': 'serve'},
        {'video_id': 'a', 'text': 'when?'},
        {'start': 8.0, 'end': 9.0, 'text': 'whose?'},
        {'video_id': 'a', 'start': 8.0, 'end': 9.0},
    ]
    sieve = Sieve(file(records))
    assert dict(sieve) == {
        'a': [(1.0, 2.0, 'cut'), (2.0, 3.5, 'stir'), (4.0, 5.0, 'mix')],
        'b': [(6.0, 7.0, 'serve')],
    }
    assert dict(sieve.source.faults) == {'times that are no numbers': 1, 'no video id': 1, 'empty text': 1}
    sieve = Sieve(file([{'video_id': 'a', 'split': 'train'}, *records[:1]]))
    assert dict(sieve) == {'a': [(1.0, 2.0, 'cut')]} and sieve.source.faults == {'empty text': 1}

    odd = [{'id': 'a', 'von': 1, 'bis': 2, 'text': 'cut'}, {'id': 'a', 'text': 'cut', 'start': 3, 'end': 4}]
    sieve = Sieve(Captions(file(odd[::-1]), Reading(start='von', end='bis')))
    assert dict(sieve) == {'a': [(1.0, 2.0, 'cut')]}
    assert sieve.source.faults == {'times that are no numbers': 1}


def test_columns_that_look_like_times_are_said(tmp_path):
    "A table whose times have other names holds captions of whole videos; that is not done in silence."
    import datasets

    put(tmp_path / 'c.csv', 'video_id,from_sec,to_sec,customer,text\na,1,2,z,cut\n')
    put(tmp_path / 'c.jsonl', lines([{'id': 'a', 'text': 'cut'}, {'id': 'a', 'text': 'x', 'startTime': 1}]))
    datasets.Dataset.from_list([{'id': 'a', 't0': 1.0, 'text': 'cut'}]).save_to_disk(str(tmp_path / 'd'))
    for name, columns in (('c.csv', 'from_sec, to_sec'), ('c.jsonl', 'startTime'), ('d', 't0')):
        sieve = Sieve(tmp_path / name)
        assert [caption[:2] for caption in dict(sieve)['a']][0] == (0.0, 'end')
        assert f'; columns that look like times and are not read: {columns} (--start' in sieve.said()
    named = Sieve(Captions(tmp_path / 'c.csv', Reading(start='from_sec', end='to_sec')))
    assert dict(named) == {'a': [(1.0, 2.0, 'cut')]} and 'look like' not in named.said()
    put(tmp_path / 'c.csv', 'video_id,start,end,upload_time,text\na,1,2,2020,cut\n')
    sieve = Sieve(tmp_path / 'c.csv')
    assert list(sieve) and 'look like' not in sieve.said()


# -- quotation marks --

HEAD = 'video_id,start,end,text'


@pytest.mark.parametrize(
    'table,line',
    [
        (f'{HEAD}\na,1,2,cut\na,2,3,"Stop he said\na,3,4,stir\na,4,5,mix\n', 3),  # never closed
        (f'{HEAD}\na,1,2,cut\na,2,3,"Stop he said\na,3,4,stir\na,4,5,"Go" he said\n', 3),
        (f'{HEAD}\na,1,2,"Stop" he said\na,2,3,stir\n', 2),  # text behind the closing mark
        (f'{HEAD}\na,1,2,cut\na,2,3,"Stop he said\na,3,4,stir\na,4,5,Go"\n', 3),  # closed by another row's
        (f'{HEAD}\na,0:01,0:02,"Stop\na,0:02,0:03,Go"\n', 2),
        ('text,video_id,start,end\n"Stop,a,1,2\nstir,a,2,3\nGo",a,3,4\n', 2),
        ('text;video_id;start;end\ncut;a;1,0;2,5\n"Stop;a;1;2\nGo";a;3;4\n', 3),
    ],
)
def test_a_stray_quotation_mark_swallows_no_row(tmp_path, table, line):
    put(tmp_path / 't.csv', table)
    with pytest.raises(UserError, match=f't.csv: line {line}: .*quotation mark'):
        list(Captions(tmp_path / 't.csv'))


def test_quoted_fields_are_read(tmp_path):
    "As Excel and pandas write them: line breaks, commas and doubled marks inside; a mark within a word is a mark."
    texts = [
        'two\nlines',
        'eggs, milk, flour, and\nsugar, salt, oil, rice',
        'he said "go"',
        '"',
        '5" nails',
        '',
    ]
    videos = ['a'] * len(texts)
    frame = pd.DataFrame(dict(video_id=videos, start=[1.0] * 6, end=[2.0] * 6, text=texts))
    for name, mark in (('t.csv', ','), ('s.csv', ';'), ('t.tsv', '\t')):
        frame.to_csv(tmp_path / name, sep=mark, index=False)
        assert dict(Captions(tmp_path / name))['a']['text'] == texts
    put(tmp_path / 'p.csv', f'{HEAD}\na,1,2,5" nails\n')
    assert dict(Captions(tmp_path / 'p.csv'))['a']['text'] == ['5" nails']


def test_a_quotation_mark_between_tabs_is_text(tmp_path):
    rows = [
        ('1', '"Stop he said'),
        ('2', 'stir'),
        ('3', '"Go" he said'),
        ('4', 'mix"'),
        ('5', '"whole"'),
        ('6', '"x'),
    ]
    want = ['"Stop he said', 'stir', '"Go" he said', 'mix"', 'whole', '"x']
    table = ''.join(f'a\t{t}\t9\t{text}\n' for t, text in rows)
    put(tmp_path / 't.tsv', f'video_id\tstart\tend\ttext\n{table}')
    put(tmp_path / 'tabs.csv', f'video_id\tstart\tend\ttext\n{table}')
    for name in ('t.tsv', 'tabs.csv'):
        sieve = Sieve(tmp_path / name)
        assert [text for _, _, text in dict(sieve)['a']] == want and not sieve.source.faults
    put(
        tmp_path / 't.tsv',
        'video_id\tstart\tend\ttext\na\t1\t2\nb\t1\t2\t"two\nlines"\na\t1\t2\t"open\nline\n',
    )
    sieve = Sieve(tmp_path / 't.tsv')
    assert dict(sieve) == {'b': [(1.0, 2.0, 'two lines')], 'a': [(1.0, 2.0, '"open')]}
    assert sieve.source.faults == {'a row that does not fit its header': 2}


def test_a_stray_quotation_mark_in_a_table_of_names(tmp_path):
    for k in range(3):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{k}.png')
    put(tmp_path / 'metadata.csv', 'file_name,text\n0.png,"ball\n1.png,cup\n2.png,car\n')
    with pytest.raises(UserError, match='metadata.csv: line 2: .*quotation mark'):
        PictureFolder(tmp_path)


# -- times --


@pytest.mark.parametrize(
    'time,seconds',
    [
        ('-0:05', -5.0),
        ('-1:02:03.5', -3723.5),
        ('90:15', 5415.0),
        ('1:02:03', 3723.0),
        ('1e1', 10.0),
        ('.5', 0.5),
        ('PT1.5S', 1.5),
        *(
            (x, x)
            for x in ('00:00:05:12', '00:00:05;12', '1:75', '75:75:01', '1:-5', '1.5:30', '1:1e1', '1_0')
        ),
        *((x, x) for x in ('1:', ':5', '1::5', '--5', 'PT1.2.3S', 'PT', 'P1DT', '1,234.5', '0:0:0:0')),
    ],
)
def test_a_time_is_read_rightly_or_not_at_all(time, seconds):
    assert time_in_seconds(time) == seconds


def test_times_that_count_frames_are_named(tmp_path):
    put(
        tmp_path / 'c.csv', f'{HEAD}\na,00:00:05:12,00:00:06:00,cut\na,-0:05,0:05,stir\na,1,00:00:06;10,mix\n'
    )
    sieve = Sieve(tmp_path / 'c.csv')
    assert dict(sieve) == {'a': []}
    frames = 'times that count frames (hh:mm:ss:ff), of which nobody says how many make a second'
    assert dict(sieve.source.faults) == {frames: 2, 'starts before the video': 1}
    assert frames in sieve.said()


@pytest.mark.parametrize('ending', sorted(VIDEO_ENDINGS))
def test_every_ending_of_a_video_is_none_of_its_id(tmp_path, ending):
    put(tmp_path / 'c.csv', f'video_id,text\nfilms/a{ending},x\nb{ending.upper()},y\n')
    assert set(dict(Captions(tmp_path / 'c.csv'))) == {'a', 'b'}


# -- names of files, and Whisper's tables --


def test_a_whisper_table_is_in_milliseconds(tmp_path):
    "Times worked out by hand: 1500 is a second and a half."
    want = {'talk': {'start': [0.0, 1.5, 61.25], 'end': [1.5, 61.25, 62.0], 'text': ['so', '"Stop', 'go']}}
    table = 'start\tend\ttext\n0\t1500\tso\n1500\t61250\t"Stop\n61250\t62000\tgo\n'
    captions = Captions(put(tmp_path / 'talk.tsv', table))
    assert dict(captions) == want and list(captions.layouts) == ['Whisper table, in milliseconds']
    assert dict(Captions(put(tmp_path / 'talk.mp4.tsv', table))) == want
    sieve = Sieve(put(tmp_path / 'odd.tsv', 'start\tend\ttext\n0\t1500\tso\n\t2000\tno\n3000\t4000\ngo\n'))
    assert dict(sieve) == {'odd': [(0.0, 1.5, 'so')]} and sum(sieve.source.faults.values()) == 3
    for seconds in ('0.0\t1.5\tso', '0\t0:05\tso', '0\t2,5\tso'):
        ((_, entry),) = Captions(put(tmp_path / 's.tsv', f'start\tend\ttext\n{seconds}\n7\t8\tx\n'))
        assert entry['end'] == [{'1.5': 1.5, '0:05': 5.0, '2,5': 2.5}[seconds.split('\t')[1]], 8.0]
    named = Reading(start='start', end='end')
    assert dict(Captions(tmp_path / 'talk.tsv', named))['talk']['end'] == [1500.0, 61250.0, 62000.0]


@pytest.mark.parametrize('ending', ['mp4', 'AVI', 'mov', 'mkv', 'webm', 'ts', 'vob', 'm2ts'])
def test_a_caption_file_that_has_the_name_of_its_video(tmp_path, ending):
    cue = 'WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n'
    (tmp_path / 's').mkdir()
    put(tmp_path / 's' / f'plain.{ending}.vtt', cue)
    put(tmp_path / 's' / f'told.{ending}.en.vtt.gz', cue)
    put(tmp_path / 's' / 'v1.2.vtt', cue)
    sieve = Sieve(tmp_path / 's')
    assert [video for video, _ in sieve] == ['plain', 'told', 'v1.2']
    assert 'languages in names: en (1)' in sieve.said()
    assert set(dict(Captions(tmp_path / 's', Reading(language='none')))) == {
        'plain',
        'told.mp4.en'.replace('mp4', ending),
        'v1.2',
    }


def test_folders_of_captions_follow_links(tmp_path):
    cue = 'WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n'
    (tmp_path / 'disk' / 'deep').mkdir(parents=True)
    put(tmp_path / 'disk' / 'deep' / 'far.vtt', cue)
    (tmp_path / 's' / '.hidden').mkdir(parents=True)
    put(tmp_path / 's' / 'near.vtt', cue)
    put(tmp_path / 's' / '.hidden' / 'x.vtt', cue)
    (tmp_path / 's' / 'more').symlink_to(tmp_path / 'disk')
    (tmp_path / 's' / 'again').symlink_to(tmp_path / 's')
    (tmp_path / 's' / 'gone.vtt').symlink_to(tmp_path / 'nowhere.vtt')
    sieve = Sieve(tmp_path / 's')
    assert [video for video, _ in sieve] == ['far', 'near']
    assert dict(sieve.source.faults) == {'a link that leads nowhere, or a folder that may not be read': 1}
    assert 'gone.vtt' in sieve.said()
