"""The linear assignment problem: exact, certified, fast."""
