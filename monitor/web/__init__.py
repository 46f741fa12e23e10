"""The page's server: access, data, live updates and actions over HTTP."""
