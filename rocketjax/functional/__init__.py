"""Both models as pure functions of arrays, for programs of one's own."""
