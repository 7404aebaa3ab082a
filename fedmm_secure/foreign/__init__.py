"""What somebody else's files are read with: archives, tables, arrays, tensors, YAML; each of bounded size."""
