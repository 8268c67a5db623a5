"""Every link of the built site is followed; one that leads nowhere is a warning, and so, with `-W`, an error."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from sphinx.util import logging


class Links(HTMLParser):
    "Anchors and links of a page."

    def __init__(self):
        super().__init__()
        self.ids = set()
        self.links = []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[k] for k in ('id', 'name') if found.get(k)}
        self.links += [
            found[k] for k in ('href', 'src') if found.get(k) and not re.match(r'[a-z]+:|//', found[k])
        ]


def read(page: Path) -> Links:
    "What stands on a page."
    found = Links()
    found.feed(page.read_text(encoding='utf-8'))
    return found


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
