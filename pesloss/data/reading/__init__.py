"""From files to labelled structures: each label is found, converted and accounted for, or refused."""
