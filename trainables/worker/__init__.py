"""What every training process has, whatever it trains: it ends itself when nobody calls it any more."""
