"""Inputs that are wrong as those of real users were, and the sentence that each of them must give."""
