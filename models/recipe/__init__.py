"""The recipe of `models/baton-toy`: text generators, a tokenizer, a training loop.

Knows nothing about the service: it imports none of its packages.
"""
