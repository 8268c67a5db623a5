"Pictures with names: what a file shows, how it is filmed, what it is called, and the road to pairs."

import csv
import hashlib
import json
import sys
import types
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidlankd_nb import backbones as B
from vidlankd_nb import emoji as M
from vidlankd_nb import extraction as E
from vidlankd_nb import features as F
from vidlankd_nb import named_pictures as N
from vidlankd_nb import stills as S
from vidlankd_nb.cli import main
from vidlankd_nb.config import Features
from vidlankd_nb.files import UserError
from vidlankd_nb.store import FeatureStore
from vidlankd_nb.tables import Reading

NOTO = Path('/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf')


def spots(h=40, w=60, seed=0):
    "Colours that no turn or mirror leaves alone."
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def put(path, x=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(spots() if x is None else x).save(path, **more)
    return path


# -- what a file shows --


@pytest.mark.parametrize(
    'orientation, turned',
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x.swapaxes(0, 1), 2)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_a_picture_stands_as_its_camera_says(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path / 'x.png', exif=exif)
    picture, note = S.read_picture(path)
    assert note is None and np.array_equal(np.asarray(picture), turned(spots()))


def test_transparent_pixels_show_the_background(tmp_path):
    x = np.zeros((1, 3, 4), np.uint8)
    x[0, :, 0] = 200
    x[0, :, 3] = 0, 128, 255
    path = put(tmp_path / 'x.png', x)
    seen = np.asarray(S.read_picture(path, (100, 50, 0))[0])[0].astype(int)
    half = 128 / 255
    by_hand = [(100, 50, 0), (200 * half + 100 * (1 - half), 50 * (1 - half), 0), (200, 0, 0)]
    assert np.abs(seen - by_hand).max() <= 1
    assert np.array_equal(
        np.asarray(S.read_picture(path.read_bytes(), (100, 50, 0))[0]), seen[None].astype(np.uint8)
    )


def test_palettes_grey_and_print(tmp_path):
    flag = Image.new('P', (2, 1))
    flag.putpalette([255, 0, 0, 0, 0, 255])
    flag.putpixel((1, 0), 1)
    flag.save(tmp_path / 'p.png', transparency=1)
    assert [S.read_picture(tmp_path / 'p.png', (9, 9, 9))[0].getpixel((x, 0)) for x in (0, 1)] == [
        (255, 0, 0),
        (9, 9, 9),
    ]
    put(tmp_path / 'grey.png', np.array([[0, 77]], np.uint8))
    assert S.read_picture(tmp_path / 'grey.png')[0].getpixel((1, 0)) == (77, 77, 77)
    Image.fromarray(np.array([[[255, 128]]], np.uint8), 'LA').save(tmp_path / 'la.png')
    assert abs(S.read_picture(tmp_path / 'la.png', (0, 0, 0))[0].getpixel((0, 0))[1] - 128) <= 1
    Image.new('CMYK', (2, 2), (0, 255, 255, 0)).save(tmp_path / 'print.tif')  # no cyan: red
    assert S.read_picture(tmp_path / 'print.tif')[0].getpixel((0, 0)) == (255, 0, 0)


def test_sixteen_bits_become_eight(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    put(tmp_path / 'deep.png', values)
    seen = np.asarray(S.read_picture(tmp_path / 'deep.png')[0])[0, :, 0]
    assert seen.tolist() == [0, 1, 128, 255]  # v/65535 · 255, rounded
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / 'float.tif')
    Image.fromarray(np.array([[70000]], np.int32)).save(tmp_path / 'deeper.tif')
    for name in ('float', 'deeper'):
        with pytest.raises(S.NoPicture, match='does not say which is white'):
            S.read_picture(tmp_path / f'{name}.tif')


def test_what_is_no_whole_picture_says_why(tmp_path):
    whole = put(tmp_path / 'x.png').read_bytes()
    jpeg = put(tmp_path / 'x.jpg').read_bytes()
    for data, said in (
        (b'', 'empty'),
        (b'hello', 'cannot be opened as a picture'),
        (whole[: len(whole) // 2], 'cannot be read whole'),
        (jpeg[: len(jpeg) // 2], 'cannot be read whole'),
        (whole[:40] + bytes(60) + whole[100:], 'cannot be'),
    ):
        with pytest.raises(S.NoPicture, match=said):
            S.read_picture(data)
        (tmp_path / 'broken.png').write_bytes(data)
        with pytest.raises(S.NoPicture, match=said):
            S.read_picture(tmp_path / 'broken.png')
    first, second = Image.fromarray(spots()), Image.fromarray(spots(seed=1))
    first.save(tmp_path / 'moves.png', save_all=True, append_images=[second])
    seen, note = S.read_picture(tmp_path / 'moves.png')
    assert note == 'the first of its 2 pictures is shown' and np.array_equal(np.asarray(seen), spots())


# -- how it is filmed --


def test_views_by_arithmetic():
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for id in ('banana/1.png', 'é.jpg', 'x'):
        turn = int(hashlib.sha256(id.encode()).hexdigest()[:16], 16)
        dx, dy = directions[turn % 8]
        for at in (0, 0.25, 1):
            x = 0.1 + 0.1 * dx * (2 * at - 1)
            y = 0.1 + 0.1 * dy * (2 * at - 1)
            assert np.allclose(S.view('pan', id, at), (x, y, x + 0.8, y + 0.8))
            margin = 0.1 * (at if turn % 2 else 1 - at)
            assert np.allclose(S.view('zoom', id, at), (margin, margin, 1 - margin, 1 - margin))
            assert S.view('still', id, at) == (0, 0, 1, 1)


def test_frames_of_a_pan_are_cuts_of_the_picture(tmp_path):
    x = spots(100, 100)
    path = put(tmp_path / 'x.png', x)
    name = next(n for n in map(str, range(99)) if S.view('pan', n, 0)[:2] == (0, 0))  # right and down
    with S.StillReader(path, name, S.Camera('pan', seconds=1.5), fps=2, size=(80, 80)) as still:
        times, frames = zip(*still, strict=True)
    assert times == (0, 0.5, 1)
    for frame, corner in zip(frames, (0, 10, 20), strict=True):
        assert np.array_equal(frame, x[corner : corner + 80, corner : corner + 80])
    with S.StillReader(path, 'x', S.Camera(seconds=0.1), fps=1, size=50, crop=20) as still:
        ((t, frame),) = still
    halves = x.reshape(50, 2, 50, 2, 3).mean((1, 3))[15:35, 15:35]
    assert t == 0 and np.abs(frame - halves).max() <= 1  # Pillow rounds along rows, then along columns
    with (
        pytest.raises(S.NoPicture, match='too narrow'),
        S.StillReader(put(tmp_path / 'thin.png', spots(1, 5000)), 'x', S.Camera(), size=224) as still,
    ):
        list(still)


def test_a_background_that_is_no_colour():
    assert S.Camera.of(Features(background='#102030')).settings['background'] == '#102030'
    for wrong in ('snow-ish', '#12', '#10203040'):
        with pytest.raises(UserError, match='features.background .* no colour'):
            S.Camera.of(Features(background=wrong))


# -- which pictures, and what they are called --


@pytest.fixture
def shop(tmp_path):
    for n, name in enumerate(
        ('polar_bear/1.png', 'polar_bear/1.jpg', 'fox/1.png', 'signs/1.png', 'signs/2.png')
    ):
        put(tmp_path / 'shop' / name, spots(20 + n, 30, n))
    return tmp_path / 'shop'


def reasons(pictures):
    return {x['file']: x['reason'] for x in pictures.skipped}


def test_class_folders_are_names_and_places_are_ids(shop):
    (shop / '.hidden.png').write_bytes(b'')
    (shop / 'readme.txt').write_text('hello', encoding='utf-8')
    put(shop / 'train' / 'x.png')
    put(shop / 'top.png')
    pictures = N.open_pictures(shop)
    assert pictures.names == {
        'polar_bear/1.png': ['polar bear'],
        'polar_bear/1.jpg': ['polar bear'],
        'fox/1.png': ['fox'],
        'signs/1.png': ['signs'],
        'signs/2.png': ['signs'],
    }
    why = reasons(pictures)
    assert 'hidden' in why['.hidden.png'] and 'ending' in why['readme.txt']
    assert 'no name' in why['train/x.png'] and 'no name' in why['top.png']
    with pytest.raises(UserError, match='no folder .*nowhere'):
        N.open_pictures(shop / 'nowhere')
    (shop.parent / 'none').mkdir()
    with pytest.raises(UserError, match='holds no picture with a name: class folders'):
        N.open_pictures(shop.parent / 'none')


@pytest.mark.parametrize('kind', ['csv', 'jsonl', 'parquet'])
def test_tables_name_pictures(shop, kind):
    rows = [('1.png', 'stop'), ('1.png', 'halt'), ('3.png', 'lost'), ('2.png', '')]
    table = shop / 'signs' / f'metadata.{kind}'
    if kind == 'csv':
        with open(table, 'w', newline='', encoding='utf-8') as f:
            csv.writer(f).writerows([('file_name', 'caption'), *rows])
    elif kind == 'jsonl':
        table.write_text(
            '\n'.join(json.dumps(dict(file_name=f, caption=c)) for f, c in rows), encoding='utf-8'
        )
    else:
        import pandas as pd

        pd.DataFrame(rows, columns=['file_name', 'caption']).to_parquet(table)
    put(shop / 'signs' / 'more' / '9.png')
    pictures = N.open_pictures(shop)
    assert pictures.names['signs/1.png'] == ['stop', 'halt'] and pictures.names['fox/1.png'] == ['fox']
    why = reasons(pictures)
    assert 'no such file' in why['signs/3.png'] and 'has no row' in why['signs/more/9.png'] and len(why) == 2
    captions = N.picture_captions(pictures, 'a sign: {name}')
    assert captions['signs/1.png'] == dict(
        start=[0, 0], end=['end', 'end'], text=['a sign: stop', 'a sign: halt']
    )
    assert captions['signs/2.png']['text'] == ['']  # broken, and counted by every stage as such


def test_tables_that_cannot_be_read_are_sentences(shop):
    table = shop / 'signs' / 'metadata.csv'
    for text, said in (
        ('name,text\n1.png,x\n', "no column 'file_name'"),
        ('file_name,words\n1.png,x\n', 'no column of names among .*--text'),
        (b'file_name,text\n1.png,caf\xe9\n', 'is no UTF-8 text near byte 24'),
    ):
        table.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(UserError, match=said):
            N.open_pictures(shop)
    table.write_text('file_name,words\n1.png,x\n', encoding='utf-8')
    assert N.open_pictures(shop, reading=Reading(text='words')).names['signs/1.png'] == ['x']
    with pytest.raises(UserError, match='no place for the name'):
        N.picture_captions(N.open_pictures(shop, reading=Reading(text='words')), 'look')


def test_names_meet_in_both_compositions(tmp_path):
    for form in ('NFC', 'NFD'):
        put(tmp_path / form / 'x' / unicodedata.normalize(form, 'é.png'))
        (tmp_path / form / 'x' / 'metadata.csv').write_text('file_name,text\né.png,one\n', encoding='utf-8')
        pictures = N.open_pictures(tmp_path / form)
        assert pictures.names == {'x/é.png': ['one']} and N.clip_of(pictures, 'x/é.png').frames.shape[
            1:3
        ] == (40, 60)
    put(tmp_path / 'both' / 'x' / unicodedata.normalize('NFC', 'é.png'))
    put(tmp_path / 'both' / 'x' / unicodedata.normalize('NFD', 'é.png'))
    (why,) = reasons(N.open_pictures(tmp_path / 'both')).values()
    assert 'composed differently' in why


def test_data_sets_of_pictures(tmp_path, shop):
    import datasets

    files = [
        str(shop / f) for f in ('fox/1.png', 'fox/1.png', 'polar_bear/1.png', 'signs/1.png', 'signs/2.png')
    ]
    ids = ['a', 'a', 'b', 'b', None]
    kinds = datasets.Features(
        image=datasets.Image(), image_id=datasets.Value('string'), caption=datasets.Value('string')
    )
    rows = dict(image=files, image_id=ids, caption=['fox', 'red animal', 'bear', 'stop', 'lost'])
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / 'ids')
    pictures = N.open_pictures(tmp_path / 'ids')
    assert pictures.names == {'a': ['fox', 'red animal'], 'b': ['bear']}
    assert reasons(pictures) == {
        'row 3': "another picture has the id 'b'.",
        'row 4': 'no id that can be written down.',
    }
    assert np.array_equal(
        N.clip_of(pictures, 'b').frames[0], np.asarray(Image.open(shop / 'polar_bear/1.png'))
    )
    labels = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['fox', 'ice_bear']))
    part = datasets.Dataset.from_dict(
        dict(image=[files[0], None, files[2]], label=[0, 1, 1]), features=labels
    )
    datasets.DatasetDict(train=part, test=part.select([0])).save_to_disk(tmp_path / 'labels')
    pictures = N.open_pictures(tmp_path / 'labels')
    assert pictures.names == {
        'train/0': ['fox'],
        'train/1': ['ice bear'],
        'train/2': ['ice bear'],
        'test/0': ['fox'],
    }
    assert len(N.open_pictures(tmp_path / 'labels', reading=Reading(split='test'))) == 1
    report = E.extract_folder(pictures, tmp_path / 'out', progress=False)
    assert [x['file'] for x in report['skipped']] == ['train/1'] and 'no picture' in report['skipped'][0][
        'reason'
    ]
    datasets.Dataset.from_dict(dict(caption=['x'])).save_to_disk(tmp_path / 'bare')
    with pytest.raises(UserError, match='no column of pictures among caption'):
        N.open_pictures(tmp_path / 'bare')


# -- down the road --


def test_pictures_become_rows_and_pairs(tmp_path, shop, capsys):
    (shop / 'fox' / 'torn.png').write_bytes((shop / 'fox' / '1.png').read_bytes()[:300])
    (shop / 'signs' / 'metadata.csv').write_text('file_name,text\n1.png,stop\n2.png,\n', encoding='utf-8')
    out = tmp_path / 'rows'
    words = ['features', str(shop), '--pictures', '--template', 'look at the {name}', '--backbone', 'colours']
    main([*words, '--out', str(out)])
    assert '5 pictures done, 0 in part, 1 skipped' in capsys.readouterr().out
    report = json.loads((out / 'report.json').read_text(encoding='utf-8'))
    why = {x['file']: x['reason'] for x in report['skipped']}
    assert list(why) == ['fox/torn.png'] and 'cannot be read whole' in why['fox/torn.png']
    assert report['captions']['skipped_counts'] == {'empty text': 1}
    store = FeatureStore(out)
    x = np.asarray(Image.open(shop / 'fox/1.png').resize((64, 64), Image.BOX))
    by_hand = np.sqrt(np.histogramdd(x.reshape(-1, 3), bins=[[0, 64, 128, 192, 256]] * 3)[0].ravel() / 64**2)
    rows = store['fox/1.png']
    assert rows.values.shape == (8, 64) and rows.rate == 4
    assert np.abs(rows.values - by_hand).max() < 1e-3 and np.allclose((by_hand**2).sum(), 1)
    main(['pairs', str(out), '--captions', str(out / 'caption.json'), '--out', str(tmp_path / 'pairs')])
    report = json.loads((tmp_path / 'pairs' / 'report.json').read_text(encoding='utf-8'))
    assert sum(report['pairs'].values()) == 4 and report['skipped_counts'] == {
        'no features': 1,
        'empty text': 1,
    }
    with pytest.raises(SystemExit):
        main([*words, '--motion', 'pan', '--out', str(out)])
    assert 'motion is' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['features', str(shop), '--template', '{name}', '--out', str(out)])
    assert '--split are about pictures' in capsys.readouterr().err


def test_a_picture_that_was_replaced_is_read_again(tmp_path, shop):
    cfg = Features(motion='zoom', workers=1)
    pictures = N.open_pictures(shop, cfg)
    first = E.extract_folder(pictures, tmp_path / 'out', cfg, progress=False)
    assert (
        first['frames'] == 5 * 8
        and E.extract_folder(pictures, tmp_path / 'out', cfg, progress=False)['frames'] == 0
    )
    put(shop / 'fox' / '1.png', spots(50, 50, 9))
    again = E.extract_folder(N.open_pictures(shop, cfg), tmp_path / 'out', cfg, progress=False)
    assert again['replaced'] == ['fox/1.png'] and again['frames'] == 8 and len(again['done']) == 5
    whole = FeatureStore(tmp_path / 'out')
    E.extract_folder(N.open_pictures(shop, cfg), tmp_path / 'new', Features(motion='zoom'), progress=False)
    fresh = FeatureStore(tmp_path / 'new')
    assert fresh.ids == whole.ids
    for id in fresh.ids:
        assert np.array_equal(fresh[id].values, whole[id].values)
    with pytest.raises(
        UserError, match="None of the 5 pictures .* such as 'fox/1.png', and the captions know .*ghost"
    ):
        E.extract_folder(pictures, tmp_path / 'none', cfg, captions={'ghost': {}}, progress=False)


def test_a_run_on_pictures(tmp_path, shop, capsys):
    (tmp_path / 'text.txt').write_text('the fox sleeps\nthe bear walks on ice\n' * 4, encoding='utf-8')
    run = [
        '--config', 'tiny', '--data.pictures', str(shop), '--data.template', 'this is a {name}',
        '--data.text', f'[{tmp_path / "text.txt"}]', '--features.motion', 'pan', '--pairs.valid_share', '0.3',
        '--out', str(tmp_path / 'run'),
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        main(['features', *run])
    assert "'features' needs 'pictures' first" in capsys.readouterr().err
    for stage in ('pictures', 'features', 'pairs', 'corpus'):
        main([stage, *run])
    folder = tmp_path / 'run'
    captions = json.loads((folder / 'pictures' / 'caption.json').read_text(encoding='utf-8'))
    assert captions['polar_bear/1.jpg']['text'] == ['this is a polar bear']
    assert (
        'this is a polar bear'
        in (folder / 'corpus' / 'captions.txt').read_text(encoding='utf-8').splitlines()
    )
    from vidlankd_nb.grounding import clip_frames
    from vidlankd_nb.pairs import PairSet
    from vidlankd_nb.plan import RunFolder, footage, stages_of
    from vidlankd_nb.presets import load_run

    places = RunFolder(load_run(folder / 'config.yaml'), folder)
    assert stages_of(places.run)[:4] == ['pictures', 'features', 'pairs', 'corpus']
    pair = PairSet.load(folder / 'pairs', 'train')[0]
    frames = clip_frames(footage(places), pair)
    size = Image.open(shop / pair.video).size
    assert frames.shape == (len(pair.values), size[1], size[0], 3)


def test_a_run_without_pictures_knows_nothing_of_them():
    from vidlankd_nb.config import Data, Run
    from vidlankd_nb.plan import RunFolder, setting_value, sources, stages_of

    assert 'pictures' not in stages_of(Run()) and 'motion' not in setting_value(Run(), 'features')
    both = Run(data=Data(videos='v', pictures='p', captions='c', text=['t']))
    assert 'motion' in setting_value(both, 'features')
    with pytest.raises(UserError, match='both set'):
        sources(RunFolder(both, Path('x')))
    with pytest.raises(UserError, match='data.template .*{name}'):
        Data(template='look')


# -- backbones --


def test_colours_count_by_numpy():
    frames = np.random.default_rng(3).integers(0, 256, (3, 1, 16, 12, 3), np.uint8)
    got = F.Colours()(frames).numpy()
    for frame, row in zip(frames[:, 0], got, strict=True):
        counts = np.histogramdd(frame.reshape(-1, 3), bins=[[0, 64, 128, 192, 256]] * 3)[0]
        assert np.allclose(row, np.sqrt(counts.ravel() / (16 * 12)), atol=1e-6)
    assert np.allclose((got**2).sum(1), 1) and B.load_backbone(Features(backbone='colours')).width == 64
    with pytest.raises(UserError, match="means nothing to the backbone 'colours'"):
        B.load_backbone(Features(backbone='colours', weights='x'))


@pytest.fixture
def small_vit(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / 'vit')
    return tmp_path / 'vit', model


def test_a_classifier_without_a_pooler_is_a_backbone(small_vit):
    folder, model = small_vit
    b = B.load_backbone(Features(backbone=str(folder), device='cpu'))
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3), np.uint8)
    x = (
        torch.tensor(frames[:, 0]).permute(0, 3, 1, 2) / 255 - torch.tensor(B.IMAGENET['mean']).view(3, 1, 1)
    ) / (torch.tensor(B.IMAGENET['std']).view(3, 1, 1))
    with torch.inference_mode():
        want = model.vit(x).last_hidden_state.mean(1)
    assert torch.allclose(b(frames), want, atol=1e-4) and b.width == 24
    from safetensors.torch import load_file, save_file

    state = load_file(folder / 'model.safetensors')
    save_file(
        {k: v for k, v in state.items() if 'classifier' not in k},
        folder / 'model.safetensors',
        {'format': 'pt'},
    )
    with pytest.raises(UserError, match='lacks the pooler'):
        B.load_backbone(Features(backbone=str(folder), device='cpu'))


