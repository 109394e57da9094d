"""Floor 13: the command line, one file for each verb; the only place that prints."""
