"Odd files, decoding by the clock, backbones and the store."

import json
import math
import os
import signal
import subprocess
import sys
from fractions import Fraction

import av
import datasets
import numpy as np
import pytest
import torch
from support.pictures import picture

from vidlankd_nb import backbones as B
from vidlankd_nb import extraction as E
from vidlankd_nb import features as F
from vidlankd_nb import store as S
from vidlankd_nb import video as V
from vidlankd_nb.config import Features
from vidlankd_nb.files import UserError


def write(
    path,
    frames,
    times,
    codec='libx264',
    fmt='yuv420p',
    base=Fraction(1, 1000),
    rotate=0,
    audio=False,
    rate=30,
    **options,
):
    "Frames at times (s), in a clock of `base`; skips the test where the build has no such encoder."
    if codec not in av.codecs_available:
        pytest.skip(f'this build of FFmpeg has no {codec}')
    with av.open(str(path), 'w') as out:
        s = out.add_stream(codec, rate=rate, options=options)
        s.height, s.width, s.pix_fmt = *frames[0].shape[:2], fmt
        s.codec_context.time_base = s.time_base = base
        s.codec_context.thread_count = 1
        if rotate:
            s.set_display_rotation(rotate)
        if audio:
            a = out.add_stream('aac', rate=16000)
        if audio:
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), 'fltp', 'mono')
            sound.sample_rate, sound.pts, sound.time_base = 16000, 0, Fraction(1, 16000)
            out.mux(a.encode(sound))
            out.mux(a.encode())
        for f, t in zip(frames, times, strict=True):
            v = av.VideoFrame.from_ndarray(f, 'rgb24')
            v.pts, v.time_base = round(t / base), base
            out.mux(s.encode(v))
        out.mux(s.encode())
    return path