def test_backbones_side_by_side(small_vit, tmp_path):
    folder, _ = small_vit
    b = B.load_backbone(Features(backbone=f'colours+{folder}+pixels', device='cpu'))
    assert (b.width, b.difference, b.size, b.crop, b.fps) == (64 + 24 + 384, 192, 32, 32, 1)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3), np.uint8)
    got = b.finish(np.asarray(b(frames)))
    alone = B.load_backbone(Features(backbone=str(folder), device='cpu'))(frames).numpy()
    pixels = F.Pixels()
    assert np.allclose(got[:, 64:88], alone, atol=1e-5)
    assert np.allclose(got[:, 88:], pixels.finish(np.asarray(pixels(frames))), atol=1e-5)
    twice = frames.repeat(2, 2).repeat(2, 3)  # 64 × 64, as colours see it
    assert np.allclose(got[:, :64], F.Colours()(twice), atol=1e-6)
    both = B.load_backbone(Features(backbone='colours+pixels'))
    assert both.size == (64, 64) and both.finish(np.asarray(both(twice))).shape == (2, 448)
    for name, said in (('pixels+colours', 'stands last'), ('colours+pixles', "did you mean 'pixels'")):
        with pytest.raises(UserError, match=said):
            B.load_backbone(Features(backbone=name, device='cpu'))
    film = F.Colours()
    film.name, film.window = 'film', 16
    with pytest.raises(UserError, match="look at one picture a row, and 'film' at 16"):
        B.SideBySide('colours+film', [F.Colours(), film])
    with pytest.raises(UserError, match='means nothing'):
        B.load_backbone(Features(backbone='colours+pixels', weights='random'))


