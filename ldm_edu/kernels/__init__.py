"""What only makes a CPU or a GPU quicker. No lesson needs these files: each has a plain form that is read instead."""
