"""Files, processes, logs and events: what every other room may use, and what depends on none."""
