"""Parts of ``evaluate.py``."""
