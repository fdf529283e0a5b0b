"""The checks of ``make verify``. `operations.verify.checks` lists them all."""
