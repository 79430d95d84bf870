"""Utilities: checks, files, arrays, memory and similar, which import nothing else of this package."""
