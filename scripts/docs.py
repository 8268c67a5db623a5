"""The course as a site, made offline without Quarto: pages with their API, formulas, source and a search, in _site/; then every link is followed.

nbdev prepares the pages as it does for Quarto; only `show_doc` is asked here of the exported module, not of cells run again."""
import html
import importlib
import inspect
import json
import os
import re
import shutil
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import yaml
from fastcore.nbio import read_nb
from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.showdoc import show_doc
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

root = Path(__file__).parent.parent
site = root/'_site'


@cache
def contents() -> list[tuple[str, list[str]]]:
    "Sections of the course and their notebooks, from the sidebar that Quarto reads too."
    rows = yaml.safe_load((root/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    return [(r['section'], r['contents']) if 'section' in r else ('', [r['href']]) for r in rows]


def target(notebook: str) -> str:
    "Address of a notebook's page, as nbdev names it: 05_teacher.ipynb → teacher.html."
    p = Path(notebook)
    return p.with_name(re.sub(r'^\d+[a-z]?_', '', p.stem) + '.html').as_posix()


def slug(text: str) -> str:
    "A heading's anchor, as Pandoc makes it."
    text = re.sub(r'[^\w\s.-]', '', html.unescape(re.sub(r'<[^>]+>', '', text)).lower())
    return re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', text.strip())) or 'section'


def formula(latex: str, display: str) -> str:
    "MathML, which browsers draw by themselves."
    latex = re.sub(r'\\(?:operatorname\*?\{arg\\,|arg\\)(max|min)\}?', r'\\text{arg \1}', latex).replace(r'\operatorname*', r'\operatorname')
    return convert(re.sub(r'\\[lr]Vert', r'\|', latex), display=display)


def markdown(text: str) -> str: return MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(text)

IPythonRenderer.inline_math = lambda self, body: formula(body, 'inline')
IPythonRenderer.block_math = lambda self, body: formula(body, 'block')


def links(text: str, up: str) -> str:
    "API and notebooks as relative addresses."
    text = re.sub(r'\]\(/(?=[\w/]+\.html)', f']({up}', text)
    return re.sub(r'\]\(((?:\.\./)*[\w/]+\.ipynb)', lambda m: f']({target(m[1])}', text)


def reference(name: str, names: dict, up: str) -> str:
    "What `show_doc` says of a name, with a link to its source."
    thing = eval(name, names)
    text = re.sub(r'\[source\]\(.*\n', '', NbdevLookup().linkify(show_doc(thing)._repr_markdown_()))
    try: file, line = inspect.getsourcefile(inspect.unwrap(thing)), inspect.getsourcelines(inspect.unwrap(thing))[1]
    except TypeError: return markdown(links(text, up))
    here = Path(file).relative_to(root).with_suffix('.html').as_posix()
    return f'<a class="source" href="{up}source/{here}#L{line}">source</a>' + markdown(links(text, up))


def read(page: str):
    "A notebook as nbdev prepares it for its site, and the namespace of the module it exports."
    nb = read_nb(root/'nbs'/page)
    module = next((m[1] for c in nb.cells if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', c.source, re.M))), None)
    NBProcessor(nb=nb, procs=[p for p in FilterDefaults().procs() if p is not exec_show_docs], rm_directives='quarto').process()
    return nb, vars(importlib.import_module(f'vidlankd_nb.{module}')) if module else {}


def output(o) -> str:
    data = o.get('data', {})
    if 'image/png' in data: return f'<img alt="picture" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if 'text/html' in data: return ''.join(data['text/html'])
    if 'text/markdown' in data: return markdown(''.join(data['text/markdown']))
    return f'<pre>{html.escape("".join(o.get("text") or data.get("text/plain") or ""))}</pre>'


def body(page: str) -> tuple[str, str, str]:
    "Title, description and HTML of a page, its headings with anchors."
    (nb, names), up, out, seen = read(page), '../' * page.count('/'), [], {}
    head = yaml.safe_load(nb.cells[0].source.strip().strip('-'))
    for c in nb.cells:
        if c.cell_type == 'markdown': out.append(markdown(links(c.source, up)))
        elif c.cell_type == 'code' and (m := re.search(r'^show_doc\((.+)\)', c.source, re.M)): out.append(reference(m[1], names, up))
        elif c.cell_type == 'code' and (source := re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()): out += [highlight(source, PythonLexer(), HtmlFormatter()), *(output(o) for o in c.outputs)]
    def heading(m):
        s = slug(m[2]); seen[s] = seen.get(s, 0) + 1
        return f'<h{m[1]} id="{s}{f"-{seen[s] - 1}" if seen[s] > 1 else ""}">{m[2]}</h{m[1]}>'
    return head['title'], head['description'], re.sub(r'<h(\d)[^>]*>(.*?)</h\1>', heading, '\n'.join(out), flags=re.S)


CSS = """:root{--ink:#1c1c1c;--paper:#fff;--soft:#f4f5f6;--line:#d8dadd;--link:#0072B2}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#17191c;--soft:#22252a;--line:#3a3e45;--link:#56B4E9} img{background:#fff} .highlight{background:#f4f5f6;color:#111}}
*{box-sizing:border-box} body{margin:0;color:var(--ink);background:var(--paper);font:17px/1.6 system-ui,sans-serif} a{color:var(--link);text-decoration:none} a:hover{text-decoration:underline}
nav{position:fixed;inset:0 auto 0 0;width:270px;overflow:auto;padding:20px;background:var(--soft);border-right:1px solid var(--line);font-size:15px} nav ul{list-style:none;padding-left:12px;margin:2px 0} nav .here{font-weight:700}
nav input{width:100%;padding:7px;font:inherit;border:1px solid var(--line);border-radius:5px;background:var(--paper);color:inherit} #found p{margin:6px 0;line-height:1.3}
main{margin-left:270px;padding:24px 40px;max-width:1040px} h1,h2,h3{line-height:1.25} h2{margin-top:2em;border-bottom:1px solid var(--line)} h3{clear:both}
pre{margin:0;padding:11px 14px;overflow:auto;font:14px/1.45 ui-monospace,monospace} .highlight{background:var(--soft);border-radius:6px;margin:10px 0} :not(pre)>code{background:var(--soft);padding:1px 4px;border-radius:3px;font-size:.9em}
table{border-collapse:collapse;display:block;overflow:auto;font-size:15px} td,th{padding:5px 11px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top} img{max-width:100%} blockquote{margin:0;font-size:1.15em;opacity:.8} .source{float:right;font-size:14px} details{margin:12px 0} math[display=block]{margin:14px 0;overflow-x:auto}
@media(max-width:860px){nav{position:static;width:auto;border:0} main{margin:0;padding:16px}}
@media(prefers-color-scheme:light){""" + HtmlFormatter().get_style_defs('.highlight').replace('pre { line-height: 125%; }', '') + '}'

SEARCH = """const field = document.getElementById('search'), found = document.getElementById('found'), up = document.body.dataset.up;
field.oninput = () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const score = p => { let s = 0; for (const w of words) { const t = p[1].toLowerCase().includes(w), x = p[2].includes(w); if (!t && !x) return 0; s += t ? 10 : 1; } return s; };
  const hits = words.length ? INDEX.map(p => [score(p), p]).filter(h => h[0]).sort((a, b) => b[0] - a[0]).slice(0, 14) : [];
  found.replaceChildren(...hits.map(([_, p]) => { const e = document.createElement('p'), a = document.createElement('a'); a.href = up + p[0]; a.textContent = p[1]; e.append(a); return e; }));
  if (words.length && !hits.length) found.textContent = 'Nothing found.';
};"""


def frame(title: str, inside: str, here: str, titles: dict) -> str:
    "A whole page: navigation, search and what is inside."
    up = '../' * here.count('/')
    nav = ''.join((f'<b>{s}</b>' if s else '') + '<ul>' + ''.join(f'<li{" class=here" if target(p) == here else ""}><a href="{up}{target(p)}">{html.escape(titles[p])}</a></li>' for p in ps) + '</ul>' for s, ps in contents())
    return f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)} – vidlankd_nb</title><link rel="stylesheet" href="{up}course.css"></head><body data-up="{up}"><nav><input id="search" type="search" placeholder="Search" aria-label="Search"><div id="found"></div>{nav}</nav><main>{inside}</main><script src="{up}index.js"></script><script src="{up}search.js"></script></body></html>'


def entries(here: str, title: str, text: str) -> list:
    "What the search knows of a page: address, title and words of each piece between headings."
    plain = lambda t: re.sub(r'\s+', ' ', html.unescape(re.sub(r'<[^>]+>', ' ', re.sub(r'<math.*?</math>', ' ', t, flags=re.S)))).strip()
    pieces = re.split(r'(<h[23] id="[^"]+">.*?</h[23]>)', text, flags=re.S)
    rows = [[here, title, plain(pieces[0]).lower()[:600]]]
    for h, after in zip(pieces[1::2], pieces[2::2]): rows.append([f'{here}#{re.search(chr(34) + "(.*?)" + chr(34), h)[1]}', f'{plain(h)} · {title}', plain(after).lower()[:600]])
    return rows


class Links(HTMLParser):
    "Anchors and links of a page."
    def __init__(self):
        super().__init__(); self.ids, self.links = set(), []
    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        self.links += [a[k] for k in ('href', 'src') if a.get(k) and not re.match(r'[a-z]+:', a[k])]


def lost(folder: Path) -> list[str]:
    "Links of a site's pages that lead nowhere."
    read = {}
    for p in folder.rglob('*.html'): read[p] = Links(); read[p].feed(p.read_text(encoding='utf-8'))
    out = []
    for p, found in read.items():
        for link in found.links:
            name, _, anchor = link.partition('#')
            to = Path(os.path.normpath(p.parent/name)) if name else p
            if not to.is_file() or anchor and anchor not in read[to].ids: out.append(f'{p.relative_to(folder)}: {link}')
    return out


def build():
    shutil.rmtree(site, ignore_errors=True); site.mkdir()
    shutil.copytree(root/'nbs'/'images', site/'images')
    (site/'course.css').write_text(CSS, encoding='utf-8'); (site/'search.js').write_text(SEARCH, encoding='utf-8')
    pages, index = {p: body(p) for _, ps in contents() for p in ps}, []
    titles = {p: t for p, (t, _, _) in pages.items()}
    for p, (title, description, text) in pages.items():
        here = target(p); (site/here).parent.mkdir(exist_ok=True)
        (site/here).write_text(frame(title, f'<h1>{html.escape(title)}</h1><blockquote>{html.escape(description)}</blockquote>{text}', here, titles), encoding='utf-8')
        index += entries(here, title, text)
    (site/'index.js').write_text('const INDEX = ' + json.dumps(index, ensure_ascii=False) + ';', encoding='utf-8')
    for f in (root/'vidlankd_nb').rglob('*.py'):
        here = Path('source')/f.relative_to(root).with_suffix('.html'); (site/here).parent.mkdir(parents=True, exist_ok=True)
        code = highlight(f.read_text(encoding='utf-8'), PythonLexer(), HtmlFormatter(lineanchors='L', anchorlinenos=False))
        (site/here).write_text(frame(f.name, re.sub(r'(?<=["#])L-(\d+)(?=")', r'L\1', code), here.as_posix(), titles), encoding='utf-8')
    return len(pages), len(index)


if __name__ == '__main__':
    pages, index = build()
    if gone := lost(site): sys.exit('Links that lead nowhere:\n' + '\n'.join(gone))
    print(f'{pages} pages, {index} places that the search knows, every link followed: {site.relative_to(root)}/index.html')
