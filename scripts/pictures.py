"""README's two pictures, drawn from the figures under benchmarks/ whenever these, this file or what draws them have changed."""

import hashlib
import inspect
import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from vidlankd_nb.comparison import plot_cells
from vidlankd_nb.word_report import colours_figure

root = Path(__file__).parent.parent
MARK = 'Figures'  # of the PNG's text: what the picture was drawn from
SHOWN = (
    'text_only',
    'l2',
    'nst',
    'infonce',
    'crd',
    'caption_teacher',
    'shuffled_videos',
    'captions_as_text',
    'teacher',
)


def properties(report: dict) -> Figure:
    "What students, controls and the teacher know of the toy world's nouns."
    shown = [c for c in report['cells'] if c['name'] in SHOWN]
    shown.sort(key=lambda c: SHOWN.index(c['name']))
    return plot_cells(report | {'cells': shown}).figure


def words(report: dict) -> Figure:
    "Which colours of real nouns two students name as people do."
    return colours_figure(report, 'l2')


PICTURES = {
    'properties.png': (properties, plot_cells, 'ablation/report.json'),
    'words.png': (words, colours_figure, 'words.json'),
}


def drawn_from(name: str) -> str:
    "A digest of a picture's figures, of what draws them, and of this file."
    _, plot, figures = PICTURES[name]
    sources = (
        (root / 'benchmarks' / figures).read_bytes(),
        inspect.getsource(plot).encode(),
        Path(__file__).read_bytes(),
    )
    return hashlib.sha256(b''.join(sources)).hexdigest()


def outdated() -> list[str]:
    "Pictures that were drawn from something else."
    found = []
    for name in PICTURES:
        with Image.open(root / 'nbs' / 'images' / name) as picture:
            if picture.info.get(MARK) != drawn_from(name):
                found.append(name)
    return found


if __name__ == '__main__':
    matplotlib.use('Agg')
    for name in outdated():
        draw, _, figures = PICTURES[name]
        report = json.loads((root / 'benchmarks' / figures).read_text(encoding='utf-8'))
        file = root / 'nbs' / 'images' / name
        draw(report).savefig(file, dpi=130, metadata={MARK: drawn_from(name)})
        print(f'drawn: {file.relative_to(root)}')
