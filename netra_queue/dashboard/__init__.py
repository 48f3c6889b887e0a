"""The live dashboard in the admin: figures of all processes from the store, charts of them, kept up to date.

    asking   what is asked of the store, seldom enough whoever looks
    figures  what that comes to, as JSON; only thinks
    charts   which of the figures are drawn together
    views    the page and its JSON        consumer  the same over a WebSocket

docs/dashboard.md has the shape of the JSON.
"""
