"""How fast a potential trains, here and with graph-pes: the same network, structures and batches."""
