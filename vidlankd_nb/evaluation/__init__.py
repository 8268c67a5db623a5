"""Benchmarks, probes, fine-tuning and results."""
from vidlankd_nb.evaluation import squad   # makes itself known to `benchmarks`
