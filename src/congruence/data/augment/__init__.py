"""Augmentation by random numbers that depend only on (seed, epoch, sample, view).

`crops` for small images as a batch, `photos` for photographs one by one, `strong` for the view of light and colour.
"""
