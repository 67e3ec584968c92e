"""The texts of world ``skills``: word problems, one-line functions and reading questions, written by rule."""
