"""nbs/images/architecture.svg: teacher and student, drawn once; index, the ten-minute tutorial and their own pages show it."""

from html import escape
from pathlib import Path

INK, BLUE, PALE, LOSS, GONE, PAPER = '#1a1a1a', '#0072B2', '#DBE9F4', '#F7CF85', '#D55E00', '#F6F6F4'
out = []


def text(x, y, words, size=15, anchor='middle', fill=INK, weight=400, style='normal'):
    out.append(
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}" font-style="{style}">{escape(words)}</text>'
    )


def box(x, y, w, h, *lines, kind='data', gone=False, size=15):
    "A box round its middle; `kind` is its fill, and a dashed frame says that it is thrown away in the end."
    fill, ink = {
        'trained': (BLUE, '#fff'),
        'frozen': (PALE, INK),
        'loss': (LOSS, INK),
        'data': ('#fff', INK),
    }[kind]
    edge = (
        f'stroke="{GONE}" stroke-width="3.5" stroke-dasharray="8 5"'
        if gone
        else f'stroke="{BLUE if kind in ("trained", "frozen") else "#777"}" stroke-width="1.5"'
    )
    out.append(
        f'<rect x="{x - w / 2:g}" y="{y - h / 2:g}" width="{w}" height="{h}" rx="{h / 2 if kind == "loss" else 7:g}" fill="{fill}" {edge}/>'
    )
    for i, line in enumerate(lines):
        text(
            x,
            y + 5.5 + 19 * (i - (len(lines) - 1) / 2),
            line,
            size if i == 0 else size - 2,
            fill=ink,
            weight=600 if i == 0 and kind in ('trained', 'frozen') else 400,
        )


def arrow(*points, dashed=False):
    out.append(
        f'<polyline points="{" ".join(f"{x:g},{y:g}" for x, y in points)}" fill="none" stroke="#444" stroke-width="2" marker-end="url(#tip)"{" stroke-dasharray=" + chr(34) + "2 4" + chr(34) if dashed else ""}/>'
    )


def states(x, y, n=5):
    "Token states: a column of numbers for each token."
    for i in range(n):
        for j in range(3):
            out.append(
                f'<rect x="{x + 21 * (i - (n - 1) / 2) - 7:g}" y="{y + 9 * (j - 1.5):g}" width="14" height="8" fill="#009E73" fill-opacity="{(0.35, 0.6, 0.9, 0.5, 0.75)[(2 * i + j) % 5]}" stroke="#00614a" stroke-width=".7"/>'
            )


def film(x, y):
    "Four frames of a clip: a box that glows, then jumps."
    out.append(f'<rect x="{x - 88}" y="{y - 29}" width="176" height="58" rx="4" fill="#333"/>')
    for k in range(11):
        for edge in (-26, 21):
            out.append(
                f'<rect x="{x - 84 + 16 * k}" y="{y + edge}" width="7" height="5" rx="1" fill="#eee"/>'
            )
    for k, (up, glow) in enumerate(((0, 0), (0, 1), (0, 0), (9, 0))):
        left = x - 84 + 43 * k
        out.append(f'<rect x="{left}" y="{y - 18}" width="39" height="36" fill="#e9e9e9"/>')
        if glow:
            out.append(f'<circle cx="{left + 19.5}" cy="{y + 7}" r="14" fill="#F0E442"/>')
        out.append(
            f'<rect x="{left + 12}" y="{y - up}" width="15" height="15" fill="#009E73" stroke="#00513b"/>'
        )


for x, w, title in (
    (14, 392, '1. The teacher learns language with video'),
    (422, 564, '2. The student reads text, and hears from the teacher'),
):
    out.append(f'<rect x="{x}" y="14" width="{w}" height="532" rx="10" fill="{PAPER}" stroke="#ccc"/>')
    text(x + 16, 43, title, 18, 'start', weight=700)

