"""The sections of BENCHMARKS.md: functions of the data folder that return Markdown."""