def test_a_pickle_is_refused_in_a_sentence(tmp_path):
    from vidlankd_nb.networks import read_tensors

    torch.save(torch.nn.Linear(2, 2), tmp_path / 'whole.pth')
    with pytest.raises(UserError, match=r'such as torch\.nn\.modules\.linear\.Linear.*state_dict'):
        read_tensors(tmp_path / 'whole.pth')
    (tmp_path / 'x.safetensors').write_bytes(b'no tensors')
    with pytest.raises(UserError, match='cannot be read as a checkpoint'):
        read_tensors(tmp_path / 'x.safetensors')


class Small(torch.nn.Module):
    "A classifier as `timm` makes them."

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3)
        self.pretrained_cfg = {'classifier': 'head'}

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def test_classifiers_of_timm(tmp_path, monkeypatch):
    "By a stand-in of the same face: the package is optional."
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(UserError, match='pip install timm'):
        B.load_backbone(Features(backbone='timm:small', device='cpu'))
    known = dict(
        input_size=(3, 24, 24), crop_pct=0.75, interpolation='bicubic', mean=(0.5, 0, 0), std=(1, 0.5, 1)
    )
    timm = types.SimpleNamespace(
        is_model=lambda name: name == 'small',
        list_models=lambda: ['small'],
        create_model=lambda name, pretrained, num_classes: Small(),
        data=types.SimpleNamespace(resolve_model_data_config=lambda model: known),
    )
    monkeypatch.setitem(sys.modules, 'timm', timm)
    with pytest.raises(UserError, match="no model 'smal': did you mean 'small'"):
        B.load_backbone(Features(backbone='timm:smal', device='cpu'))
    weights = Small()
    state = weights.state_dict() | {'head.weight': torch.zeros(3, 5)}
    torch.save(state, tmp_path / 'w.pth')
    b = B.load_backbone(Features(backbone='timm:small', weights=str(tmp_path / 'w.pth'), device='cpu'))
    assert (b.size, b.crop, b.interpolation, b.width, b.fps) == (32, 24, 'BICUBIC', 5, 1)
    frames = np.full((1, 1, 24, 24, 3), 51, np.uint8)
    x = torch.tensor([0.2 - 0.5, 0.2 / 0.5, 0.2]).view(1, 3, 1, 1).expand(1, 3, 24, 24)
    with torch.inference_mode():
        assert torch.allclose(b(frames), weights(x), atol=1e-5)
    torch.save(state | {'odd.bias': torch.zeros(1)}, tmp_path / 'w.pth')
    with pytest.raises(
        UserError, match=r'is no small: 1 weights .* such as odd.bias.*--backbone FILE\.py:FUN'
    ):
        B.load_backbone(Features(backbone='timm:small', weights=str(tmp_path / 'w.pth'), device='cpu'))