# 1: the teacher
film(112, 486)
text(112, 535, 'a clip', 13, style='italic')
box(296, 486, 160, 46, 'the [MASK] glows', size=15)
text(296, 535, 'what is said in it', 13, style='italic')
arrow((112, 456), (112, 431))
box(112, 408, 176, 44, 'features of its frames', 'extracted once, frozen', kind='frozen', size=14)
arrow((112, 385), (112, 356))
box(112, 326, 176, 58, 'video encoder', 'trained', kind='trained', gone=True)
arrow((296, 462), (296, 357))
box(296, 326, 160, 58, 'text encoder', 'trained', kind='trained')
arrow((112, 295), (112, 262))
states(112, 244, 1)
text(128, 249, 'clip vector', 13, 'start')
arrow((296, 295), (296, 262))
states(296, 244)
text(352, 249, 'states', 13, 'start')
arrow((112, 226), (112, 194))
arrow((254, 226), (254, 193))
arrow((325, 226), (325, 123))
box(168, 170, 250, 46, 'contrast', 'each word near its own clip', kind='loss')
box(296, 98, 180, 46, 'masked words', 'what stood there?', kind='loss')

# 2: the student
box(708, 486, 506, 46, 'a girl bought the [MASK]', size=15)
text(708, 535, 'ordinary text, the same for both; nobody watches a video now', 13, style='italic')
arrow((548, 462), (548, 357))
arrow((868, 462), (868, 357))
box(548, 326, 186, 58, "teacher's text encoder", 'frozen', kind='frozen', gone=True)
box(868, 326, 186, 58, 'student', 'trained', kind='trained')
arrow((378, 326), (451, 326))
text(414, 316, 'same', 13)
text(414, 345, 'weights', 13)
arrow((548, 295), (548, 262))
states(548, 244)
arrow((868, 295), (868, 262))
states(868, 244)
arrow((826, 226), (826, 200))
arrow((910, 226), (910, 123))
box(801, 176, 160, 46, 'distillation head', 'trained', kind='trained', gone=True)
arrow((548, 226), (548, 123))
arrow((757, 152), (757, 98), (717, 98))
box(584, 98, 260, 46, 'objective', 'soft label · L2 · NST · CRD …', kind='loss')
for i, line in enumerate(('what is handed over:', 'a state for each token,', 'or a score for every word')):
    text(560, 160 + 18 * i, line, 13, 'start', style='italic')
box(882, 98, 180, 46, 'masked words', 'what stood there?', kind='loss')

# 3: what stays, and the key
out.append(f'<rect x="14" y="558" width="972" height="68" rx="10" fill="{PAPER}" stroke="#ccc"/>')
text(30, 598, '3. What stays', 18, 'start', weight=700)
box(272, 592, 220, 48, 'student', 'a plain Hugging Face model', kind='trained')
for x, kind, gone, words in (
    (412, 'trained', False, 'trained'),
    (502, 'frozen', False, 'frozen'),
    (588, 'loss', False, 'loss'),
    (662, 'data', True, 'thrown away afterwards'),
):
    box(x + 14, 592, 28, 20, kind=kind, gone=gone)
    text(x + 35, 597, words, 13, 'start')
states(866, 593, 1)
text(880, 597, 'a state', 13, 'start')

svg = (
    '''<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 640" width="1000" height="640" role="img" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif">
<title>Teacher and student</title>
<desc>First a teacher is trained: a text encoder and a video encoder, by masked words and by a contrast that puts each word near its own clip. Then its text encoder, frozen, reads the same text as the student; an objective pulls the student's states, through a distillation head, towards the teacher's. Video encoder, teacher and head are thrown away; the student, a plain Hugging Face model, stays.</desc>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>
<rect width="1000" height="640" rx="14" fill="#fff"/>
'''
    + '\n'.join(out)
    + '\n</svg>\n'
)

if __name__ == '__main__':
    (Path(__file__).parent.parent / 'nbs' / 'images' / 'architecture.svg').write_text(svg, encoding='utf-8')
