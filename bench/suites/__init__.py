"""The suites: one pytest-benchmark file per operation or attack, and what only they share."""
