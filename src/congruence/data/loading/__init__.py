"""Batches: samplers, the loader that resumes at any step, and its workers."""
