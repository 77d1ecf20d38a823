"""Training: losses, the averaged weights, a loop that is a generator of records, and one task for each network."""
