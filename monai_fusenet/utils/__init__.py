"""Leaves: checks, files, arrays, memory and the like, which import nothing else of this package."""
