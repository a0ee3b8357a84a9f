"""The tables of the books: as first laid, what each migration makes of them, and the migrations."""
