"""What operators can do: one Operations class, used by the admin API and by the CLI without a server."""