def test_a_backbone_of_ones_own(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(
        '''
from vidlankd_nb.features import Colours

class Reds(Colours):
    name = 'reds'
    width = 16
    def __init__(self, cfg):
        super().__init__(cfg.fps)
    def __call__(self, frames):
        return super().__call__(frames)[:, 48:]

class Nothing:
    def __init__(self, cfg): pass
''',
        encoding='utf-8',
    )
    b = B.load_backbone(Features(backbone=f'{file}:Reds', fps=2))
    assert b.fps == 2 and b(np.full((1, 1, 4, 4, 3), 255, np.uint8)).tolist() == [[0] * 15 + [1]]
    with pytest.raises(UserError, match='is no backbone: it lacks name, fps'):
        B.load_backbone(Features(backbone=f'{file}:Nothing'))
    with pytest.raises(UserError, match='No backbone'):
        B.load_backbone(Features(backbone='no.such.Thing'))


def test_a_network_of_ones_own_takes_the_weights_of_its_own_code(tmp_path):
    "What is put out by Identity is left out of the file; rows are what PyTorch makes of the same pictures."
    (tmp_path / 'nets.py').write_text(
        """
import torch

def small(features):
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, bias=True), torch.nn.ReLU())
    network = torch.nn.Sequential()
    network.add_module('body', body)
    network.add_module('head', torch.nn.Identity())
    network.preprocessing = dict(size=dict(shortest_edge=12), crop_size=10, image_mean=[.5, 0, 0], image_std=[1, .5, 1])
    return network

def plain(features): return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
""",
        encoding='utf-8',
    )
    torch.manual_seed(1)
    conv = torch.nn.Conv2d(3, 5, 3)
    state = {f'body.0.{name}': x for name, x in conv.state_dict().items()}
    head = {'head.weight': torch.zeros(7, 5), 'head.bias': torch.zeros(7)}
    torch.save({'state_dict': state | head}, tmp_path / 'w.pth')
    small = Features(backbone=f'{tmp_path / "nets.py"}:small', weights=str(tmp_path / 'w.pth'), device='cpu')
    b = B.load_backbone(small)
    assert (b.size, b.crop, b.width, b.window, b.fps) == (12, 10, 5, 1, 1)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 10, 10, 3), np.uint8)
    x = torch.tensor(frames[:, 0]).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.5, 0, 0]).view(3, 1, 1)) / torch.tensor([1, 0.5, 1]).view(3, 1, 1)
    with torch.inference_mode():
        want = torch.relu(conv(x)).mean((2, 3))
    assert torch.allclose(b(frames), want, atol=1e-5)
    torch.save(state | {'odd.bias': torch.zeros(1)}, tmp_path / 'w.pth')
    with pytest.raises(UserError, match='nets.py:small: 1 weights .* such as odd.bias'):
        B.load_backbone(small)
    plain = B.load_backbone(Features(backbone=f'{tmp_path / "nets.py"}:plain', device='cpu', fps=2))
    assert (plain.size, plain.crop, plain.width, plain.fps) == (256, 224, 3, 2)
    white = np.full((1, 1, 224, 224, 3), 255, np.uint8)
    mean, std = (np.array(B.IMAGENET[name]) for name in ('mean', 'std'))
    assert np.allclose(plain(white), (1 - mean) / std, atol=1e-5)


