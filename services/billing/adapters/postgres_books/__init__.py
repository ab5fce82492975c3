"""The books in Postgres; see migrations/0001_books.py. A module a noun."""
