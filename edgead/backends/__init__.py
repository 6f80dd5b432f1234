"""Inference engines behind one seam; see `edgead.backends.base`."""
