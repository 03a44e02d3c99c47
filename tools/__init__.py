"""The commands of `allegro-tools`, one module a verb, and benchmark scripts."""