def numbers(frames):
    "Which pictures these are, from their grey level."
    return [round((float(f[f.shape[0] // 2 :, f.shape[1] // 2 :].mean()) - 40) / 8) for f in frames]


def test_constant_rate_at_every_rate(tmp_path):
    p = write(tmp_path / 'a.mp4', [picture(k) for k in range(20)], np.arange(20) / 10)
    assert numbers(V.decode(p).frames) == list(range(20))
    c = V.decode(p, fps=10)
    assert numbers(c.frames) == list(range(20)) and np.allclose(c.times, np.arange(20) / 10)
    c = V.decode(p, fps=2)
    assert numbers(c.frames) == [0, 5, 10, 15] and np.allclose(c.times, [0, 0.5, 1, 1.5])
    assert numbers(V.decode(p, fps=20).frames) == [k for k in range(20) for _ in range(2)]
    assert numbers(V.decode(p, fps=0.1).frames) == [0]
    assert numbers(V.decode(p, start=0.5, end=0.8).frames) == [5, 6, 7]


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.webm'])
def test_variable_rate_shows_what_is_on_the_screen(tmp_path, name):
    times = [0, 0.1, 0.2, 0.9, 1.0, 3.5, 3.6, 5.0]
    p = write(
        tmp_path / name,
        [picture(k) for k in range(8)],
        times,
        codec='libvpx-vp9' if name.endswith('webm') else 'libx264',
        **({'lag-in-frames': '0'} if name.endswith('webm') else {}),
    )
    naive = [max(i for i, t in enumerate(times) if t <= g + 1e-6) for g in np.arange(0, 5.01, 0.5)]
    c = V.decode(p, fps=2)
    assert numbers(c.frames)[:11] == naive and np.allclose(c.times, np.arange(len(c)) / 2)


def test_millisecond_clock_loses_and_doubles_no_frame(tmp_path):
    "Matroska writes 33 ms for 1/30 s: at 30 fps each frame must still come once."
    p = write(tmp_path / 'a.mkv', [picture(k % 20) for k in range(60)], np.arange(60) / 30)
    c = V.decode(p, fps=30)
    assert numbers(c.frames) == [k % 20 for k in range(60)]


@pytest.mark.parametrize('late', [5, 100])
def test_first_timestamp_above_zero(tmp_path, late):
    p = write(tmp_path / 'a.mp4', [picture(k) for k in range(10)], late + np.arange(10) / 10)
    c = V.decode(p, fps=2)
    assert numbers(c.frames) == [0, 5] and np.allclose(c.times, [0, 0.5])
    with V.VideoReader(p) as v:
        assert v.offset == pytest.approx(late, abs=0.01)


def test_video_that_begins_after_its_sound_keeps_its_time(tmp_path):
    p = write(
        tmp_path / 'a.mkv', [picture(k) for k in range(10)], 2 + np.arange(10) / 10, audio=True, rate=10
    )
    assert V.decode(p).times[0] == pytest.approx(2, abs=0.03)
    rows = F.extract(p)
    assert (
        rows.start == pytest.approx(2, abs=0.03)
        and len(rows.window(0, 2)[0]) == 0
        and len(rows.window(2, 2.5)[0]) == 5
    )


@pytest.mark.parametrize('degrees,corner', [(90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_is_undone(tmp_path, degrees, corner):
    "The white square turns counterclockwise with the picture."
    p = write(tmp_path / 'a.mp4', [picture(3)] * 5, np.arange(5) / 10, rotate=degrees)
    f = V.decode(p).frames[0]
    assert f.shape[:2] == ((64, 48) if abs(degrees) == 90 else (48, 64))
    h, w = f.shape[:2]
    assert f[-4 if corner[0] else 3, -4 if corner[1] else 3].min() > 230 and f[h // 2, w // 2].max() < 100
    assert V.decode(p, size=24).frames.shape[1:3] == ((32, 24) if abs(degrees) == 90 else (24, 32))


@pytest.mark.parametrize(
    'codec,fmt,name',
    [
        ('libx264', 'yuv420p10le', 'a.mp4'),
        ('libx265', 'yuv420p10le', 'a.mp4'),
        ('libx265', 'yuv420p', 'a.mp4'),
        ('libvpx-vp9', 'yuv420p', 'a.webm'),
        ('libsvtav1', 'yuv420p', 'a.mp4'),
        ('libsvtav1', 'yuv420p10le', 'a.mkv'),
        ('mpeg4', 'yuv420p', 'a.avi'),
    ],
)
def test_codecs(tmp_path, codec, fmt, name):
    options = (
        {'x265-params': 'log-level=none'}
        if codec == 'libx265'
        else {'preset': '12', 'svtav1-params': 'lookahead=0'}
        if codec == 'libsvtav1'
        else {}
    )
    base = Fraction(1, 10) if name.endswith('avi') else Fraction(1, 1000)
    p = write(
        tmp_path / name,
        [picture(k, 64, 64) for k in range(10)],
        np.arange(10) / 10,
        codec,
        fmt,
        base,
        **options,
    )
    assert numbers(V.decode(p, fps=5).frames) == [0, 2, 4, 6, 8]


def test_timestamps_that_run_backwards(tmp_path, monkeypatch):
    p = write(tmp_path / 'a.mp4', [picture(k) for k in range(10)], np.arange(10) / 10)
    real = V.VideoReader._decoded

    def shuffled(self, change):
        for k, f in enumerate(real(self)):
            f.pts = None if (t := change(k)) is None else round(t / f.time_base)
            yield f

    monkeypatch.setattr(
        V.VideoReader, '_decoded', lambda self: shuffled(self, lambda k: (k - 2 if k == 5 else k) / 10)
    )
    c = V.decode(p)
    assert (
        numbers(c.frames) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        and '1 frames left out whose time is not after' in c.note
    )
    assert (np.diff(c.times) > 0).all()
    monkeypatch.setattr(
        V.VideoReader, '_decoded', lambda self: shuffled(self, lambda k: k / 10 + (1e5 if k < 5 else 0))
    )
    c = V.decode(p)
    assert (
        numbers(c.frames) == list(range(10))
        and np.allclose(np.diff(c.times), 0.1)
        and '1 leaps of the clock' in c.note
    )
    monkeypatch.setattr(V.VideoReader, '_decoded', lambda self: shuffled(self, lambda k: None))
    c = V.decode(p)
    assert (
        numbers(c.frames) == list(range(10))
        and (np.diff(c.times) > 0).all()
        and '10 frames without a time' in c.note
    )


def film(path, pts, container=None):
    "Ten pictures in a file whose packets carry the times `pts` (tenths of a second), in this order."
    with av.open(str(path), 'w', options=container or {}) as out:
        s = out.add_stream('mjpeg', rate=10)
        s.height, s.width, s.pix_fmt = 48, 64, 'yuvj420p'
        s.time_base = s.codec_context.time_base = Fraction(1, 10)
        for k, t in enumerate(pts):
            v = av.VideoFrame.from_ndarray(picture(k), 'rgb24')
            v.pts, v.time_base = k, Fraction(1, 10)
            for p in s.encode(v):
                p.pts, p.dts = t, k - 9
                out.mux(p)
    return path


def test_first_timestamp_below_zero(tmp_path):
    p = film(tmp_path / 'a.mkv', range(-5, 5), dict(avoid_negative_ts='disabled'))
    with av.open(str(p)) as c:
        assert next(c.decode(video=0)).time == pytest.approx(-0.5)
    c = V.decode(p, fps=5)
    assert numbers(c.frames) == [0, 2, 4, 6, 8] and np.allclose(c.times, np.arange(5) / 5) and c.note is None


@pytest.mark.parametrize('name', ['a.mkv', 'a.mov', 'a.nut'])
def test_a_file_whose_clock_runs_backwards(tmp_path, name):
    c = V.decode(film(tmp_path / name, [0, 1, 2, 3, 4, 3, 6, 7, 8, 9]))
    assert numbers(c.frames) == [0, 1, 2, 3, 4, 6, 7, 8, 9] and np.allclose(
        c.times * 10, [0, 1, 2, 3, 4, 6, 7, 8, 9]
    )
    assert c.note == '1 frames left out whose time is not after the one before'


def test_no_duration_in_the_file(tmp_path):
    "A live WebM or a raw stream declares no length; its frames count all the same."
    p = write(tmp_path / 'a.h264', [picture(k) for k in range(10)], np.arange(10) / 10, bf='0')
    c = V.decode(p)
    assert numbers(c.frames) == list(range(10)) and (np.diff(c.times) > 0).all()


def test_broken_in_the_middle_keeps_the_beginning(tmp_path):
    p = write(tmp_path / 'a.mp4', [picture(k) for k in range(40)], np.arange(40) / 10, g='5', bf='0')
    data = bytearray(p.read_bytes())
    at = data.index(b'mdat') + 4
    size = data.index(b'moov') - at
    data[at + size // 2 : at + size * 3 // 4] = bytes([255]) * (size * 3 // 4 - size // 2)
    p.write_bytes(data)
    c = V.decode(p)
    n = len(c)
    assert 5 < n < 40 and numbers(c.frames)[:5] == list(range(5)) and c.note
    (tmp_path / 'videos').mkdir()
    p.rename(tmp_path / 'videos' / 'a.mp4')
    with pytest.raises(UserError, match='a.mp4'):
        E.extract_folder(tmp_path / 'videos', tmp_path / 'out2', strict=True, progress=False)
    report = E.extract_folder(tmp_path / 'videos', tmp_path / 'videos' / 'out', progress=False)
    assert [x['file'] for x in report['partial']] == ['a.mp4'] and report['partial'][0]['reason'] == c.note


def test_a_file_cut_off_is_partial_and_says_where(tmp_path):
    p = write(tmp_path / 'a.mkv', [picture(k) for k in range(100)], np.arange(100) / 10, g='5')
    p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])
    c = V.decode(p)
    assert 10 < len(c) < 90 and 'ends at' in c.note and 'of 9.' in c.note


def test_mid_stream_change_of_size(tmp_path):
    "Two streams behind each other: all pictures come in the size of the first."
    a = write(
        tmp_path / 'a.ts', [picture(k) for k in range(5)], np.arange(5) / 10, base=Fraction(1, 90000), bf='0'
    )
    b = write(
        tmp_path / 'b.ts',
        [picture(k, 96, 128) for k in range(5)],
        0.5 + np.arange(5) / 10,
        base=Fraction(1, 90000),
        bf='0',
    )
    (tmp_path / 'c.ts').write_bytes(a.read_bytes() + b.read_bytes())
    c = V.decode(tmp_path / 'c.ts')
    assert c.frames.shape[1:] == (48, 64, 3) and len(c) >= 9


@pytest.mark.parametrize(
    'make,reason',
    [
        (lambda p: p.touch(), 'empty'),
        (lambda p: p.write_text('not a video at all\n' * 50, encoding='utf-8'), 'cannot be opened'),
        (lambda p: None, 'no such file'),
    ],
)
def test_what_is_no_video_says_why(tmp_path, make, reason):
    p = tmp_path / 'a.mp4'
    make(p)
    with pytest.raises(UserError, match=reason):
        V.decode(p)


def test_audio_only_and_cover_pictures_are_no_video(tmp_path):
    with av.open(str(tmp_path / 'a.m4a'), 'w') as out:
        a = out.add_stream('aac', rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), 'fltp', 'mono')
        sound.sample_rate, sound.pts, sound.time_base = 16000, 0, Fraction(1, 16000)
        out.mux(a.encode(sound))
        out.mux(a.encode())
    with pytest.raises(UserError, match='no video stream'):
        V.decode(tmp_path / 'a.m4a')


def test_only_sampled_frames_are_converted(tmp_path, monkeypatch):
    p = write(tmp_path / 'a.mp4', [picture(k % 20) for k in range(50)], np.arange(50) / 25)
    calls, real = [], V.VideoReader._rgb
    monkeypatch.setattr(V.VideoReader, '_rgb', lambda self, f: calls.append(f.pts) or real(self, f))
    assert len(V.decode(p, fps=1)) == 2 == len(calls)
    assert len(V.decode(p, fps=100)) == 200 and len(calls) == 2 + 50  # a frame that stays is converted once


def test_fps_must_be_positive(tmp_path):
    with pytest.raises(UserError, match='above 0'):
        V.decode(tmp_path / 'a.mp4', fps=0)


def test_windows_fill_with_the_last_picture(tmp_path):
    p = write(tmp_path / 'a.mp4', [picture(k) for k in range(10)], np.arange(10) / 10)
    with V.VideoReader(p) as v:
        x = np.concatenate(list(F.picture_rows(v, 4, chunk=2)))
    assert x.shape[:2] == (3, 4) and [numbers(r) for r in x] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]


def test_pixels_against_a_loop(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32, 3), np.uint8)
    grid = np.stack(
        [
            [
                f[i * 4 : i * 4 + 4, j * 4 : j * 4 + 4].reshape(-1, 3).mean(0) / 127.5 - 1
                for i in range(8)
                for j in range(8)
            ]
            for f in x[:, 0].astype(float)
        ]
    ).reshape(3, -1)
    b = F.Pixels()
    got = b(x).numpy()
    assert np.allclose(got, grid, atol=1e-6)
    full = b.finish(got)
    assert (
        full.shape == (3, b.width)
        and (full[0, 192:] == 0).all()
        and np.allclose(full[1:, 192:], 4 * np.diff(grid, axis=0), atol=1e-6)
    )


def test_a_clip_window_holds_its_frames_and_no_neighbour(tmp_path):
    "Clips of 8 frames at 8 fps behind each other, as in the toy world."
    p = write(
        tmp_path / 'v.mp4',
        [picture(k // 8 * 3, 32, 32) for k in range(40)],
        np.arange(40) / 8,
        base=Fraction(1, 8),
    )
    rows = F.extract(p)
    assert rows.rate == 8 and len(rows) == 40
    for k in range(5):
        values, times = rows.window(float(k), float(k + 1))
        assert np.allclose(times, k + np.arange(8) / 8) and (values[0, 192:] == 0).all()
        if k:
            assert np.abs(rows.values[8 * k, 192:]).max() > 0.05  # in the store, the difference does cross
        assert np.abs(values[:, 192:]).max() < 0.05  # in the window, nothing of the clip before is left


def test_rows_between_tolerates_rounded_captions():
    for k in range(200):
        a, b = round(k * 1.0, 2), round((k + 1) * 1.0, 2)
        assert F.rows_between(a, b, 0.0, 8.0, 1600) == (8 * k, 8 * k + 8)
        a, b = round(k / 3, 2), round((k + 1) / 3, 2)
        assert F.rows_between(a, b, 0.0, 24.0, 4800) == (8 * k, 8 * k + 8)
    assert F.rows_between(-5, -1, 0.0, 1.0, 10) == (0, 0) and F.rows_between(20, 30, 0.0, 1.0, 10) == (10, 10)


# -- backbones --


def test_resnet152_and_clip_untrained_at_full_size():
    x = np.random.default_rng(0).integers(0, 256, (2, 1, 224, 224, 3), np.uint8)
    b = B.load_backbone(Features(backbone='resnet152', weights='random', device='cpu'))
    assert (b.width, b.fps, b.window, b.size, b.crop) == (2048, 1.0, 1, 256, 224)
    assert (
        b(x).shape == (2, 2048)
        and F.is_finite(b(x).half().numpy())
        and b(x).std() > 1e-3
        and sum('.layer.' in k and k.endswith('convolution.weight') for k in b.model.state_dict())
        == 3 * (3 + 8 + 36 + 3)
    )
    hand = (x[0, 0].astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(b.pixels(x)[0, 0].permute(1, 2, 0).numpy(), hand, atol=1e-5)
    c = B.load_backbone(Features(backbone='clip', weights='random', device='cpu'))
    assert (c.width, c.crop) == (512, 224) and c(x).shape == (2, 512)
    hand = (x[0, 0].astype(np.float64) / 255 - [0.48145466, 0.4578275, 0.40821073]) / [
        0.26862954,
        0.26130258,
        0.27577711,
    ]
    assert np.allclose(c.pixels(x)[0, 0].permute(1, 2, 0).numpy(), hand, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(
            c(x), c.model.get_image_features(pixel_values=c.pixels(x)[:, 0]).pooler_output, atol=1e-5
        )


def test_videomae_untrained_at_full_size():
    b = B.load_backbone(Features(backbone='videomae', weights='random', device='cpu'))
    assert (b.width, b.fps, b.window, b.crop) == (768, 8.0, 16, 224)


def test_vjepa2_at_full_size_without_its_memory():
    "ViT-L is built on the meta device: shapes are computed, numbers are not."
    from transformers import AutoConfig, AutoModel

    with torch.device('meta'):
        b = object.__new__(B.Pretrained)
        b.window, b.model = 16, AutoModel.from_config(AutoConfig.for_model(**B.HUB['vjepa2'][1]))
        assert b.forward(torch.zeros(2, 16, 3, 256, 256)).shape == (2, 1024)
    g = B.geometry(B.usual(b.model.config))
    assert (g['resize'], g['crop']) == (292, 256)


def test_resnext3d_reads_the_published_layout(tmp_path):
    torch.manual_seed(1)
    model = B.ResNeXt3D()
    state = {f'module.{k}': v for k, v in model.state_dict().items() if 'num_batches' not in k} | {
        'module.fc.weight': torch.zeros(400, 2048),
        'module.fc.bias': torch.zeros(400),
    }
    assert {
        'module.conv1.weight',
        'module.layer1.0.conv1.weight',
        'module.layer3.22.bn3.running_var',
        'module.layer4.0.downsample.1.weight',
    } <= set(state)
    assert state['module.layer1.0.conv2.weight'].shape == (128, 4, 3, 3, 3) and state[
        'module.conv1.weight'
    ].shape == (64, 3, 7, 7, 7)
    torch.save(dict(arch='resnext-101', epoch=10, state_dict=state, optimizer={}), tmp_path / 'x.pth')
    b = B.load_backbone(Features(backbone='resnext3d', weights=str(tmp_path / 'x.pth'), device='cpu'))
    assert (b.width, b.fps, b.window, b.size, b.crop) == (2048, 24.0, 16, 112, 112)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in b.model.state_dict().items())
    x = np.full((1, 16, 112, 112, 3), 200, np.uint8)
    assert np.allclose(b.pixels(x)[0, 5, :, 7, 9].numpy(), 200 - np.array([110.6, 103.2, 96.3]), atol=1e-4)
    del state['module.layer2.0.bn1.weight']
    torch.save(state, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match='layer2.0.bn1.weight'):
        B.load_resnext3d(B.ResNeXt3D(), tmp_path / 'bad.pth')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_nothing_is_unpickled(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.system, (f'touch {tmp_path}/ran',))

    (tmp_path / 'x.pth').write_bytes(pickle.dumps(Evil()))
    torch.save(dict(state_dict=Evil()), tmp_path / 'y.pth')
    for name in 'xy':
        with pytest.raises(UserError, match='cannot be read'):
            B.load_resnext3d(B.ResNeXt3D((1, 1, 1, 1)), tmp_path / f'{name}.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.fixture
def small_videomae(tmp_path):
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    VideoMAEModel(config).save_pretrained(tmp_path / 'mae')
    (tmp_path / 'mae' / 'preprocessor_config.json').write_text(
        json.dumps(
            dict(
                size=dict(shortest_edge=40),
                crop_size=dict(height=32, width=32),
                do_center_crop=True,
                resample=2,
                image_mean=[0.5] * 3,
                image_std=[0.5] * 3,
            )
        ),
        encoding='utf-8',
    )
    return str(tmp_path / 'mae')


def test_local_folder_with_its_own_preprocessor(tmp_path, small_videomae):
    b = B.load_backbone(Features(backbone=small_videomae, device='cpu'))
    assert (b.width, b.window, b.fps, b.size, b.crop, b.interpolation) == (16, 16, 8.0, 40, 32, 'BILINEAR')
    assert b.pixels(np.full((1, 16, 32, 32, 3), 255, np.uint8)).unique().tolist() == pytest.approx(
        [1.0], abs=1e-5
    )
    p = write(tmp_path / 'a.mp4', [picture(k) for k in range(40)], np.arange(40) / 10)
    rows = F.extract(p, b)
    assert rows.values.shape == (2, 16) and rows.rate == 0.5
    frames = V.decode(p, fps=8, size=40).frames[:, 4:36, 10:42]  # 40 × 53, the middle 32 × 32
    with F.reader(p, b) as v:
        assert (
            np.concatenate(list(F.picture_rows(v, 16))).reshape(-1, 32, 32, 3)[:32].astype(int) - frames[:32]
        ).__abs__().mean() < 3


def test_scaling_is_close_to_pillow(tmp_path):
    "swscale's bicubic against Pillow's antialiased bicubic, on a picture with edges."
    from PIL import Image

    rng = np.random.default_rng(0)
    big = np.asarray(
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((640, 480), Image.BICUBIC)
    )
    p = write(tmp_path / 'a.mp4', [big] * 3, np.arange(3) / 10, crf='1')
    full = V.decode(p).frames[0]
    with V.VideoReader(p, size=256, interpolation='BICUBIC') as v:
        small = next(iter(v))[1]
    want = np.asarray(Image.fromarray(full).resize((341, 256), Image.BICUBIC))
    assert np.abs(small.astype(int) - want).mean() < 2.5


def test_scaled_colours_are_true_whether_the_width_is_even_or_odd(tmp_path):
    "Interleaved RGB of an even width would be darker by more than one level, its colours at half resolution."
    from PIL import Image

    big = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (640, 480), Image.BICUBIC
        )
    )
    p = write(tmp_path / 'a.mp4', [big] * 2, np.arange(2) / 10, codec='libx264', fmt='yuv444p', crf='1')
    for h, w in ((224, 298), (225, 301)):
        with V.VideoReader(p, size=(h, w), interpolation='BICUBIC') as v:
            error = next(iter(v))[1] - np.asarray(Image.fromarray(big).resize((w, h), Image.BICUBIC)).astype(
                int
            )
        assert np.abs(error.mean((0, 1))).max() < 0.5 and np.abs(error).mean() < 1


def small(kind, folder):
    "A small model of the class behind a known name, saved with the preprocessor file of the published one, scaled down to 32 pixels."
    from transformers import (
        CLIPConfig,
        CLIPModel,
        ResNetConfig,
        ResNetModel,
        VideoMAEConfig,
        VideoMAEModel,
        VJEPA2Config,
        VJEPA2Model,
    )

    torch.manual_seed(0)
    part = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    usual, imagenet = (
        dict(do_resize=True, do_center_crop=True, do_normalize=True),
        dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]),
    )
    model, name, d = {
        'resnet152': lambda: (
            ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 1])),
            'preprocessor_config.json',
            dict(
                crop_pct=0.875, size=28, resample=3, image_processor_type='ConvNextImageProcessor', **imagenet
            ),
        ),
        'clip': lambda: (
            CLIPModel(
                CLIPConfig(
                    text_config=dict(part, vocab_size=99),
                    vision_config=dict(part, image_size=32, patch_size=16),
                    projection_dim=12,
                )
            ),
            'preprocessor_config.json',
            dict(
                usual,
                size=32,
                crop_size=32,
                resample=3,
                image_mean=[0.48145466, 0.4578275, 0.40821073],
                image_std=[0.26862954, 0.26130258, 0.27577711],
            ),
        ),
        'videomae': lambda: (
            VideoMAEModel(VideoMAEConfig(**part, image_size=32, patch_size=16)),
            'preprocessor_config.json',
            dict(
                usual,
                size=dict(shortest_edge=32),
                crop_size=dict(height=32, width=32),
                resample=2,
                **imagenet,
            ),
        ),
        'vjepa2': lambda: (
            VJEPA2Model(
                VJEPA2Config(
                    crop_size=32,
                    hidden_size=24,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    pred_hidden_size=24,
                    pred_num_attention_heads=2,
                    pred_num_hidden_layers=1,
                )
            ),
            'video_preprocessor_config.json',
            dict(
                usual,
                size=dict(shortest_edge=36),
                crop_size=dict(height=32, width=32),
                resample=2,
                **imagenet,
            ),
        ),
    }[kind]()
    model.save_pretrained(folder)
    (folder / name).write_text(json.dumps(d), encoding='utf-8')
    return d


@pytest.mark.parametrize(
    'kind,edge,crop,width',
    [('resnet152', 32, 28, 24), ('clip', 32, 32, 12), ('videomae', 32, 32, 24), ('vjepa2', 36, 32, 24)],
)
def test_from_a_video_file_to_what_the_model_is_given(tmp_path, monkeypatch, kind, edge, crop, width):
    "Sampling, resizing, cropping, colours and layout by hand (Pillow and NumPy), for a small model of each class in a local folder."
    from PIL import Image

    d, rng = small(kind, tmp_path / 'model'), np.random.default_rng(1)
    tall = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((96, 120), Image.BICUBIC)
        )
        for _ in range(24)
    ]
    p = write(tmp_path / 'a.mp4', tall, np.arange(24) / 8, fmt='yuv444p', crf='1', g='1')
    b = B.load_backbone(Features(backbone=kind, weights=str(tmp_path / 'model'), device='cpu'))
    given, real = [], b.forward
    monkeypatch.setattr(b, 'forward', lambda x: given.append(x) or real(x))
    rows = F.extract(p, b)
    shown = (
        [tall[8 * k] for k in range(3)] if b.window == 1 else tall + tall[-1:] * 8
    )  # at 1 a second; at 8 a second, filled up to 32
    how = {2: Image.BILINEAR, 3: Image.BICUBIC}[d['resample']]
    top, left = (round(120 * edge / 96) - crop) // 2, (edge - crop) // 2
    hand = [
        np.asarray(Image.fromarray(x).resize((edge, round(120 * edge / 96)), how))[
            top : top + crop, left : left + crop
        ]
        for x in shown
    ]
    hand = (np.stack(hand) / 255 - d['image_mean']) / d['image_std']  # (n, crop, crop, 3)
    hand = hand.transpose(0, 3, 1, 2).reshape(-1, b.window, 3, crop, crop)
    x = torch.cat(given).numpy()
    assert (
        x.shape == hand.shape
        and x.dtype == np.float32
        and np.abs(x - hand).mean() < 0.02
        and np.abs(x - hand).max() < 0.15
    )
    assert rows.values.shape == (len(hand), width) == (len(hand), b.width) and rows.rate == (
        1 if b.window == 1 else 0.5
    )
    if kind == 'clip':
        want = b.model.visual_projection(b.model.vision_model(torch.cat(given)[:, 0]).pooler_output)
    elif kind == 'resnet152':
        want = b.model(torch.cat(given)[:, 0]).last_hidden_state.mean((2, 3))
    elif kind == 'videomae':
        want = b.model(torch.cat(given)).last_hidden_state.mean(1)
    else:
        want = b.model.encoder(torch.cat(given)).last_hidden_state.mean(1)
    np.testing.assert_allclose(rows.values.astype(float), want.detach().numpy(), atol=2e-3, rtol=2e-3)


