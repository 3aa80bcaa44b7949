"""The page that shows a batch: what is in it, its figures, its text. Rule: no module here submits anything."""
