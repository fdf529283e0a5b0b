"""A copy of a stack's database from its backups: looked at and thrown away (`make drill`), or taken into use (`make restore`)."""
