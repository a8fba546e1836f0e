"""Teachers: frozen networks, combinations of several, recorded logits, and exported files."""
