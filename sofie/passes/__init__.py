"""The passes, one act a file; the name of the file is the name of the pass."""
