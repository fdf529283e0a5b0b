"""Commands of the workflows that deploy (docs/deployments.md): what was reviewed, whether it still holds, and who left a lock."""
