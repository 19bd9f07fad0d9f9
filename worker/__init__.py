"""The worker: claims jobs, runs the engine, writes tokens and results back."""
