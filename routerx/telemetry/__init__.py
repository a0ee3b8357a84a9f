"""Metrics and structured logs. Never prompts, answers or keys."""
