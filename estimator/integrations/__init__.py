"""Other programs that ask for a prediction: one file a program, which imports it only when it is used."""
