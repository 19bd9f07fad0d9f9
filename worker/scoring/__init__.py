"""Scorers: networks that tell how well each of some models would answer a prompt."""
