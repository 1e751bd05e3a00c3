"""Starting, watching and ending worker processes, on this machine or on a cluster."""
