"""Jinja templates of strangers, rendered within bounds on time, memory and output.

`environment` compiles a template so that each of its steps is counted, `builtins` is what it may
call, `budget` is what a rendering may use. Knows nothing about chats.
"""
