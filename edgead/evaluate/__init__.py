"""Data sets, simulated defects, thresholds, metrics and the report. Needs NumPy, and OpenCV on use."""
