"""Every link of the built site is followed; one that leads nowhere is a warning, and so, with `-W`, an error."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from lxml import html
from sphinx.util import logging


class Links(NamedTuple):
    "Anchors and links of a page."

    ids: set[str]
    links: list[str]


def read(page: Path) -> Links:
    "What stands on a page."
    root = html.parse(str(page), html.HTMLParser(encoding='utf-8')).getroot()
    ids = set(root.xpath('//@id | //@name'))
    links = [to for to in root.xpath('//@href | //@src') if to and not re.match(r'[a-z]+:|//', to)]
    return Links(ids, links)


def lost(folder: Path) -> list[str]:
    "Links of a site's pages that lead nowhere."
    pages = {p: read(p) for p in sorted(folder.rglob('*.html'))}
    out = []
    for page, found in pages.items():
        for link in found.links:
            address, _, anchor = unquote(link).partition('#')
            name = address.partition('?')[0]
            to = Path(os.path.normpath(page.parent / name)) if name else page
            if not to.is_file() or anchor and anchor not in pages[to].ids:
                out.append(f'{page.relative_to(folder)}: {link}')
    return out


def follow(app, failure):
    "Warn of each link that leads nowhere."
    if failure or app.builder.format != 'html':
        return
    for link in lost(Path(app.outdir)):
        logging.getLogger(__name__).warning('a link leads nowhere – %s', link)


def setup(app):
    app.connect('build-finished', follow)
    return {'parallel_read_safe': True}
