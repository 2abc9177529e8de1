"""What a stranger's checkpoint or config may hold and do, checked before any of it is used."""