def test_a_torchvision_for_another_pytorch_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / 'timm.py').write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')", encoding='utf-8'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'timm', raising=False)
    with pytest.raises(UserError, match='torchvision and this PyTorch do not fit .*nms.*pip install timm'):
        B.load_backbone(Features(backbone='timm:resnet18', device='cpu'))


# -- fonts --


def little_font(path, colr_version=0):
    "A square and a triangle in layers."
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def polygon(*points):
        pen = TTGlyphPen(None)
        pen.moveTo(points[0])
        for point in points[1:]:
            pen.lineTo(point)
        pen.closePath()
        return pen.glyph()

    square = polygon((0, 0), (0, 1000), (1000, 1000), (1000, 0))
    names = {0x1F34C: 'banana', 0x1F34E: 'apple', 0x31: 'one', 0x1F43C: 'panda'}
    glyphs = {'.notdef': square, 'square': square, **{n: square for n in names.values()}}
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap(names)
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics({n: (1000, 0) for n in glyphs})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable(dict(familyName='Little', styleName='Regular'))
    font.setupOS2()
    font.setupPost()
    font.setupCPAL([[(1.0, 1.0, 0.0, 1.0), (1.0, 0.0, 0.0, 1.0)]])
    layers = {'banana': [('square', 0)], 'apple': [('square', 1)], 'panda': [('square', 0)]}
    if colr_version:
        layers = {
            n: dict(Format=10, Glyph='square', Paint=dict(Format=2, PaletteIndex=0, Alpha=1.0))
            for n in layers
        }
    font.setupCOLR(layers, version=colr_version)
    font.save(path)
    return path


