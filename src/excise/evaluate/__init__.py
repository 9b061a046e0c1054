"""Judging answers and counting them: judges, rates with intervals, drift."""
