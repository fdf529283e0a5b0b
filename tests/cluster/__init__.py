"""The unchanged program on a real cluster. docs/cluster-tests.md says what the tests need."""
