"""Which atoms attend to which: three layouts, one protocol."""