def test_a_font_becomes_named_pictures(tmp_path, capsys):
    font = little_font(tmp_path / 'little.ttf')
    main(['pictures', '--font', str(font), '--out', str(tmp_path / 'emoji')])
    said = capsys.readouterr().out
    assert (
        '3 pictures: 2 names' in said and '1 pictures whose names say a colour' in said and '1 (U+31)' in said
    )
    pictures = N.open_pictures(tmp_path / 'emoji')
    assert pictures.names == {
        '_named_colours/1f34e.png': ['red apple'],
        'banana/1f34c.png': ['banana'],
        'panda/1f43c.png': ['panda'],
    }
    frame = N.clip_of(pictures, 'banana/1f34c.png').frames[0]
    assert frame.shape[0] >= 120 and (frame[40:80, 40:80] == (255, 255, 0)).all()
    main(['pictures', '--font', str(font), '--out', str(tmp_path / 'emoji')])
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'mine').touch()
    with pytest.raises(SystemExit):
        main(['pictures', '--font', str(font), '--out', str(tmp_path / 'other')])
    assert 'not empty and holds no set of pictures' in capsys.readouterr().err


def test_fonts_without_pictures_that_can_be_drawn(tmp_path):
    import matplotlib

    plain = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
    with pytest.raises(UserError, match='no coloured pictures'):
        M.open_colour_font(plain)
    with pytest.raises(UserError, match='COLR version 1.*cannot draw'):
        M.open_colour_font(little_font(tmp_path / 'gradients.ttf', colr_version=1))
    (tmp_path / 'no.ttf').write_text('no font', encoding='utf-8')
    with pytest.raises(UserError, match='cannot be opened as a font'):
        M.open_colour_font(tmp_path / 'no.ttf')
    with pytest.raises(UserError, match='There is no font'):
        M.open_colour_font(tmp_path / 'nowhere.ttf')


