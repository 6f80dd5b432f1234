"""From a trained method to a bundle: export, precision, certificate."""
