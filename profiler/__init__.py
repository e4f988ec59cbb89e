"""Measure a fleet, fit its latency, derive accuracy, predict plans. The proxy uses `prediction` and the files it
reads.
"""
