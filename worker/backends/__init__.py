"""What turns a job into a token stream, one backend a file."""
