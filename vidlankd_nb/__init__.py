"""Video-language knowledge distillation: teachers, students, and what they know."""
# Written by hand; the modules beside it are exported from notebooks.
__version__ = "0.2.0"

from typing import TYPE_CHECKING

__all__ = [
    'Experiment', 'FeatureStore', 'Grid', 'Grounding', 'Objective', 'PairSet', 'Run', 'StudentTask', 'TeacherTask',
    'UserError', 'VideoTeacher', '__version__', 'build_corpus', 'evaluate', 'extract_folder', 'generate', 'load_run',
    'load_tokenizer', 'make_objective', 'make_pairs', 'make_teacher', 'make_vokens', 'probe', 'train',
]

if TYPE_CHECKING:   # what an editor and a type checker read
    from .config import Run
    from .corpus import build_corpus
    from .evaluation.grid import Grid, evaluate
    from .evaluation.probes import probe
    from .experiments import Experiment
    from .extraction import extract_folder
    from .files import UserError
    from .filming import generate
    from .grounding import Grounding
    from .matching import Objective
    from .objectives import make_objective
    from .pairs import PairSet, make_pairs
    from .presets import load_run
    from .store import FeatureStore
    from .student import StudentTask
    from .teacher import TeacherTask, VideoTeacher, make_teacher
    from .tokenizer import load_tokenizer
    from .training import train
    from .vokenization import make_vokens
else:   # what Python does: a name comes from its module when it is first asked for, so that this import is quick
    from importlib import import_module

    _NAMES = {
        'config': ('Run',),
        'corpus': ('build_corpus',),
        'evaluation.grid': ('Grid', 'evaluate'),
        'evaluation.probes': ('probe',),
        'experiments': ('Experiment',),
        'extraction': ('extract_folder',),
        'files': ('UserError',),
        'filming': ('generate',),
        'grounding': ('Grounding',),
        'matching': ('Objective',),
        'objectives': ('make_objective',),
        'pairs': ('PairSet', 'make_pairs'),
        'presets': ('load_run',),
        'store': ('FeatureStore',),
        'student': ('StudentTask',),
        'teacher': ('TeacherTask', 'VideoTeacher', 'make_teacher'),
        'tokenizer': ('load_tokenizer',),
        'training': ('train',),
        'vokenization': ('make_vokens',),
    }
    _HOMES = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str):
        "A public name from its module; raises `AttributeError` on any other name."
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f'{__name__}.{_HOMES[name]}'), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        "Every name of the module, imported or not."
        return sorted({*globals(), *__all__})
