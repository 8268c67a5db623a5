"""The tree of pages beside every page: drawn once for a folder, and then marked where its reader is."""

import re
from posixpath import dirname, join


def unmarked(tree: str, address: str) -> str:
    "The tree of the page at `address` as a page sees it that stands nowhere in it."
    tree = tree.replace('<ul class="current">', '<ul>')
    tree = re.sub(r'<li class="(toctree-l\d) current">', r'<li class="\1">', tree)
    here = '<a class="current reference internal" href="#">'
    return tree.replace(here, f'<a class="reference internal" href="{address}">')


def marked(tree: str, address: str, is_here: bool) -> str:
    "The tree with a mark at the page at `address`, where the reader is, or under which that page stands."

    def mark(entry: re.Match) -> str:
        level, more, title, box = entry.groups(default='')
        classes = f'{level} current{more}{" current-page" if is_here else ""}'
        link = f'"reference internal" href="{address}"'
        if is_here:
            link = '"current reference internal" href="#"'
        unfolded = box and f'{box}checked="" '
        return f'<li class="{classes}"><a class={link}>{title}</a>{unfolded}'

    entry = (
        r'<li class="(toctree-l\d)( has-children)?">'
        rf'<a class="reference internal" href="{re.escape(address)}">(.*?)</a>(<input )?'
    )
    return re.sub(entry, mark, tree)


def setup(app):
    drawn = {}

    def address(page: str, other: str) -> str:
        "Of another page, from any page in the folder of this one."
        return app.builder.get_relative_uri(join(dirname(page), 'any'), other)

    def share(app, page: str, template: str, context: dict, doctree):
        "Give every page of a folder the tree of the first one, without its marks."
        if 'toctree' not in context:
            return
        tree = context['toctree']

        def shared(**options):
            key = (dirname(page), *sorted(options.items()))
            if key not in drawn:
                drawn[key] = unmarked(tree(**options), address(page, page))
            return drawn[key]

        context['toctree'] = shared

    def show_where(app, page: str, template: str, context: dict, doctree):
        "Mark the page, and those under which it stands."
        tree = context.get('furo_navigation_tree')
        if not tree or doctree is None:
            return
        above = {child: parent for parent, below in app.env.toctree_includes.items() for child in below}
        tree = marked(tree, address(page, page), is_here=True)
        parent = above.get(page)
        while parent:
            tree = marked(tree, address(page, parent), is_here=False)
            parent = above.get(parent)
        context['furo_navigation_tree'] = tree

    app.connect('html-page-context', share, priority=400)  # before the theme's own
    app.connect('html-page-context', show_where, priority=600)  # after it
    return {'parallel_read_safe': True}
