"""Teachers: frozen networks, several as one, recorded logits, and files of other tools."""
