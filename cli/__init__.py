"""The `baton` command: starts, supervises and inspects the service."""
