"""The API's pages: one a module, in the course's order; comments behind parameters become lists, and names in prose become links."""

import re
from functools import cache
from pathlib import Path

import house
from docutils import nodes
from fastcore.docments import docments
from sphinx.transforms.post_transforms import SphinxPostTransform

HEAD = """API
===

Every public name, a page for each module, in the order of the course.

.. autosummary::
   :toctree:

"""


@cache
def modules() -> dict[str, str]:
    "Page of the course -> page of the API of what it exports."
    return {
        page.removesuffix('.ipynb'): f'api/vidlankd_nb.{module}' for module, page in house.notebooks().items()
    }


def write_index(app):
    "The page from which autosummary makes a page for each module; those of modules that are gone are taken away."
    folder = Path(app.srcdir) / 'api'
    folder.mkdir(exist_ok=True)
    names = [page.removeprefix('api/') for page in modules().values()]
    index = HEAD + ''.join(f'   {name}\n' for name in names)
    page = folder / 'index.rst'
    if not page.exists() or page.read_text(encoding='utf-8') != index:
        page.write_text(index, encoding='utf-8')
    for old in folder.glob('vidlankd_nb.*.rst'):
        if old.stem not in names:
            old.unlink()


CODE = re.compile(r'(?<![`:])`(?!`)\s*([^`]+?)\s*`(?!`)')


def with_code(text: str) -> str:
    "Markdown's `code` as reStructuredText has it, whatever stands beside it."
    return CODE.sub(r'\\ ``\1``\\ ', text)


def as_rst(text: str) -> str:
    "A sentence in Markdown as reStructuredText: code is code, and nothing else is markup."
    pieces = re.split(r'(`[^`]+`)', text)
    plain = [re.sub(r'([\\*_|])', r'\\\1', p) for p in pieces[::2]]
    pieces[::2] = plain
    return with_code(''.join(pieces))


def comments(thing) -> dict[str, str]:
    "What stands behind the parameters of a function or the fields of a dataclass."
    try:
        found = docments(thing, full=True)
    except (TypeError, OSError):
        return {}
    return {name: as_rst(' '.join(about.docment.split())) for name, about in found.items() if about.docment}


def skip_data(app, what, name, thing, skip, options) -> bool | None:
    "A class's fields stand in its list of parameters already."
    plain = not callable(thing) and not hasattr(thing, '__get__')
    return True if what == 'class' and plain else None


def list_parameters(app, what, name, thing, options, lines):
    "Docstrings are written in Markdown; comments behind parameters (docments) become a list under them."
    if lines:
        lines[0] = as_rst(lines[0])
    lines[1:] = [with_code(line) for line in lines[1:]]
    if what not in ('function', 'method', 'class'):
        return
    fields = []
    for parameter, comment in comments(thing).items():
        field = 'returns' if parameter == 'return' else f'param {parameter}'
        fields.append(f':{field}: {comment}')
    if fields:
        lines += ['', *fields, '']


class LinkNames(SphinxPostTransform):
    "A public name in code font leads to its entry in the API."

    default_priority = 400

    def run(self, **kwargs):
        known = {}
        for name, entry in self.env.get_domain('py').objects.items():
            if entry.objtype not in ('function', 'class', 'exception'):
                continue
            known.setdefault(name.rpartition('.')[2], []).append(entry)
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, nodes.reference):
                continue
            name = literal.astext()
            places = known.get(name.removesuffix('()'), [])
            here = [p for p in places if p.docname in (self.env.docname, modules().get(self.env.docname))]
            if here:
                places = here
            elif name.isalpha() and name.islower():
                continue  # a plain word may mean anything
            if len(places) == 1:
                literal.replace_self(self.link(places[0], literal))

    def link(self, place, literal):
        "Code that leads to its entry."
        page = self.app.builder.get_relative_uri(self.env.docname, place.docname)
        return nodes.reference('', '', literal.deepcopy(), internal=True, refuri=f'{page}#{place.node_id}')


def setup(app):
    app.connect('builder-inited', write_index, priority=100)
    app.connect('autodoc-skip-member', skip_data)
    app.connect('autodoc-process-docstring', list_parameters, priority=400)
    app.add_post_transform(LinkNames)
    return {'parallel_read_safe': True}
