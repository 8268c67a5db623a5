"Other people's files: which are videos, in which version, and what their rows show. Files are made here with PyAV, and read by PyAV or FFmpeg alone for comparison."

import io
import json
import os
import shutil
import struct
import subprocess
import unicodedata
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from support.pictures import picture

from vidlankd_nb import extraction as E
from vidlankd_nb import features as F
from vidlankd_nb import pairs as P
from vidlankd_nb import store as S
from vidlankd_nb import video as V
from vidlankd_nb.config import Features, Pairs
from vidlankd_nb.files import UserError, files_under
from vidlankd_nb.frames import FrameClock
from vidlankd_nb.recipes import contents
from vidlankd_nb.texts import text_files


def write(
    path,
    frames,
    times=None,
    codec='libx264',
    fmt='yuv420p',
    rate=10,
    base=Fraction(1, 1000),
    container=None,
    sound=0,
    sar=None,
    matrix=None,
    **options,
):
    "Frames at times (s; None: at `rate`), beside `sound` seconds of silence."
    if codec not in av.codecs_available:
        pytest.skip(f'this build of FFmpeg has no {codec}')
    with av.open(str(path), 'w', options=container or {}) as out:
        s = out.add_stream(codec, rate=rate, options=options)
        s.height, s.width, s.pix_fmt = *frames[0].shape[:2], fmt
        s.codec_context.thread_count = 1
        if times is not None:
            s.codec_context.time_base = s.time_base = base
        if sar:
            s.codec_context.sample_aspect_ratio = sar
        if matrix:
            s.set_display_matrix(matrix)
        a = out.add_stream('libopus' if str(path).endswith('webm') else 'aac', rate=48000) if sound else None
        todo = []
        for k, f in enumerate(frames):
            v = av.VideoFrame.from_ndarray(f, 'rgb24')
            if times is not None:
                v.pts, v.time_base = round(times[k] / base), base
            todo.append((times[k] if times is not None else k / rate, s, v))
        for k in range(int(sound * 50)):
            x = av.AudioFrame.from_ndarray(
                np.zeros((1, 960), np.float32 if a.codec_context.name == 'aac' else np.int16),
                'fltp' if a.codec_context.name == 'aac' else 's16',
                'mono',
            )
            x.sample_rate, x.pts, x.time_base = 48000, 960 * k, Fraction(1, 48000)
            todo.append((k / 50, a, x))
        for _, stream, frame in sorted(todo, key=lambda x: x[0]):
            out.mux(stream.encode(frame))
        for stream in (s, a):
            if stream:
                out.mux(stream.encode())
    return path


