"""Augmentation by draws that are a function of (seed, epoch, sample, view) and of nothing else.

`crops` for small images as a batch, `photos` for photographs one by one, `strong` for the view of light and colour.
"""
