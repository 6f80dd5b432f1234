"""Calibration sets, calibrators and recipes for low precision."""
