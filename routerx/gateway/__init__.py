"""The road of one request: pipeline.py is the table of contents."""
