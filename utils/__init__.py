"""Options, files, checkpoints, optimisation, metrics, logs and pictures."""