def test_names_of_emoji():
    called = {c: M.emoji_name(c)[0] for c in '🍌🐱🐼😀🖤🍎🕘'}
    assert called == {
        '🍌': 'banana', '🐱': 'cat', '🐼': 'panda', '😀': 'grinning face', '🖤': 'black heart', '🍎': 'red apple',
        '🕘': 'clock face nine oclock',
    }  # fmt: skip
    for c in ('✂', '❤', '🇩', '🏿', '🆒', '1', '\u200d', '\U000fe4e5'):
        assert M.emoji_name(c)[0] == '' and M.emoji_name(c)[1]
    assert M.colours_in('Red-Hot grey') == {'red', 'grey'} and not M.colours_in('blackbird, greenhouse')


@pytest.mark.skipif(not NOTO.exists(), reason='Noto Color Emoji is not installed (fonts-noto-color-emoji)')
def test_the_font_that_most_systems_have(tmp_path):
    found = M.write_emoji(NOTO, tmp_path)
    assert found['pictures'] > 1000 and 30 < found['named_colours'] < 100
    banana = np.asarray(Image.open(tmp_path / 'banana' / '1f34c.png'))
    assert banana.shape == (128, 136, 4) and banana[0, 0, 3] == 0
    red, green, blue = banana[banana[..., 3] == 255][:, :3].mean(0)
    assert red > green > blue
