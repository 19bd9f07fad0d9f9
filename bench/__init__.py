"""Side-by-side benchmarks; `make bench` runs them and writes `bench/RESULTS.md`."""
