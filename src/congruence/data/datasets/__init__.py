"""Datasets: `images` says what every one can do, `arrays` and `files` are the two kinds of them.

`split` chooses samples by a seed, `facts` says what methods may ask, `indexed` adds positions, `decode` opens files.
"""
