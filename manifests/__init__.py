"""Contracts: what a record is, where it lies, how to open it. Imports nothing of ours."""
