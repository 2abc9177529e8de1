"""Each project's own calls beside the names of our losses, one file a project."""
