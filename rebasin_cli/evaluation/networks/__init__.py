"""The networks that checkpoints are run with, as pure functions built from a spec's name and shapes."""
