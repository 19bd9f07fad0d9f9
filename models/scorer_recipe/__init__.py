"""The recipe of the scorer that ships with Baton: ratings that are made up.

Knows nothing about the service: it imports none of its packages.
"""
