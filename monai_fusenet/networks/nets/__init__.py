"""Whole networks, one file for each method."""
