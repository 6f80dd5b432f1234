"""Data sets, simulated defects, thresholds, metrics and the report: NumPy, OpenCV on use."""
