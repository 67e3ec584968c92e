"""The texts of world ``exam``, written by rule: invented subjects, their facts, and questions with four options."""
