"""The reliability claims as programs that anybody can run again: fuzz, crashtest, soak.

Each function returns a plain dictionary with ``ok`` and the figures behind it, and is repeatable
from its seed. Each has a positive control: a planted fault that must turn ``ok`` to False.
"""
