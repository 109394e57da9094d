"""Datasets: `images` is the base class of image datasets, `arrays` and `files` are its two kinds.

`split` chooses samples by a seed, `facts` gives facts that methods need, `indexed` adds positions, `decode` opens
files.
"""
