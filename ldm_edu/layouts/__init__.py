"""How each sort of network is published: its tensors' names and its config in each format. One file a network."""
