"""Long campaigns, run when they are named: ``pytest -m reliability``, or each by its command."""
