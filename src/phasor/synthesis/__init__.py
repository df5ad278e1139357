"""Synthetic queries: personas, requirements, generators and the checks that decide which rows are kept."""
