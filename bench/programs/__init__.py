"""What the benchmarks start as processes of their own; each prints one JSON value."""
