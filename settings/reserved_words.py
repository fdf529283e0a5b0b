"""The key words of SQL that PostgreSQL reserves, so that no role has one as its name."""

_WORDS = """
all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation column concurrently
constraint create cross current_catalog current_date current_role current_schema current_time current_timestamp current_user default
deferrable desc distinct do else end except false fetch for foreign freeze from full grant group having ilike in initially inner
intersect into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or order
outer overlaps placing primary references returning right select session_user similar some symmetric system_user table tablesample then
to trailing true union unique user using variadic verbose when where window with
"""
RESERVED_WORDS = frozenset(_WORDS.split())
"""Words for which ``pg_get_keywords()`` of PostgreSQL 17 says that they are reserved (R), or may only be the name of a function or type (T)."""
