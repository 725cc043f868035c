"""Parts of research.py."""
