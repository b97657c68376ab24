"""Which atoms attend to which."""
