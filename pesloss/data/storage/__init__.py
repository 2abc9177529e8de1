"""Labelled structures and their neighbours in columns, on disk or in memory, and batches from them."""
