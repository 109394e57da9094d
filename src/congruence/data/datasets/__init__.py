"""Images as arrays or in files, their labels, and what methods may ask of a dataset."""
