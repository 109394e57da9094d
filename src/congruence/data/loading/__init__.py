"""Batches: samplers, the loader that resumes at any step, and what its workers do."""
