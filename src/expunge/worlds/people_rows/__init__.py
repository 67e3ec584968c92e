"""The texts of world ``people``, written by rule: invented people, what they share, passages and questions."""
