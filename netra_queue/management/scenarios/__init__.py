"""The nine scenarios, played over real sockets against a real server: ``manage.py netra_queue scenarios``."""
