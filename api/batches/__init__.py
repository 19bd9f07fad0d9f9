"""`/v1/batches`: files of requests, answered in their own time."""
