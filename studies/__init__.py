"""Studies that were made with this software. They are kept with their data, and no other package uses them."""