def test_missing_weights_and_wrong_names_are_sentences(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(UserError, match="did you mean 'resnet152'"):
        B.load_backbone(Features(backbone='resnet125'))
    with pytest.raises(UserError, match='features.weights'):
        B.load_backbone(Features(backbone='resnext3d'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='cannot be loaded'):
        B.load_backbone(Features(backbone='videomae', weights=str(tmp_path / 'empty')))


# -- a whole folder --


@pytest.fixture
def folder(tmp_path):
    d = tmp_path / 'videos'
    d.mkdir()
    for i in range(5):
        write(d / f'v{i}.mp4', [picture(k + i) for k in range(20 + i)], np.arange(20 + i) / 10)
    (d / 'sub').mkdir()
    write(d / 'sub' / 'deep.mkv', [picture(k) for k in range(10)], np.arange(10) / 10)
    (d / 'v0.vtt').write_text('WEBVTT', encoding='utf-8')
    (d / 'empty.mp4').touch()
    (d / 'notes.txt').write_text('hello', encoding='utf-8')
    return d


def test_every_file_is_in_the_report(tmp_path, folder):
    r = E.extract_folder(folder, tmp_path / 'out', progress=False)
    assert (
        r['done'] == ['sub/deep.mkv', 'v0.mp4', 'v1.mp4', 'v2.mp4', 'v3.mp4', 'v4.mp4'] and not r['partial']
    )
    text = 'cannot be opened as a video (it is text).'
    assert {x['file']: x['reason'] for x in r['skipped']} == {
        'empty.mp4': 'the file is empty (0 bytes).',
        'notes.txt': text,
        'v0.vtt': text,
    }
    assert json.loads((tmp_path / 'out' / 'report.json').read_text(encoding='utf-8')) == r
    again = E.extract_folder(folder, tmp_path / 'out', progress=False)
    assert again['frames'] == 0 and all(again[k] == r[k] for k in ('done', 'partial', 'skipped'))


@pytest.mark.parametrize('batch,workers', [(7, 0), (64, 2), (3, 2)])
def test_batches_and_workers_change_nothing(tmp_path, folder, small_videomae, batch, workers):
    one = {
        p.stem: F.extract(p, B.load_backbone(Features(backbone=small_videomae, fps=2, device='cpu'))).values
        for p in folder.glob('v[1-4].mp4')
    }
    E.extract_folder(
        folder,
        tmp_path / 'out',
        Features(backbone=small_videomae, fps=2, batch=batch, workers=workers, device='cpu'),
        progress=False,
    )
    store = S.FeatureStore(tmp_path / 'out')
    for k, v in one.items():
        np.testing.assert_allclose(store[k].values.astype(float), v.astype(float), atol=2e-3)
    assert store['v1'].rate == 2 and store['v1'].values.shape[0] == math.ceil(2.1 * 2)


def test_captions_choose_the_videos(tmp_path, folder):
    caps = {'v1': {}, 'ghost': {}}
    (tmp_path / 'c.json').write_text(json.dumps(caps), encoding='utf-8-sig')  # as Windows writes it
    r = E.extract_folder(folder, tmp_path / 'out', captions=tmp_path / 'c.json', progress=False)
    assert r['done'] == ['v1.mp4'] and r['no_video'] == ['ghost'] and len(r['skipped']) == 8


def test_pictures_and_subtitles_beside_a_video_do_not_take_its_place(tmp_path):
    from PIL import Image

    (tmp_path / 'videos').mkdir()
    write(tmp_path / 'videos' / 'v.mp4', [picture(k) for k in range(10)], np.arange(10) / 10)
    Image.fromarray(picture(3)).save(tmp_path / 'videos' / 'v.jpg')
    (tmp_path / 'videos' / 'v.json').write_text('{}', encoding='utf-8')
    (tmp_path / 'videos' / 'v.VTT').write_text('WEBVTT', encoding='utf-8')
    r = E.extract_folder(tmp_path / 'videos', tmp_path / 'out', captions={'v': {}}, progress=False)
    kinds = {'v.VTT': 'text', 'v.jpg': 'a picture', 'v.json': 'text'}
    assert r['done'] == ['v.mp4'] and {x['file']: x['reason'] for x in r['skipped']} == {
        f: f'cannot be opened as a video (it is {kind}).' for f, kind in kinds.items()
    }
    (tmp_path / 'videos' / 'v.2.mp4').touch()  # its id is 'v.2'
    assert (
        V.video_file(tmp_path / 'videos', 'v') == tmp_path / 'videos' / 'v.mp4'
        and V.video_file(tmp_path / 'videos', 'v.2').name == 'v.2.mp4'
        and V.video_file(tmp_path / 'videos', 'w') is None
    )


def test_a_link_that_leads_nowhere_is_in_the_report(tmp_path, folder):
    (folder / 'gone.mp4').symlink_to(folder / 'moved' / 'gone.mp4')
    (folder / 'round.mp4').symlink_to(folder / 'round.mp4')
    skipped = E.extract_folder(folder, folder / 'out', progress=False)[
        'skipped'
    ]  # the store lies among the videos
    assert {x['file'] for x in skipped if x['reason'] == 'there is no such file.'} == {
        'gone.mp4',
        'round.mp4',
    } and not any(x['file'].startswith('out') for x in skipped)
    assert len(E.extract_folder(folder, folder / 'out', progress=False)['skipped']) == len(skipped)


def test_settings_of_a_folder_cannot_change(tmp_path, folder):
    E.extract_folder(folder, tmp_path / 'out', progress=False)
    with pytest.raises(UserError, match='fps is None there, 2.0 now'):
        E.extract_folder(folder, tmp_path / 'out', Features(fps=2.0), progress=False)
    with pytest.raises(UserError, match='no folder'):
        E.extract_folder(tmp_path / 'nowhere', tmp_path / 'out2', progress=False)


@pytest.mark.parametrize(
    'wrong', [dict(fps=-1.0), dict(fps=0.0), dict(fps=math.nan), dict(batch=0), dict(workers=-2)]
)
def test_settings_that_cannot_be_meant(tmp_path, folder, wrong):
    with pytest.raises(UserError, match=f'features.{next(iter(wrong))} is .*; it must be'):
        E.extract_folder(folder, tmp_path / 'out', Features(**wrong), progress=False)
    assert not (tmp_path / 'out').exists()


def test_a_device_or_captions_that_are_none(tmp_path, folder, small_videomae):
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match='device=cuda cannot be used'):
            B.load_backbone(Features(backbone=small_videomae, device='cuda'))
    (tmp_path / 'c.json').write_text('["v0"]', encoding='utf-8')
    with pytest.raises(UserError, match='not a JSON object'):
        E.extract_folder(folder, tmp_path / 'out', captions=tmp_path / 'c.json', progress=False)


def test_numbers_that_are_not_finite_are_no_features(tmp_path, folder, monkeypatch):
    real = F.Pixels.__call__
    monkeypatch.setattr(
        F.Pixels, '__call__', lambda self, x: real(self, x) + (math.nan if len(x) == 21 else 0)
    )
    r = E.extract_folder(folder, tmp_path / 'out', Features(batch=1), progress=False)
    assert not any('finite' in x['reason'] for x in r['skipped'])
    monkeypatch.setattr(F.Pixels, '__call__', lambda self, x: real(self, x) * math.nan)
    with pytest.raises(UserError, match='No file in .* gave features.*empty.mp4: the file is empty'):
        E.extract_folder(folder, tmp_path / 'out2', progress=False)
    r = json.loads((tmp_path / 'out2' / 'report.json').read_text(encoding='utf-8'))
    assert not r['done'] and sum('finite' in x['reason'] for x in r['skipped']) == 6
    with pytest.raises(UserError, match='finite|empty|id'):
        E.extract_folder(folder, tmp_path / 'out3', strict=True, progress=False)


@pytest.mark.parametrize('wrong', [dict(device='cuda'), dict(device='cuda:1'), dict(weights='random')])
def test_what_pixels_have_no_use_for_is_not_ignored(tmp_path, folder, wrong):
    with pytest.raises(
        UserError, match=f"features.{next(iter(wrong))}=.* means nothing to the backbone 'pixels'"
    ):
        E.extract_folder(folder, tmp_path / 'out', Features(**wrong), progress=False)
    assert not (tmp_path / 'out').exists() and B.load_backbone(Features(device='cpu')).name == 'pixels'


def test_a_folder_without_videos_is_an_error(tmp_path, folder, capsys):
    from vidlankd_nb.cli import main

    (tmp_path / 'none' / 'inside').mkdir(parents=True)
    with pytest.raises(UserError, match='holds no file: video files .mp4, mkv'):
        E.extract_folder(tmp_path / 'none', tmp_path / 'out', progress=False)
    with pytest.raises(
        UserError, match="None of the 9 files .* such as 'empty', .* know ids such as 'ghost'"
    ):
        E.extract_folder(folder, tmp_path / 'out', captions={'ghost': {}}, progress=False)
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one' / 'v.mp4').touch()
    with pytest.raises(UserError, match="^v.mp4, the only file in .*one, has no captions: .* such as 'v'"):
        E.extract_folder(tmp_path / 'one', tmp_path / 'out', captions={'ghost': {}}, progress=False)
    with pytest.raises(UserError, match='the captions know none'):
        E.extract_folder(folder, tmp_path / 'out', captions={}, progress=False)
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'none' / 'inside' / 'notes.txt').write_text('hello', encoding='utf-8')
    with pytest.raises(SystemExit) as end:
        main(['features', str(tmp_path / 'none'), '--out', str(tmp_path / 'out')])
    said = capsys.readouterr().err
    assert end.value.code == 2 and 'gave features' in said and 'inside/notes.txt: cannot be opened' in said
    assert (
        json.loads((tmp_path / 'out' / 'report.json').read_text(encoding='utf-8'))['skipped'][0]['file']
        == 'inside/notes.txt'
    )


