"""Function calling: what a model is told of its functions, and how its calls are read.

`definitions` checks `tools` and `tool_choice`, `families` knows how models write calls, `parser`
reads them out of a growing text, `forcing` makes the grammar that forces one, `system_text` is for
models whose template knows nothing of functions. A pure library: no model, no queue, no HTTP.
"""
