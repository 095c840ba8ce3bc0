"""`python -m utils.report logs/NAME`: a page about a training run."""
