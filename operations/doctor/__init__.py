"""The checks of ``make doctor``, a file for each part of a stack. `operations.doctor.checks` lists them all."""
