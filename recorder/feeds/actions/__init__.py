"""Corporate actions, by provider. They belong to no stream: each is asked for by HTTP and journalled like a history."""
