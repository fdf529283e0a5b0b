"""The comment that a reviewer reads about a preview, and the proof that a deployment does what was read."""
