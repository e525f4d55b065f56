"""Programs that the benchmarks start as separate processes; each prints one JSON value."""
