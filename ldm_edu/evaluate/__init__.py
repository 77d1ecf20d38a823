"""Measuring: how good pictures are, how quickly they are made, and whether a solver is of the order it claims."""
