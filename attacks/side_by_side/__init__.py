"""Models of one shape trained side by side, as shadow models are: many for little more than one."""
