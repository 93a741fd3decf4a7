"""Benchmarks: what the product costs in CPU, memory and time, beside peers that run at the same moment."""
