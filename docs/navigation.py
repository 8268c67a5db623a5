"""The tree of pages beside source code and indexes: they stand nowhere in it, so it is drawn once for a folder of them."""

from posixpath import dirname


def setup(app):
    drawn = {}

    def share(app, page: str, template: str, context: dict, doctree):
        "Give a page that nobody wrote the tree of the first one in its folder."
        if doctree is not None or 'toctree' not in context:
            return
        tree = context['toctree']

        def shared(**options):
            key = (dirname(page), *sorted(options.items()))
            if key not in drawn:
                drawn[key] = tree(**options)
            return drawn[key]

        context['toctree'] = shared

    app.connect('html-page-context', share, priority=400)  # before the theme's own
    return {'parallel_read_safe': True}
