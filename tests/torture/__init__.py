"""Long attacks on the program, each with a table at the end; `make torture` runs them, `make test` a part."""