def same_rows(a, b):
    a, b = S.FeatureStore(a), S.FeatureStore(b)
    assert a.ids == b.ids and not list(a.folder.glob('*.part'))
    for i in a.ids:
        assert np.array_equal(a[i].values, b[i].values) and (a[i].rate, a[i].start, a[i].note) == (
            b[i].rate,
            b[i].start,
            b[i].note,
        )


@pytest.mark.parametrize(
    'moment', ['between two videos', 'in the middle of a video', 'in the middle of writing']
)
def test_killed_before_the_first_shard_is_whole_it_begins_again(tmp_path, folder, moment):
    "Nothing is on disk but the settings, or half a shard: the same command makes the same rows as an uninterrupted one."
    code = f"""
import os, signal, sys
from vidlankd_nb import extraction as E, features as F, store as S, video as V
moment, calls, die = {moment!r}, 0, lambda: os.kill(os.getpid(), signal.SIGKILL)
def dying(real, at):
    def call(*a, **k):
        global calls
        calls += 1
        if calls == at: die()
        return real(*a, **k)
    return call
class Half:
    def __init__(self, out): self.out = out
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write_batch(self, batch): self.out.write(batch.serialize().to_pybytes()[:200]); self.out.flush(); die()
if moment == 'between two videos': S.StoreWriter.add = dying(S.StoreWriter.add, 3)
elif moment == 'in the middle of a video': V.VideoReader._rgb = dying(V.VideoReader._rgb, 45)
else: S.pa.ipc.new_stream = lambda f, schema: Half(f)
E.extract_folder({str(folder)!r}, {str(tmp_path / 'out')!r}, progress=False)
"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
    assert r.returncode == -signal.SIGKILL, r.stderr
    left = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert (
        left == ['features-00000.arrow.part', 'store.json']
        if moment.endswith('writing')
        else left == ['store.json']
    )
    report, whole = (E.extract_folder(folder, tmp_path / d, progress=False) for d in ('out', 'whole'))
    assert all(report[k] == whole[k] for k in ('done', 'partial', 'skipped', 'frames'))
    same_rows(tmp_path / 'out', tmp_path / 'whole')


def test_killed_after_each_shard_it_goes_on(tmp_path, folder):
    "A process that is killed after each shard ends, with the same command, where an uninterrupted one does."
    code = f"""
