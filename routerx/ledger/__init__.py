"""The books: balances, holds, charges, issued keys and request rows, provable from the file alone (docs/money.md).

base.py says what the rest of the program asks of them. sqlite.py answers: books.py decides in memory, ops.py and
batch.py make rows of it in writer.py's thread. schema/ has the tables, proof/ what verifies them, beside/ the files
that no money hangs on.
"""
