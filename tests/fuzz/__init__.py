"""Hostile files: every reader of what others made, the law that each of them obeys, and a fuzzer that tries it."""
