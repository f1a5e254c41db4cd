"""Beam: media in, datasets out. `python -m pipelines --help`."""