import os, signal
from vidlankd_nb import extraction as E, features as F, store as S, video as V
kill, real = int(os.environ['KILL']), S.StoreWriter.flush
def flush(self):
    global kill
    if self.rows and kill == 0: open(self.folder/'features-99999.arrow.part', 'w').write('half'); os.kill(os.getpid(), signal.SIGKILL)
    kill -= bool(self.rows)
    real(self)
S.StoreWriter.flush = flush
add = S.StoreWriter.add
def each(self, *a, **k): add(self, *a, **k); self.flush()
S.StoreWriter.add = each
E.extract_folder({str(folder)!r}, {str(tmp_path / 'out')!r}, progress=False)
"""
    for kill in (0, 2, 99):
        r = subprocess.run(
            [sys.executable, '-c', code],
            env={**os.environ, 'KILL': str(kill)},
            capture_output=True,
            encoding='utf-8',
        )
        assert r.returncode == (0 if kill == 99 else -signal.SIGKILL), r.stderr
    E.extract_folder(folder, tmp_path / 'whole', progress=False)
    same_rows(tmp_path / 'out', tmp_path / 'whole')


# -- the store --


def test_store_reads_back_across_shards_and_after_growing(tmp_path):
    rng, meta = np.random.default_rng(0), dict(width=3, backbone='noise')
    rows = {f'id{i}': rng.normal(size=(i % 4 + 1, 3)).astype(np.float16) for i in range(25)}
    w = S.StoreWriter(tmp_path, meta, shard_bytes=60)
    for k in list(rows)[:20]:
        w.add(k, f'{k}.mp4', rows[k], 2.0, 1.0)
    w.flush()
    s = S.FeatureStore(tmp_path, opened=2)
    assert len(S.shards(tmp_path)) > 3 and len(s) == 20 and 'id24' not in s
    w = S.StoreWriter(tmp_path, meta)
    for k in list(rows)[20:]:
        w.add(k, f'{k}.mp4', rows[k], 2.0, 1.0)
    w.flush()
    s = S.FeatureStore(tmp_path, opened=2)
    assert s.ids == sorted(rows) and len(s.maps) <= 2
    for k, v in rows.items():
        assert np.array_equal(s[k].values, v) and s[k].rate == 2 and s[k].start == 1
    with pytest.raises(KeyError):
        s['nobody']
    with pytest.raises(ValueError):
        w.add('x', 'x.mp4', np.zeros((2, 4)), 1.0)
    d = datasets.Dataset.from_file(str(S.shards(tmp_path)[0]))
    assert d[0]['id'] == 'id0' and np.allclose(d[0]['values'], rows['id0'].ravel().astype(float))


def test_store_without_store_and_damaged_shard(tmp_path):
    with pytest.raises(UserError, match='store.json'):
        S.FeatureStore(tmp_path)
    w = S.StoreWriter(tmp_path, dict(width=1))
    w.add('a', 'a.mp4', np.ones((2, 1)), 1.0)
    w.flush()
    p = S.shards(tmp_path)[0]
    p.write_bytes(p.read_bytes()[:100])
    with pytest.raises(UserError, match='delete it'):
        S.FeatureStore(tmp_path)


def test_id_hash_is_the_same_everywhere():
    assert S.id_hash('xHr8X2Wpmno') == S.id_hash('xHr8X2Wpmno') and 0 <= S.id_hash('a') < 2**63
    out = subprocess.run(
        [sys.executable, '-c', "from vidlankd_nb.store import id_hash; print(id_hash('xHr8X2Wpmno'))"],
        env={**os.environ, 'PYTHONHASHSEED': '7'},
        capture_output=True,
        encoding='utf-8',
    )
    assert int(out.stdout) == S.id_hash('xHr8X2Wpmno')


@pytest.mark.parametrize('n,most', [(5, 8), (8, 8), (9, 8), (100, 8), (7, 3), (1000, 384)])
def test_even_is_even(n, most):
    k = V.even(n, most)
    assert len(k) == min(n, most) and len(set(k)) == len(k) and k[0] >= 0 and k[-1] < n
    if n > most:
        assert np.diff(k).max() - np.diff(k).min() <= 1


@pytest.mark.parametrize('n,shown', [(None, [0, 1, 2]), (2, [0, 2])])
def test_film_strip_labels_each_frame(n, shown):
    ax = V.film_strip(np.zeros((3, 4, 6, 3), np.uint8), [0, 0.5, 1], n=n)
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        ('0 s', '0.5 s', '1 s')[k] for k in shown
    ] and ax.images[0].get_array().shape == (4, 7 * len(shown) - 1, 3)


# --- what is cut off is not copied, and nothing else changes

MATRICES = [None, [[0, 1, 0], [-1, 0, 0]], [[-1, 0, 0], [0, 1, 0]], [[0, -1, 0], [-1, 0, 0]]]


@pytest.mark.parametrize('matrix', MATRICES, ids=['as it lies', 'turned', 'mirrored', 'transposed'])
def test_a_picture_is_what_pyav_gives_turned_and_cut(matrix):
    from av.video.reformatter import VideoReformatter

    from vidlankd_nb.frames import scaled_rgb

    rng = np.random.default_rng(0)
    frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (50, 74, 3), np.uint8), 'rgb24')
    frame = frame.reformat(format='yuv420p')
    for shape, planes in (((50, 74), 'rgb24'), ((33, 47), 'gbrp'), ((100, 120), 'gbrp')):
        for crop in (None, 21):
            wanted = (
                VideoReformatter().reformat(frame, *shape[::-1], planes, interpolation='BICUBIC').to_ndarray()
            )
            if matrix:
                turned = wanted.swapaxes(0, 1) if matrix[0][0] == 0 else wanted
                right, down = (
                    (matrix[1][0], matrix[0][1]) if matrix[0][0] == 0 else (matrix[0][0], matrix[1][1])
                )
                turned = turned[:, ::-1] if right < 0 else turned
                wanted = turned[::-1] if down < 0 else turned
            if crop:
                top, left = ((n - crop) // 2 for n in wanted.shape[:2])
                wanted = wanted[top : top + crop, left : left + crop]
            found = scaled_rgb(
                VideoReformatter(),
                frame,
                shape,
                'BICUBIC',
                None if matrix is None else np.array(matrix),
                crop,
            )
            assert found.flags.c_contiguous and found.dtype == np.uint8
            assert np.array_equal(found, wanted), (shape, crop)


def test_pictures_in_windows_and_pieces():
    "Seven pictures in windows of two, three rows at a time; the last window repeats its last picture."
    from types import SimpleNamespace

    from vidlankd_nb.features import picture_rows

    class Seven(SimpleNamespace):
        def __iter__(self):
            for k in range(7):
                yield 0.5 + k, np.full((2, 3, 3), k, np.uint8)

    video = Seven()
    found = list(picture_rows(video, 2, 3))
    assert [x.shape for x in found] == [(3, 2, 2, 3, 3), (1, 2, 2, 3, 3)]
    assert np.concatenate(found)[:, :, 0, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 6]]
    assert video.start == 0.5 and found[0].max() == 5  # a piece is not written into after it was given
