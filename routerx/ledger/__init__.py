"""The books: balances, holds, charges, issued keys and request rows, provable from the file alone (docs/money.md)."""
