"""What most pages import, imported once: a page's process is a fork of one that has it all (scripts/notebooks.py)."""

import gc
from importlib import import_module

gc.set_threshold(20_000)
for name in (
    'accelerate',
    'datasets',
    'fastcore.test',
    'matplotlib.backends.backend_agg',
    'matplotlib.pyplot',
    'matplotlib_inline.backend_inline',
    'nbdev.test',
    'sklearn.linear_model',
    'transformers.models.auto.modeling_auto',
    'transformers.models.auto.tokenization_auto',
    'transformers.models.bert.modeling_bert',
    'transformers.models.bert.tokenization_bert',
    'vidlankd_nb.course',
    'vidlankd_nb.evaluation.grid',
    'vidlankd_nb.experiments',
):
    import_module(name)
gc.freeze()  # all this stays: nobody looks through it for garbage
