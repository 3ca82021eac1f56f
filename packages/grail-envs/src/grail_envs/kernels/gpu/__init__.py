"""Kernels timed on GPUs, for whoever trains or ranks on one machine: a report beside the grade, and never a part of it."""
