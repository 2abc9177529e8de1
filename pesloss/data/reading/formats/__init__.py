"""File formats: each gives structures one after another, however large the file is."""
