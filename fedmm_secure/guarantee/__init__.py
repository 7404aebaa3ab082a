"""What a run promises to its users: stages, the spending plan, what is published, and the statement of ε by view."""
