"""Files, processes, logs and events: what every other part may use, and what knows of none."""