def numbers(frames):
    "Which pictures these are, from their grey level."
    return [round((float(f[f.shape[0] // 2 :, f.shape[1] // 2 :].mean()) - 40) / 8) for f in frames]


def film(path, n=10, **more):
    if more.get('codec') in ('mpeg4', 'mpeg1video', 'mpeg2video', 'flv', 'wmv2'):
        more = {'b': '8000000', 'qmin': '1', 'qmax': '2', **more}  # or grey levels run together
    return write(path, [picture(k) for k in range(n)], **more)


def ffmpeg(path, *filters):
    "The first picture by the FFmpeg program, or None where there is no such program."
    if not shutil.which('ffmpeg'):
        return None
    out = path.with_suffix('.ppm')
    subprocess.run(
        [
            'ffmpeg',
            '-v',
            'error',
            '-y',
            '-i',
            str(path),
            *(['-vf', ','.join(filters)] if filters else []),
            '-frames:v',
            '1',
            str(out),
        ],
        check=True,
    )
    with av.open(str(out)) as c:
        return next(c.decode(video=0)).to_ndarray(format='rgb24')


def report(folder, **more):
    return E.extract_folder(folder, folder.parent / 'out', progress=False, **more)


def reasons(r):
    return {x['file']: x['reason'] for x in r['skipped']}


# -- which files are videos --


def test_text_playlists_and_pictures_are_no_videos(tmp_path):
    d = tmp_path / 'v'
    d.mkdir()
    film(d / 'a.mp4')
    for name, text in {
        'b.txt': 'a line\n' * 99,
        'c.nfo': '<movie/>\n',
        'd.m3u8': f'#EXTM3U\n#EXTINF:1,\n{d}/a.mp4\n#EXT-X-ENDLIST\n',
        'e.ffconcat': 'ffconcat version 1.0\nfile a.mp4\n',
        'f.ans': '\x1b[31mred\n',
        'g.mpd': '<?xml version="1.0"?><MPD/>',
        'h.sdp': 'v=0\nm=video 5004 RTP/AVP 96\n',
        'i': 'no ending\n',
        'j.mp4': '<html>404</html>',
    }.items():
        (d / name).write_text(text, encoding='utf-8')
    for name, codec, fmt in (
        ('k.jpg', 'mjpeg', 'yuvj420p'),
        ('l.png', 'png', 'rgb24'),
        ('m.bmp', 'bmp', 'bgr24'),
        ('n.tiff', 'tiff', 'rgb24'),
        ('o.webp', 'libwebp', 'yuv420p'),
        ('p.gif', 'gif', 'rgb8'),
        ('r.mjpeg', 'mjpeg', 'yuvj420p'),
    ):
        film(d / name, 1, codec=codec, fmt=fmt)
    (d / 'q.wav').write_bytes(b'RIFF\0\0\0\0WAVEfmt ')
    assert (
        av.open(str(d / 'k.jpg')).streams.video and av.open(str(d / 'c.nfo')).streams.video
    )  # FFmpeg itself takes them
    r = report(d)
    said = {
        f: 'is a picture' if 'picture' in x else 'text' if 'text' in x else 'sound' if 'sound' in x else x
        for f, x in reasons(r).items()
    }
    assert r['done'] == ['a.mp4'] and said == dict.fromkeys(
        ['b.txt', 'c.nfo', 'd.m3u8', 'e.ffconcat', 'f.ans', 'g.mpd', 'h.sdp', 'i', 'j.mp4'], 'text'
    ) | dict.fromkeys(['k.jpg', 'l.png', 'm.bmp', 'n.tiff', 'o.webp', 'p.gif', 'r.mjpeg'], 'is a picture') | {
        'q.wav': 'sound'
    }
    with pytest.raises(V.NoVideo, match='b.txt: cannot be opened as a video .it is text.'):
        V.decode(d / 'b.txt')


@pytest.mark.parametrize(
    'name,codec,fmt',
    [
        ('a.gif', 'gif', 'rgb8'),
        ('a.flv', 'flv', 'yuv420p'),
        ('a.mov', 'libx264', 'yuv420p'),
        ('a.mpg', 'mpeg2video', 'yuv420p'),
        ('a.ts', 'libx264', 'yuv420p'),
        ('a.ogv', 'libtheora', 'yuv420p'),
        ('a.wmv', 'wmv2', 'yuv420p'),
        ('a.3gp', 'mpeg4', 'yuv420p'),
        ('a.y4m', 'rawvideo', 'yuv420p'),
        ('a.mxf', 'mpeg2video', 'yuv420p'),
        ('a.vob', 'mpeg2video', 'yuv420p'),
        ('a.ivf', 'libvpx', 'yuv420p'),
        ('a.apng', 'apng', 'rgb24'),
        ('a.mjpeg', 'mjpeg', 'yuvj420p'),
        ('noending', None, None),
    ],
)
def test_containers_that_carry_video_are_read(tmp_path, name, codec, fmt):
    try:
        p = film(
            tmp_path / (name if codec else 'x.mp4'), rate=25, fmt=fmt or 'yuv420p', codec=codec or 'libx264'
        )
    except ValueError as e:
        pytest.skip(str(e))
    if not codec:
        p = p.rename(tmp_path / name)
    clip = V.decode(p)
    got = numbers(clip.frames)
    assert (
        np.allclose(clip.times, np.arange(10) / 25, atol=0.011) and clip.note is None
    )  # a GIF counts hundredths
    assert (
        got == list(range(10)) or codec == 'gif' and np.allclose(got, range(10), atol=4)
    )  # a GIF here has eight greys


def test_jpegs_one_behind_the_other_are_what_their_name_says(tmp_path):
    "The first of them alone, of a camera's size, looks like a picture; a telephone's picture may have another behind it."
    noise = np.random.default_rng(0).integers(0, 256, (3, 240, 320, 3), dtype=np.uint8)
    raw = b''
    for values in noise:
        packed = io.BytesIO()
        Image.fromarray(values).save(packed, 'JPEG', quality=95)
        raw += packed.getvalue()
    for name in ('a.mjpeg', 'b.MJPG', 'c.jpg'):
        (tmp_path / name).write_bytes(raw)
    for name in ('a.mjpeg', 'b.MJPG'):
        clip = V.decode(tmp_path / name)
        assert clip.frames.shape == (3, 240, 320, 3) and np.allclose(clip.times, np.arange(3) / 25)
    with pytest.raises(V.NoVideo, match='it is a picture'):
        V.decode(tmp_path / 'c.jpg')
    (tmp_path / 'd.mjpeg').write_bytes(b'nothing of the kind')
    with pytest.raises(V.NoVideo, match='is text'):
        V.decode(tmp_path / 'd.mjpeg')


def test_hidden_files_and_unfinished_downloads_are_listed_and_not_read(tmp_path):
    d = tmp_path / 'v'
    (d / '.trash').mkdir(parents=True)
    film(d / 'a.mp4')
    for name in (
        '._a.mp4',
        '.b.mp4',
        '.trash/c.mp4',
        'd.mp4.part',
        'e.mkv.crdownload',
        'f.mp4.part-Frag3',
        'g.webm.ytdl',
        'h.tmp',
    ):
        shutil.copy(d / 'a.mp4', d / name)
    r = report(d)
    assert r['done'] == ['a.mp4'] and {f for f, x in reasons(r).items() if x.startswith('hidden')} == {
        '._a.mp4',
        '.b.mp4',
        '.trash/c.mp4',
    }
    assert {f for f, x in reasons(r).items() if x.startswith('an unfinished download')} == {
        'd.mp4.part',
        'e.mkv.crdownload',
        'f.mp4.part-Frag3',
        'g.webm.ytdl',
        'h.tmp',
    }
    (d / 'a.mp4').unlink()
    with pytest.raises(UserError, match=r'No file in .* is read as a video \(.*hidden'):
        report(d)


def test_two_videos_of_one_id_are_an_error_that_names_both(tmp_path):
    d = tmp_path / 'v'
    (d / 'sub').mkdir(parents=True)
    film(d / 'a.mp4')
    film(d / 'sub' / 'a.mkv', 5)
    film(d / 'b.mp4')
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"Two videos have the id 'a'.*: a.mp4 and sub/a.mkv"):
            report(d, cfg=Features(workers=workers))
    assert not (tmp_path / 'out').exists()
    assert report(d, captions={'b': {}})['done'] == ['b.mp4']  # nobody asks for a
    (d / 'a.mp4').write_bytes((d / 'a.mp4').read_bytes()[:500])  # no index: not to be opened
    (d / 'b.jpg').symlink_to(d / 'b.mp4')
    shutil.rmtree(tmp_path / 'out')
    r = report(d)
    assert (
        r['done'] == ['b.mp4', 'sub/a.mkv']
        and reasons(r)['b.jpg'] == 'the same file as b.mp4.'
        and reasons(r)['a.mp4'].startswith('cannot be opened')
    )
    assert V.video_file(d, 'a') == d / 'sub' / 'a.mkv' and V.video_file(d, 'b') == d / 'b.mp4'


def test_captions_of_a_picture_have_no_video(tmp_path):
    d = tmp_path / 'v'
    d.mkdir()
    film(d / 'a.mp4')
    film(d / 'b.jpg', 1, codec='mjpeg', fmt='yuvj420p')
    r = report(d, captions={'a': {}, 'b': {}, 'c': {}})
    assert r['done'] == ['a.mp4'] and r['no_video'] == ['b', 'c'] and 'picture' in reasons(r)['b.jpg']


# -- which version of them --


def rows_of(folder):
    return {i: len(r) for s in [S.FeatureStore(folder.parent / 'out')] for i in s.ids for r in [s[i]]}


def test_a_file_that_was_replaced_is_read_again_and_that_is_said(tmp_path, capsys):
    d = tmp_path / 'v'
    d.mkdir()
    for k, name in enumerate('abc'):
        film(d / f'{name}.mp4', 10 + k)
    report(d)
    os.utime(d / 'b.mp4', ns=(0, 10**18))  # another time
    film(d / 'c.mp4', 7)  # another film
    film(d / 'd.mp4', 5)
    r = E.extract_folder(d, tmp_path / 'out')
    assert (
        r['replaced'] == ['b.mp4', 'c.mp4']
        and r['frames'] == 11 + 7 + 5
        and rows_of(d) == dict(a=10, b=11, c=7, d=5)
    )
    assert (
        '2 files have changed since the features were made, and will be read again: b.mp4, c.mp4'
        in capsys.readouterr().out
    )
    assert r['done'] == ['a.mp4', 'b.mp4', 'c.mp4', 'd.mp4'] and len(S.stored_files(tmp_path / 'out')) == 4
    (d / 'c.mp4').write_text('gone wrong\n', encoding='utf-8')
    r = report(d)
    assert (
        r['done'] == ['a.mp4', 'b.mp4', 'd.mp4']
        and r['replaced'] == ['c.mp4']
        and 'text' in reasons(r)['c.mp4']
        and 'c' not in S.FeatureStore(tmp_path / 'out')
    )
    assert report(d)['replaced'] == [] and report(d)['frames'] == 0


def test_a_moved_file_is_the_same_file(tmp_path):
    d = tmp_path / 'v'
    (d / 'sub').mkdir(parents=True)
    film(d / 'a.mp4')
    report(d)
    (d / 'a.mp4').rename(d / 'sub' / 'a.mp4')
    r = report(d)
    assert r['frames'] == 0 and r['done'] == ['sub/a.mp4'] and rows_of(d) == dict(a=10)


def test_a_store_of_old_is_kept_and_what_was_no_video_leaves_it(tmp_path, monkeypatch):
    "Stores had no size and time, and took a text for a video."
    d, out = tmp_path / 'v', tmp_path / 'out'
    d.mkdir()
    film(d / 'a.mp4')
    film(d / 'b.mp4')
    (d / 'notes.txt').write_text('a line\n', encoding='utf-8')
    film(d / '.c.mp4')
    with monkeypatch.context() as m:
        import pyarrow as pa

        m.setattr(S, 'SCHEMA', pa.schema([f for f in S.SCHEMA if f.name not in ('size', 'modified')]))
        real = S._write_shard
        m.setattr(S, '_write_shard', lambda path, rows: real(path, [(*r[:6], r[-1]) for r in rows]))
        w = S.StoreWriter(out, E.store_settings(Features(), F.Pixels()))
        for name in ('a.mp4', 'notes.txt', '.c.mp4'):
            w.add(name.rsplit('.', 1)[0], name, np.ones((3, 384)), 1.0)
        w.flush()
    assert 'size' not in S.MappedTable(S.shards(out)[0]).table.column_names
    r = report(d)
    assert (
        r['done'] == ['a.mp4', 'b.mp4']
        and r['frames'] == 10
        and rows_of(d) == dict(a=3, b=10)
        and set(reasons(r)) == {'notes.txt', '.c.mp4'}
    )


# -- names and folders --


def test_a_name_that_is_not_utf8_is_listed_and_its_neighbours_are_read(tmp_path):
    d = tmp_path / 'v'
    d.mkdir()
    film(d / 'a.mp4')
    bad = os.fsdecode(b'caf\xe9')
    try:
        shutil.copy(d / 'a.mp4', d / f'{bad}.mp4')
    except OSError:
        pytest.skip('this file system holds UTF-8 names alone')
    shutil.copy(d / 'a.mp4', d / f'b.{bad}')
    (d / bad).mkdir()
    shutil.copy(d / 'a.mp4', d / bad / 'c.mp4')
    (d / bad / 'd.mp4').touch()
    for workers in (0, 1):
        r = E.extract_folder(d, tmp_path / f'out{workers}', Features(workers=workers), progress=False)
        assert r['done'] == ['a.mp4', r'caf\xe9/c.mp4'] and {f: x[:12] for f, x in reasons(r).items()} == {
            r'caf\xe9.mp4': 'its name, wh',
            r'b.caf\xe9': 'its name, wh',
            r'caf\xe9/d.mp4': 'the file is ',
        }
        assert json.loads(
            (tmp_path / f'out{workers}' / 'report.json').read_text(encoding='utf-8')
        ) == r and S.FeatureStore(tmp_path / f'out{workers}').ids == ['a', 'c']
    assert (
        E.extract_folder(d, tmp_path / 'out0', progress=False)['frames'] == 0
        and S.FeatureStore(tmp_path / 'out0')._find('\udce9') is None
    )
    assert contents(d) == contents(d)


def test_names_meet_however_their_letters_are_composed(tmp_path):
    apart, one = (unicodedata.normalize(form, 'crème') for form in ('NFD', 'NFC'))
    d = tmp_path / 'v'
    d.mkdir()
    film(d / f'{apart}.mp4', 20)
    captions = {one: {'start': [0.0, 0.5], 'end': [0.5, 1.0], 'text': ['this', 'that']}}
    r = report(d, captions=captions)
    assert (
        r['done'] == [f'{apart}.mp4']
        and r['no_video'] == []
        and V.video_file(d, one) == V.video_file(d, apart) == d / f'{apart}.mp4'
    )
    store = S.FeatureStore(tmp_path / 'out')
    assert store.ids == [one] and one in store and apart in store and S.id_hash(apart) == S.id_hash(one)
    for spelled in (one, apart):
        assert (
            sum(
                map(
                    len,
                    P.make_pairs(store, {spelled: captions[one]}, Pairs(valid_share=0), tmp_path / 'p')[:2],
                )
            )
            == 2
        )
    for form in ('NFC', 'NFD'):
        (tmp_path / form).mkdir()
        np.save(tmp_path / form / unicodedata.normalize(form, 'crème.mp4.npy'), np.ones((3, 4), np.float32))
        npy = S.NpyFolder(tmp_path / form)
        assert npy.ids == [one] and len(npy[one]) == len(npy[apart]) == 3
    shutil.copy(d / f'{apart}.mp4', d / f'{one}.mp4')
    if len(list(d.iterdir())) == 2:
        with pytest.raises(
            UserError, match="composed differently: 'cre\\\\u0300me.mp4' and 'cr\\\\xe8me.mp4'"
        ):
            report(d)


def test_linked_folders_are_followed_and_loops_are_cut(tmp_path):
    d, disk = tmp_path / 'v', tmp_path / 'disk'
    d.mkdir()
    disk.mkdir()
    film(d / 'a.mp4')
    film(disk / 'b.mp4')
    (disk / 't.txt').write_text('words\n', encoding='utf-8')
    (d / 'shard').symlink_to(disk)
    (disk / 'up').symlink_to(d)
    (d / 'again').symlink_to(disk)
    (d / 'self').symlink_to(d)
    (tmp_path / 'only').mkdir()
    (tmp_path / 'only' / 'shard').symlink_to(disk)
    r = report(d)
    assert (
        r['done'] == ['a.mp4', 'again/b.mp4']
        and set(reasons(r)) == {'again/t.txt'}
        and report(tmp_path / 'only')['done'] != []
    )
    assert (
        sorted(f.name for f in text_files([tmp_path / 'only'])) == ['a.mp4', 'b.mp4', 't.txt']
        and V.video_file(tmp_path / 'only', 'b').name == 'b.mp4'
    )
    before = contents(d)
    (disk / 't.txt').write_text('other words\n', encoding='utf-8')
    assert contents(d) != before  # a stage's key sees what lies behind a link
    assert files_under(d, leave=[disk]) == [d / 'a.mp4']


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    d = tmp_path / 'v'
    (d / 'lost+found').mkdir(parents=True)
    film(d / 'a.mp4')
    real = type(d).iterdir

    def iterdir(self):
        if self.name == 'lost+found':
            raise PermissionError(13, 'Permission denied')
        return real(self)

    monkeypatch.setattr(type(d), 'iterdir', iterdir)
    r = report(d)
    assert r['done'] == ['a.mp4'] and reasons(r) == {'lost+found': 'a folder that cannot be read.'}


@pytest.mark.parametrize(
    'name', ['x_features.npy', 'x.webm.npy', 'x.mp4.npy', 'x.npy', 'x-feat.npy', 'x.MKV.npy']
)
def test_feature_files_of_other_tools_are_found(tmp_path, name):
    np.save(tmp_path / name, np.ones((3, 4), np.float32))
    folder = S.NpyFolder(tmp_path)
    assert folder.ids == ['x'] and folder['x'].values.shape == (3, 4)
    with pytest.raises(KeyError):
        folder['y']
    caption = {'start': [0.0], 'end': [2.0], 'text': ['this']}
    with pytest.raises(UserError, match="by video id such as 'y' .the features' ids are such as 'x'."):
        P.make_pairs(folder, {'y': caption}, Pairs(valid_share=0), tmp_path / 'p')
    if name != 'x.npy':
        np.save(tmp_path / 'x.npy', np.ones((3, 4), np.float32))
        with pytest.raises(UserError, match='two feature files, x.npy and '):
            S.NpyFolder(tmp_path)['x']


# -- what a row shows --


def bare(path):
    "(best video stream's index, its frames as PyAV decodes them)"
    with av.open(str(path)) as c:
        s = c.streams.best('video')
        return s.index, [f.to_ndarray(format='rgb24') for f in c.decode(s)]


def test_half_a_webm_with_sound_is_cut_off_and_a_whole_one_is_not(tmp_path):
    make = dict(
        codec='libvpx', rate=10, times=np.arange(60) / 10, **{'lag-in-frames': '0', 'deadline': 'realtime'}
    )
    for name, sound in (('even.webm', 6), ('long.webm', 15)):
        p = write(tmp_path / name, [picture(k) for k in range(60)], sound=sound, **make)
        data = p.read_bytes()
        data = data.replace(
            b'DURATION', b'DURAXXXX'
        )  # as browsers write it: a length for all, none for the pictures
        p.write_bytes(data)
        with av.open(str(p)) as c:
            assert (
                c.duration / 1e6 == pytest.approx(sound, abs=0.1)
                and c.streams.video[0].duration is None
                and 'DURATION' not in c.streams.video[0].metadata
            )
        assert V.decode(p).note is None
        p.write_bytes(data[: len(data) // 2])
        _, frames = bare(p)
        c = V.decode(p)
        assert len(c) == len(frames) < 60 and f'of {sound:.2f} s' in c.note.replace('.01 s', '.00 s')


@pytest.mark.parametrize(
    'codec,options,name',
    [
        ('libx264', {'bf': '3', 'b-adapt': '0'}, 'a.avi'),
        ('libx264', {'bf': '2'}, 'a.avi'),
        ('libx264', {'bf': '0'}, 'a.avi'),
        ('mpeg4', {'bf': '2'}, 'a.avi'),
        ('mpeg4', {}, 'a.avi'),
        ('libx264', {'bf': '3', 'b-adapt': '0'}, 'a.wmv'),
    ],
)
def test_pictures_of_avi_are_all_there_and_in_time(tmp_path, codec, options, name):
    p = film(tmp_path / name, 40, codec=codec, **options)
    got = V.decode(p)
    assert (
        numbers(got.frames) == numbers(bare(p)[1]) == [k % 20 for k in range(40)]
        and np.allclose(got.times, np.arange(40) / 10, atol=2e-3)
        and got.note is None
    )
    assert numbers(V.decode(p, fps=2).frames) == [0, 5, 10, 15] * 2 and len(F.extract(p)) == 40


def test_a_film_copied_out_of_avi(tmp_path):
    "MP4 packets whose times of showing are those of decoding."
    film(tmp_path / 'a.avi', 40, codec='mpeg4', bf='2')
    with av.open(str(tmp_path / 'a.avi')) as a, av.open(str(tmp_path / 'b.mp4'), 'w') as b:
        s = b.add_stream_from_template(a.streams.video[0])
        for p in a.demux(video=0):
            if p.dts is not None:
                p.pts, p.stream = p.dts, s
                b.mux(p)
    got = V.decode(tmp_path / 'b.mp4')
    assert (
        numbers(got.frames) == [k % 20 for k in range(40)]
        and np.allclose(got.times, np.arange(40) / 10)
        and got.note is None
    )


@pytest.mark.parametrize(
    'name,codec',
    [
        ('a.mpg', 'mpeg1video'),
        ('a.mpg', 'mpeg2video'),
        ('a.ts', 'mpeg2video'),
        ('a.ts', 'libx264'),
        ('a.flv', 'libx264'),
        ('a.mkv', 'libx264'),
        ('a.mp4', 'mpeg4'),
    ],
)
def test_reordered_pictures_with_times_of_their_own(tmp_path, name, codec):
    p = film(tmp_path / name, 20, codec=codec, rate=25, bf='2')
    clip = V.decode(p)
    assert (
        numbers(clip.frames) == list(range(20))
        and np.allclose(clip.times, np.arange(20) / 25, atol=2e-3)
        and clip.note is None
        and len(F.extract(p)) == 20
    )


def test_an_avif_picture_is_no_video(tmp_path):
    film(tmp_path / 'a.avif', 1, codec='libsvtav1', preset='12', **{'svtav1-params': 'lookahead=0'})
    with pytest.raises(V.NoVideo, match='a.avif: is a picture'):
        V.decode(tmp_path / 'a.avif')


def test_a_raw_stream_is_counted(tmp_path):
    "No packet of a raw stream has a time; its pictures come at the rate it states, 25 a second where it states none."
    for name, codec, options in (('a.h264', 'libx264', {'bf': '2'}), ('a.m2v', 'mpeg2video', {'bf': '2'})):
        p = film(tmp_path / name, 20, codec=codec, rate=25, **options)
        got = V.decode(p)
        assert (
            numbers(got.frames) == numbers(bare(p)[1]) == list(range(20))
            and np.allclose(got.times, np.arange(20) / 25, atol=1e-4)
            and got.note is None
        )


EIGHT = {
    'as it is': ((1, 0, 0, 1), lambda x: x),
    'mirrored': ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    'upside down': ((1, 0, 0, -1), lambda x: x[::-1]),
    'half a turn': ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
    'transposed': ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    'a quarter left': ((0, -1, 1, 0), lambda x: np.rot90(x)),
    'a quarter right': ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    'across': ((0, -1, -1, 0), lambda x: np.rot90(x.swapaxes(0, 1), 2)),
}


@pytest.mark.parametrize('kind', EIGHT)
def test_pictures_are_turned_and_mirrored_as_the_file_says(tmp_path, kind):
    (a, b, c, d), by_hand = EIGHT[kind]
    x = np.zeros((48, 80, 3), np.uint8)
    x[:, :40, 0], x[:24, :, 1], x[:8, :8, 2] = 200, 200, 200
    one = 65536
    p = write(
        tmp_path / 'a.mp4', [x] * 3, matrix=(a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30), qp='0'
    )
    want = by_hand(bare(p)[1][0])
    got = V.decode(p).frames[0]
    assert got.shape == want.shape and np.abs(got.astype(int) - want).max() <= 2
    with_program = ffmpeg(p)
    if with_program is not None:
        assert with_program.shape == got.shape and np.abs(with_program.astype(int) - got).mean() < 3
    small = V.decode(p, size=24).frames[0]
    assert (
        small.shape[:2] == ((40, 24) if a == 0 else (24, 40))
        and np.abs(
            small.astype(int) - want.reshape(small.shape[0], 2, small.shape[1], 2, 3).mean((1, 3))
        ).mean()
        < 4
    )


@pytest.mark.parametrize('sar', [Fraction(32, 27), Fraction(8, 9), Fraction(2), Fraction(1)])
def test_a_circle_stays_a_circle(tmp_path, sar):
    h, w = 96, 144
    y, x = np.mgrid[:h, :w]
    ring = ((x - w / 2) * float(sar)) ** 2 + (y - h / 2) ** 2 < 40**2
    p = write(
        tmp_path / 'a.mp4', [np.where(ring[..., None], 255, 0).astype(np.uint8).repeat(3, 2)] * 3, sar=sar
    )
    with av.open(str(p)) as c:
        assert (c.streams.video[0].sample_aspect_ratio or 1) == sar
    for size in (None, 48):
        white = V.decode(p, size=size).frames[0, ..., 0] > 127
        assert abs(int(white.any(0).sum()) - int(white.any(1).sum())) <= 2 and white.shape == (
            size or 96,
            round(round(w * float(sar)) * (size or 96) / 96),
        )
    program = ffmpeg(p, 'scale=iw*sar:ih', 'setsar=1')
    if program is not None:
        assert abs(program.shape[1] - round(w * float(sar))) <= 1
    turned = write(
        tmp_path / 'b.mp4',
        [np.where(ring[..., None], 255, 0).astype(np.uint8).repeat(3, 2)] * 3,
        sar=sar,
        matrix=(0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30),
    )
    white = V.decode(turned).frames[0, ..., 0] > 127
    assert abs(int(white.any(0).sum()) - int(white.any(1).sum())) <= 2 and white.shape == (
        round(w * float(sar)),
        96,
    )


@pytest.mark.parametrize('name,first', [('a.mkv', 1), ('a.mkv', 9), ('a.mp4', 9), ('a.mov', 1)])
def test_ffmpegs_best_stream_is_read_not_the_first(tmp_path, name, first):
    with av.open(str(tmp_path / name), 'w') as out:
        streams = [
            (out.add_stream('mjpeg' if first == 1 else 'libx264', rate=10), (32, 48), first),
            (out.add_stream('libx264', rate=10), (96, 128), 9),
        ]
        for s, (h, w), _ in streams:
            s.height, s.width, s.pix_fmt = h, w, 'yuvj420p' if s.codec_context.name == 'mjpeg' else 'yuv420p'
        for s, (h, w), n in streams:
            for k in range(n):
                out.mux(s.encode(av.VideoFrame.from_ndarray(picture(k, h, w), 'rgb24')))
            out.mux(s.encode())
    index, frames = bare(tmp_path / name)
    got = V.decode(tmp_path / name)
    assert (
        got.frames.shape == np.stack(frames).shape and got.frames.shape[1:3] == [(32, 48), (96, 128)][index]
    )


def browser(path, milliseconds):
    "A recording as browsers make it: a clock of 1 ms, no length, no rate."
    write(
        path,
        [picture(k) for k in range(len(milliseconds))],
        np.array(milliseconds) / 1000,
        codec='libvpx',
        rate=1000,
        container={'live': '1'},
        **{'lag-in-frames': '0', 'deadline': 'realtime'},
    )
    data = bytearray(path.read_bytes())
    at = data.find(bytes.fromhex('23e38384'))
    data[at : at + 8] = bytes([0xEC, 0x86, 0, 0, 0, 0, 0, 0])  # no default duration
    path.write_bytes(data)
    with av.open(str(path)) as c:
        assert c.streams.video[0].average_rate == 1000
    return path


def test_recordings_with_a_clock_of_milliseconds_have_as_many_rows_as_pictures(tmp_path):
    r = np.random.default_rng(0)
    for gaps in (
        r.integers(50, 90, 60),
        np.tile([33, 33, 34], 30),
        r.choice([16, 17, 33, 500, 1200, 41, 7], 60),
    ):
        p = browser(tmp_path / 'a.webm', np.cumsum(gaps) - gaps[0])
        rows = F.extract(p)
        assert (
            0.9 * len(gaps) <= len(rows) <= 1.1 * len(gaps)
            and rows.rate < 60
            and len(V.decode(p)) == len(bare(p)[1]) == len(gaps)
        )


def test_half_an_avi_is_cut_off_and_a_whole_one_is_not(tmp_path):
    "Its header states pictures and their rate; FFmpeg takes the length of a cut one from the bytes that are left."
    pictures = [picture(k % 20) for k in range(100)]
    p = write(tmp_path / 'a.avi', pictures, np.arange(100) / 25, codec='mpeg4', rate=25)
    whole = p.read_bytes()
    header = whole.index(b'strh') + 8
    scale, rate, _, length = struct.unpack('<4I', whole[header + 20 : header + 36])
    assert length * scale / rate == pytest.approx(4, abs=0.05) and V.decode(p).note is None
    pictures_begin, pictures_end = whole.index(b'movi'), whole.index(b'idx1')
    (tmp_path / 'half.avi').write_bytes(whole[: (pictures_begin + pictures_end) // 2])
    half = V.decode(tmp_path / 'half.avi')
    assert 20 < len(half) < 80 and half.note.startswith('ends at') and 'of 4.0' in half.note


def test_no_picture_of_a_recording_is_lost_to_a_rate_that_is_near(tmp_path):
    "FFmpeg takes 30.3 pictures a second for 29.97, which leaves out three of them."
    gaps = np.random.default_rng(3).choice([32, 33, 34, 35, 31], 300)
    times = (np.cumsum(gaps) - gaps[0]) / 1000
    p = browser(tmp_path / 'a.webm', times * 1000)
    with av.open(str(p)) as c:
        assert float(c.streams.video[0].guessed_rate) == pytest.approx(29.97, abs=0.01)
    rows = F.extract(p)
    assert len(rows) == len(bare(p)[1]) == 300 and rows.rate == pytest.approx(299 / times[-1], abs=1e-5)


@pytest.mark.parametrize('claimed,real', [(50, 25), (20, 10), (25, 25), (30, 30)])
def test_a_rate_that_is_claimed_twice_as_high(tmp_path, claimed, real):
    p = write(tmp_path / 'a.mkv', [picture(k % 20) for k in range(60)], np.arange(60) / real, rate=claimed)
    with av.open(str(p)) as c:
        assert c.streams.video[0].average_rate == claimed
    rows = F.extract(p)
    assert len(rows) == 60 and rows.rate == pytest.approx(real, rel=1e-3)


def test_a_slide_stays_as_long_as_the_file_says(tmp_path):
    times = [0, 10, 20, 920, 930, 940]
    for name, codec in (('a.mkv', 'ffv1'), ('a.mp4', 'libx264')):
        p = write(tmp_path / name, [picture(k) for k in range(6)], times, codec=codec, rate=1)
        with av.open(str(p)) as c:
            assert [round(f.time) for f in c.decode(video=0)] == times
        got = V.decode(p)
        assert np.allclose(got.times, times) and got.note is None
        at = V.decode(p, fps=0.1)
        assert numbers(at.frames[[0, 1, 2, 50, 91, 92, 93, 94]]) == [0, 1, 2, 2, 2, 3, 4, 5] and at.times[
            -1
        ] == pytest.approx(940)
        rows = F.extract(p)
        assert rows.rate == 1 and len(rows) == pytest.approx(
            941, abs=1
        )  # one a second at least, or no caption would find its slide


def test_the_last_slide_does_not_stay_beyond_the_end(tmp_path):
    p = browser(tmp_path / 'a.webm', [0, 40, 80, 5080])
    assert V.decode(p, fps=1).times[-1] <= 10
    clock = FrameClock(step=0.04, shift=0, whole=0)
    assert [clock.read(t) for t in (0, 0.04, 5000)] == [
        0,
        0.04,
        0.08,
    ] and clock.jumps == 1  # no length, no still of an hour


def test_a_codec_without_a_decoder_is_a_sentence(tmp_path):
    "Dolby Vision's AV1 has a name of its own, which FFmpeg's MP4 reader does not know."
    p = write(
        tmp_path / 'a.mp4',
        [picture(k, 64, 64) for k in range(6)],
        codec='libsvtav1',
        preset='12',
        **{'svtav1-params': 'lookahead=0'},
    )
    data = p.read_bytes()
    at = data.index(b'av01', data.index(b'stsd'))
    p.write_bytes(data[:at] + b'dav1' + data[at + 4 :])
    with av.open(str(p)) as c:
        if c.streams.video[0].codec_context:
            pytest.skip('this build of FFmpeg knows dav1')
    with pytest.raises(UserError, match='a.mp4: this build of FFmpeg has no decoder for its video stream'):
        V.decode(p)


# -- numbers beyond float16 --


def test_numbers_beyond_float16_are_refused_by_a_store_and_kept_from_a_file(tmp_path):
    class Tokenizer:
        pad_token_id, all_special_ids = 0, [0]

        def __call__(self, texts, **_):
            return {'input_ids': [[1]] * len(texts)}

    x = np.array([[1, 65504], [2, 70000.0]], np.float32)
    with pytest.raises(UserError, match='a.mp4: the backbone gave numbers beyond 65,504'):
        F.as_rows(x, 'a.mp4')
    assert (
        F.as_rows(x[:1], 'a.mp4').tolist() == [[1, 65504]]
        and F.fits_float16(np.array([65519.9]))
        and not F.fits_float16(np.array([65520.0]))
    )
    with pytest.raises(ValueError, match='a: numbers beyond 65,504'):
        S.StoreWriter(tmp_path / 's', dict(width=2)).add('a', 'a.mp4', x, 1.0)
    (tmp_path / 'n').mkdir()
    np.save(tmp_path / 'n' / 'a.npy', x)
    pairs = P.make_pairs(
        tmp_path / 'n',
        {'a': {'start': [0.0], 'end': [2.0], 'text': ['x']}},
        Pairs(valid_share=0, max_frames=4, max_tokens=4),
        tmp_path / 'p',
    )[0]
    assert (
        P.collate(pairs, Tokenizer(), Pairs(max_frames=4, max_tokens=4), [0])['video'][0].tolist()
        == x.tolist()
    )
    both = S.Aligned(S.NpyFolder(tmp_path / 'n'), S.NpyFolder(tmp_path / 'n', rate=1.5))
    assert np.isfinite(both['a'].values).all() and both['a'].values.max() == 70000
