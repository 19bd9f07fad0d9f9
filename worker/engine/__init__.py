"""The engine: a plain library that turns token ids into token ids, many requests at once.

It knows nothing of queues, jobs, HTTP or settings. `engine.Engine` is the one
class that a caller drives; `sequence` holds what goes in and what comes out.
"""
