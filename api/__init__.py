"""The gateway: HTTP in, Redis out. It never loads a model."""
