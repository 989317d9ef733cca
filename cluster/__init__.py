"""Where work runs: a Ray started here, or one that is already up."""
