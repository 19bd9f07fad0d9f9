"""OpenAI's responses: what is asked, what is kept of it with the job, and how it is answered.

`request` and `conversation` read the body, `reply` is what the job's record keeps of it, `output`
makes items of a text, `view` the response's body, `events` numbers what a stream tells, `stream`
follows the job, `serving` answers a client that waits.
"""
