"""Captions as people really have them: times, endings, quotation marks and packed files that were once read wrongly, in silence."""

import pytest
from test_captions import MSRVTT, lines, put

from vidlankd_nb.layouts import Captions, Sieve
from vidlankd_nb.tables import Reading

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
