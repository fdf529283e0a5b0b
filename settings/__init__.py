"""The settings of a stack: each with its default, its reason and its rule.

Settings are structured values under ``mlflow-eks:`` in ``Pulumi.<stack>.yaml``, camelCase there and snake_case here. Two are
required: ``cluster`` (``name`` or ``kubeContext``) and ``mlflow.host``. Everything else has a default, which is the value of the
manual guide that this program replaces unless that value is unsafe.

A section is a file. ``all_settings.py`` puts them together and holds the rules between them, ``reader.py`` reads a stack's file.
"""

PROJECT = "mlflow-eks"
"""Name of the project, and so the prefix of its settings."""
