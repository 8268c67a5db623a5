"""Benchmarks, probes, fine-tuning and results."""
