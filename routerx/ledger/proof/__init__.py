"""Proving the books from the file alone: every invariant, row by row, and what is left of pruned rows."""
